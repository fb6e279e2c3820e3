"""Proxies that look at the activations of a network at its start weights: how well their signs tell images apart."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from proxies.core import proxy
from proxies.errors import ProxyError
from proxies.probe import Probe
from proxies.walk import merged, run_node, walk, weighted_layers
from searchspaces import Node
from searchspaces.fakequant import set_mode
from searchspaces.module import GraphModule

SIDE = 96  # images of a larger network are shrunk to this; see nwot_conv
_EXACT_BITS = 24  # float32 holds every integer of so many bits
_MOST = 31  # images of swap: with their mirror images the signs fit an int64


@proxy(higher_is_better=True, source="Mellor et al. 2021, arXiv:2006.04647")
def nwot(model: nn.Module, probe: Probe) -> float:
    """Log-determinant of how much the images of a batch agree in the signs of all activation inputs, rep branches merged first.

    probe.images is (N, 3, H, W) float32 in [0, 1].  K[i, j] counts the activation inputs at which images i and j have one sign; the
    value is log |K|, in float64, with batch-norm in train mode.  Large images and the merging as in nwot_conv.  On YOLOBench (968
    networks, VOC from scratch) Kendall's tau is .84, and .79 with open branches.
    """
    return _log_determinant(model, probe, lambda net: {node.inputs[0] for node in net.graph.of("activation")})


@proxy(higher_is_better=True, source="Mellor et al. 2021, arXiv:2006.04647; on conv outputs: arXiv:2307.13901")
def nwot_conv(model: nn.Module, probe: Probe) -> float:
    """nwot on the signs of all conv, transposed conv and linear outputs, rep branches merged first.

    K grows with the number of outputs, which grows with the area of the image: a network with a side above 96 is run at 96 and
    N * log(area ratio) is added, in a sixth of the time.  On 55 networks of YOLOBench at 160 to 480 px that
    differs from the value at full size by .2 +- .3 and ranks them alike (tau .987).  Fake-quantizers are switched off.

    Branches merged or open are one function after training; before it, what merging gives hangs on the batch-norm statistics.  They
    are those after one batch in train mode.  On YOLOBench (as in nwot) tau is .84; .82 with statistics untouched, .78 with
    those of the batch in full, and .69 on 141 networks with the open branches counted one by one.
    """
    return _log_determinant(model, probe, lambda net: set(weighted_layers(net)))


@proxy(higher_is_better=True, source="Peng et al. 2024, SWAP-NAS, arXiv:2403.04161")
def swap(model: nn.Module, probe: Probe) -> float:
    """Sample-wise activation patterns: number of distinct sign patterns over the batch that any activation input shows.

    A pattern is the signs of one activation input for every image and its mirror image: 16 images alone have 2^16 patterns, and any
    detector shows nearly all of them.  At most 31 images are looked at.
    """
    assert isinstance(model, GraphModule)
    images = probe.first(_MOST).images
    patterns: list[Tensor] = []

    def add(signs: Tensor) -> None:
        place = 2.0 ** torch.arange(_EXACT_BITS)
        parts = [(place[: len(part)] @ part).long() << i * _EXACT_BITS for i, part in enumerate(signs.split(_EXACT_BITS))]
        patterns.append(torch.stack(parts).sum(0).unique())

    watch_signs(model, torch.cat([images, images.flip(3)]), {node.inputs[0] for node in model.graph.of("activation")}, add)
    return float(len(torch.cat(patterns).unique()))


def watch_signs(model: GraphModule, images: Tensor, names: set[str], add: Callable[[Tensor], None]) -> None:
    """One forward pass; `add` gets the signs of each node in `names` as (N, D) float32, 1 where the value is positive."""
    set_mode(model, "off")

    def visit(node: Node, run: Callable[..., Tensor], inputs: list[Tensor]) -> Tensor:
        y = run_node(node, run, inputs)
        if node.name in names:
            for part in (y > 0).flatten(1).split(2**_EXACT_BITS - 1, 1):
                add(part.float())
        return y

    walk(model, images, visit)


def _log_determinant(model: nn.Module, probe: Probe, layers: Callable[[GraphModule], set[str]]) -> float:
    """log |K| of the signs of the outputs of `layers` of the merged net, at side 96 where a stride divides the network's own."""
    assert isinstance(model, GraphModule)
    small = probe.shrunk(SIDE)
    n = len(small.images)
    kernel = torch.zeros(n, n, dtype=torch.float64)

    def add(signs: Tensor) -> None:
        both = (signs @ signs.T).double()
        ones = both.diagonal()
        kernel.add_(signs.shape[1] - ones - ones[:, None] + 2 * both)  # both positive or both not

    net = merged(model, small.images)
    watch_signs(net, small.images, layers(net), add)
    sign, value = np.linalg.slogdet(kernel.numpy())
    if sign <= 0:
        raise ProxyError("two probe images give the same signs everywhere: use different images")
    return float(value + n * np.log((probe.side / small.side) ** 2))
