"""Proxies that look at how much a random signal through the random network can tell."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from proxies.core import proxy
from proxies.probe import Probe
from proxies.scaled import Scaled, linear_step
from proxies.walk import head_inputs, walk, weighted_layers, weights_of, without_biases
from searchspaces.module import GraphModule

COARSEST = 6.0  # weight of the coarsest map against 1 of each other one: the multi-scale prior (0, 0, 1, 1, 6) of the paper
_IMAGES = 4


@proxy(higher_is_better=True, source="Sun et al. 2022, MAE-DET, arXiv:2111.13336")
def entropy(model: nn.Module, probe: Probe) -> float:
    """Multi-scale entropy: differential entropy of a Gaussian with the variance that each map of the head's input has.

    Image and weights are standard normal noise, batch-norms and biases are taken out and activations are ReLU, so that the variance
    says how deep and wide the network is; its logarithm is gathered layer by layer, as it leaves float32.  The three maps enter
    with weights 1, 1, 6, finest first; where the paper takes those of the backbone, these are behind the neck, which is
    searched too.
    """
    assert isinstance(model, GraphModule)
    generator = torch.Generator().manual_seed(probe.seed)
    for weight in weights_of(model):
        weight.copy_(torch.randn(weight.shape, generator=generator))
    without_biases(model)
    noise = torch.randn(_IMAGES, *probe.images.shape[1:], generator=generator)
    found = walk(model, Scaled(noise), linear_step(torch.relu), head_inputs(model)).values()
    entropies = [0.5 * math.log(2 * math.pi * math.e) + x.log_scale + math.log(float(x.tensor.std())) for x in found]
    return sum(entropies[:-1]) + COARSEST * entropies[-1]


@proxy(higher_is_better=True, source="Jiang et al. 2023, MeCo, NeurIPS 2023")
def meco(model: nn.Module, probe: Probe) -> float:
    """Sum over weighted layers of the smallest eigenvalue of the Pearson correlation of their output's channels, for one noise image.

    A layer with fewer positions than channels adds 0, since its correlation is singular; a constant channel counts as zeros.
    """
    assert isinstance(model, GraphModule)
    generator = torch.Generator().manual_seed(probe.seed)
    noise = torch.randn(1, *probe.images.shape[1:], generator=generator)
    smallest: list[float] = []

    def look(layer: nn.Module, inputs: tuple[Tensor, ...], y: Tensor) -> None:
        rows = y[0].flatten(1)
        if rows.shape[0] >= rows.shape[1]:
            return
        rows = (rows - rows.mean(1, keepdim=True)).double()
        rows = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)
        smallest.append(max(0.0, float(torch.linalg.eigvalsh(rows @ rows.T)[0])))

    for layer in weighted_layers(model).values():
        layer.register_forward_hook(look)
    model(noise)
    return math.fsum(smallest)
