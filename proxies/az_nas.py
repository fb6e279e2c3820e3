"""AZ-NAS (Lee and Ham 2024, arXiv:2403.19232): four views of a network, and their ranks over a population put together.

Networks start from normal weights of variance 2 / fan-in and see standard normal noise.  The "primary blocks" are those of the
trunk (proxies.walk.trunk): a detector's neck joins maps of several blocks and has no single order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from proxies.core import proxy
from proxies.counting import counted
from proxies.probe import Probe
from proxies.walk import run_node, trunk, walk, weighted_layers
from searchspaces import Graph, Node
from searchspaces.module import GraphModule

IMAGES = 8
SAMPLES, DRAWS = 4, 8  # of a Jacobian: at least so many positions a channel, from at most so many sign vectors
_SOURCE = "Lee and Ham 2024, AZ-NAS, arXiv:2403.19232"


@proxy(higher_is_better=True, source=_SOURCE)
def az_expressivity(model: nn.Module, probe: Probe) -> float:
    """Sum over blocks of the entropy of the principal components of their output: how evenly channels span their space."""
    return sum(_entropies(model, probe))


@proxy(higher_is_better=True, source=_SOURCE)
def az_progressivity(model: nn.Module, probe: Probe) -> float:
    """Smallest gain of that entropy from one block to the next."""
    return float(np.diff(_entropies(model, probe)).min())


@proxy(higher_is_better=True, needs={"gradient"}, source=_SOURCE)
def az_trainability(model: nn.Module, probe: Probe) -> float:
    """Mean over blocks of 2 - s - 1/s, s: the spectral norm of a block's Jacobian between channels, 1 at its best.

    The Jacobian is estimated from random sign vectors: E[J' g g'] = J' for g of -1 and +1.  One vector has too few positions for
    the many channels of small maps, where its noise would be read as a large norm of wide networks, so such blocks get several.
    """
    assert isinstance(model, GraphModule)
    blocks = set(trunk(model))
    scores: list[float] = []
    last: list[Tensor] = []

    def visit(node: Node, run: Callable[..., Tensor], inputs: list[Tensor]) -> Tensor:
        y = run_node(node, run, inputs)
        if node.name not in blocks:
            return y
        if last:
            norm = _spectral_norm(last.pop(), y, generator)
            scores.append(2 - norm - 1 / max(norm, 1e-6))
        last.append(y.detach().requires_grad_())
        return last[0]

    model.requires_grad_(False)
    noise, generator = _started(model, probe)
    walk(model, noise, visit, trunk(model)[-1:])
    return float(np.mean(scores))


@proxy(higher_is_better=True, needs={"graph"}, source=_SOURCE)
def az_complexity(graph: Graph, probe: Probe) -> float:
    """Multiply-accumulates, the fourth of the ranks that az_nas_rank puts together."""
    return float(counted(graph).macs)


PARTS = ("az_expressivity", "az_progressivity", "az_trainability", "az_complexity")


def az_nas_rank(values: Mapping[str, np.ndarray]) -> np.ndarray:
    """The AZ-NAS score of each network of a population: the sum over proxies of log(rank / size), rank 1 the worst.

    values: name -> (networks,) of PARTS, or of any proxies of which more is better; ties share the mean of their ranks.
    """
    from scipy.stats import rankdata

    return np.sum([np.log(rankdata(column) / len(column)) for column in values.values()], axis=0)


def _started(model: GraphModule, probe: Probe) -> tuple[Tensor, torch.Generator]:
    """Gives the model its start weights; returns the noise images and the generator to go on with."""
    generator = torch.Generator().manual_seed(probe.seed)
    for layer in weighted_layers(model).values():
        weight = layer.get_parameter("weight")
        with torch.no_grad():
            weight.copy_(torch.randn(weight.shape, generator=generator) * (2 / weight[0].numel()) ** 0.5)
    return torch.randn(IMAGES, *probe.images.shape[1:], generator=generator), generator


def _entropies(model: nn.Module, probe: Probe) -> list[float]:
    """Of the blocks in order, each between 0 and log(channels)."""
    assert isinstance(model, GraphModule)
    found: list[float] = []
    blocks = set(trunk(model))

    def visit(node: Node, run: Callable[..., Tensor], inputs: list[Tensor]) -> Tensor:
        y = run_node(node, run, inputs)
        if node.name in blocks:
            found.append(_component_entropy(y))
        return y

    noise, _ = _started(model, probe)
    walk(model, noise, visit, trunk(model)[-1:])
    return found


def _component_entropy(y: Tensor) -> float:
    """(N, C, H, W): entropy of the shares that principal components have in the variance over images and positions."""
    rows = y.transpose(0, 1).flatten(1)
    rows = rows - rows.mean(1, keepdim=True)
    parts = torch.linalg.eigvalsh((rows @ rows.T).double()).clamp(min=0)
    shares = parts / parts.sum().clamp(min=1e-30)
    return float(-torch.xlogy(shares, shares).sum())


def _spectral_norm(x: Tensor, y: Tensor, generator: torch.Generator) -> float:
    """Largest singular value of the Jacobian of y (N, C_out, H, W) by x (N, C_in, H_in, W_in), averaged over images and positions;
    the inputs that lie under one output position are channels of it.
    """
    stride, positions = x.shape[-1] // y.shape[-1], y[:, 0].numel()
    draws = min(DRAWS, math.ceil(SAMPLES * max(x.shape[1] * stride**2, y.shape[1]) / positions))
    jacobian = torch.zeros(x.shape[1] * stride**2, y.shape[1], dtype=torch.float64)
    for _ in range(draws):
        signs = torch.randint(0, 2, y.shape, generator=generator).to(y.dtype) * 2 - 1
        (back,) = torch.autograd.grad(y, x, signs, retain_graph=True)
        a, b = (z.transpose(0, 1).flatten(1) for z in (F.pixel_unshuffle(back, stride) if stride > 1 else back, signs))
        jacobian += (a @ b.T).double() / (positions * draws)
    gram = jacobian @ jacobian.T if len(jacobian) < jacobian.shape[1] else jacobian.T @ jacobian
    return float(torch.linalg.eigvalsh(gram)[-1].clamp(min=0).sqrt())
