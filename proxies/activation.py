"""Proxies that look at activations of the network at its start weights."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from proxies.core import proxy
from proxies.errors import ProxyError
from proxies.probe import STRIDE, Probe
from searchspaces.fakequant import set_mode
from searchspaces.module import GraphModule, to_torch
from searchspaces.rewrite import merge_rep

SIDE = 96  # images of a larger network are shrunk to this; see nwot


@proxy(higher_is_better=True, source="Mellor et al. 2021, arXiv:2006.04647; on conv outputs: arXiv:2307.13901")
def nwot(model: nn.Module, probe: Probe) -> float:
    """Log-determinant of how much the images of a batch agree in the signs of all conv outputs, rep branches merged first.

    probe.images is (N, 3, H, W) float32 in [0, 1].  K[i, j] counts the conv outputs at which images i and j have one sign; the
    value is log |K|, in float64, with batch-norm in train mode.  K grows with the number of outputs, which grows with the area
    of the image: a network with a side above 96 is run at 96 and N * log(area ratio) is added.  On three YOLOv8 sizes at 160 to
    480 px that stays within .5 of the value at full size, about what another seed changes, in a fraction of the time.
    Fake-quantizers are switched off.
    """
    assert isinstance(model, GraphModule)
    if any(node.get("rep") for node in model.graph.of("add")):
        model = to_torch(*merge_rep(model.graph, model.weights())).train()
    set_mode(model, "off")
    # A side that no stride divides may hold concats which only fit at that side.
    small = probe.at(SIDE) if probe.side > SIDE and probe.side % STRIDE == 0 else probe
    n = len(small.images)
    kernel = torch.zeros(n, n, dtype=torch.float64)

    def add_codes(layer: nn.Module, inputs: tuple[Tensor, ...], outputs: Tensor) -> None:
        signs = (outputs.flatten(1) > 0).float().mul_(2).sub_(1)  # (N, D) of -1 and +1: exact sums below 2^24 outputs
        kernel.add_((signs @ signs.T).double().add_(signs.shape[1]).mul_(0.5))

    convs = [model.layers[node.name.replace(".", "/")] for node in model.graph.of("conv2d", "conv_transpose2d")]
    hooks = [conv.register_forward_hook(add_codes) for conv in convs]
    model(small.images)
    for hook in hooks:
        hook.remove()
    sign, value = np.linalg.slogdet(kernel.numpy())
    if sign <= 0:
        raise ProxyError("two probe images give the same signs everywhere: use different images")
    return float(value + n * np.log((probe.side / small.side) ** 2))
