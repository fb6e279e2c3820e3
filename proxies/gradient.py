"""Proxies that look at gradients of a network at its start weights.

All of them see the network as it is trained: rep branches open, batch-norm in train mode, at its own resolution, and those with a
loss the one that detectors are trained with (probe.loss), on IMAGES images of the probe.  "Weights" are those of convs, transposed
convs and linears.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from proxies.core import proxy
from proxies.errors import ProxyError
from proxies.probe import Probe
from proxies.scaled import Scaled, linear_step, total
from proxies.walk import walk, weighted_layers, weights_of, without_biases
from searchspaces.module import GraphModule

IMAGES = 4  # a backward pass keeps every activation: 16 images of a 480 px YOLOv7l would take 10 GB
JACOBIANS = 8  # images of jacob_cov, which compares them with one another
_SMALL = 1e-5  # keeps log and inverse of an eigenvalue finite, as in the paper's code
_ZERO_COST = "as in Abdelfattah et al. 2021, arXiv:2101.08134"


@proxy(higher_is_better=True, needs={"gradient"}, source="Abdelfattah et al. 2021, arXiv:2101.08134")
def grad_norm(model: nn.Module, probe: Probe) -> float:
    """Sum over layers of the L2 norm of the weights' gradient after one detection loss."""
    return sum(float(g.norm()) for _, g in _gradients(model, probe.first(IMAGES)))


@proxy(higher_is_better=True, needs={"gradient"}, source=f"Lee et al. 2019, SNIP, arXiv:1810.02340; {_ZERO_COST}")
def snip(model: nn.Module, probe: Probe) -> float:
    """Sum of |weight * gradient|: how much the detection loss would feel the loss of each weight."""
    return sum(float((w * g).abs().sum()) for w, g in _gradients(model, probe.first(IMAGES)))


@proxy(higher_is_better=True, needs={"gradient"}, source=f"Mozer and Smolensky 1988; {_ZERO_COST}")
def plain(model: nn.Module, probe: Probe) -> float:
    """Sum of weight * gradient, signed.  A layer that batch-norm follows adds 0: its scale does not matter to the loss."""
    return sum(float((w * g).sum()) for w, g in _gradients(model, probe.first(IMAGES)))


@proxy(higher_is_better=True, needs={"gradient"}, source=f"Wang et al. 2020, GraSP, arXiv:2002.07376; {_ZERO_COST}")
def grasp(model: nn.Module, probe: Probe) -> float:
    """Sum of -weight * (Hessian * gradient): how much the gradient flow would gain from the loss of each weight."""
    assert isinstance(model, GraphModule)
    weights = weights_of(model)
    gradients = torch.autograd.grad(probe.first(IMAGES).loss(model), weights, create_graph=True)
    flow = torch.stack([(g.detach() * g).sum() for g in gradients]).sum()
    return -sum(float((w.detach() * h).sum()) for w, h in zip(weights, torch.autograd.grad(flow, weights)))


@proxy(higher_is_better=True, needs={"gradient"}, source=f"Turner et al. 2020, BlockSwap, arXiv:1906.04113; {_ZERO_COST}")
def fisher(model: nn.Module, probe: Probe) -> float:
    """Sum over the channels of every weighted layer's output of mean over images of (sum over positions of value * gradient)^2 / 2."""
    assert isinstance(model, GraphModule)
    found: list[float] = []

    def keep(layer: nn.Module, inputs: tuple[Tensor, ...], y: Tensor) -> None:
        value = y.detach()  # a hook that held y itself would keep its whole batch in memory until a garbage collection
        y.register_hook(lambda g: found.append(float((value * g).flatten(2).sum(2).square().mean(0).sum()) / 2))

    for layer in weighted_layers(model).values():
        layer.register_forward_hook(keep)
    probe.first(IMAGES).loss(model).backward()
    return math.fsum(found)


@proxy(higher_is_better=True, needs={"gradient"}, source="Li et al. 2023, ZiCo, arXiv:2301.11300")
def zico(model: nn.Module, probe: Probe) -> float:
    """Sum over layers of log(sum over weights of mean |gradient| / standard deviation of the gradient), over two batches.

    Weights whose gradient is the same in both batches are left out, and layers of such weights alone.
    """
    assert isinstance(model, GraphModule)
    size = min(IMAGES, len(probe.images) // 2)
    first = [g.clone() for _, g in _gradients(model, probe.first(size))]
    model.zero_grad()
    value = 0.0
    for a, (_, b) in zip(first, _gradients(model, probe.after(size).first(size)), strict=True):
        std = (a - b).abs() / 2  # of two values, about their mean
        some = std > 0
        if some.any():
            value += math.log(float(((a.abs() + b.abs())[some].double() / 2 / std[some]).sum()))
    return value


@proxy(higher_is_better=True, needs={"gradient"}, source="Mellor et al. 2020, arXiv:2006.04647v1; " + _ZERO_COST)
def jacob_cov(model: nn.Module, probe: Probe) -> float:
    """How different the images' Jacobians are: -sum of log(v + k) + 1 / (v + k) over the eigenvalues v of their correlation.

    A Jacobian is the gradient of the sum of all raw maps, every level, by one image.  k = 1e-5.
    """
    assert isinstance(model, GraphModule)
    model.requires_grad_(False)
    images = probe.first(JACOBIANS).images.clone().requires_grad_()
    outputs = torch.cat([y.flatten(1) for y in model(images)], 1)
    (jacobians,) = torch.autograd.grad(outputs.sum(), images)
    rows = jacobians.flatten(1).double()
    rows = rows - rows.mean(1, keepdim=True)
    norms = rows.norm(dim=1, keepdim=True)
    if not bool((norms > 0).all()):
        raise ProxyError(f"image {int(norms[:, 0].argmin())} of the probe does not move the output")
    rows = rows / norms
    shifted = torch.linalg.eigvalsh(rows @ rows.T) + _SMALL
    return -float((shifted.log() + 1 / shifted).sum())


@proxy(higher_is_better=True, needs={"gradient"}, source="Tanaka et al. 2020, SynFlow, arXiv:2006.05467")
def synflow(model: nn.Module, probe: Probe) -> float:
    """Log of the sum of |weight * dR/dweight|, R: the sum of all raw maps for an image of ones and the weights' absolute values.

    The network is made linear as in the paper: batch-norms and biases are taken out, and an activation hands positive values on
    as they are (exact for ReLU; SiLU and Hardswish get there for the large values that flow here).  R is 1e150 in a
    YOLOv6l of 480 px, so every tensor carries the logarithm of a factor taken out of it.
    """
    assert isinstance(model, GraphModule)
    weights = weights_of(model)
    with torch.no_grad():
        for w in model.parameters():
            w.abs_()
    without_biases(model)
    ones = torch.ones_like(probe.images[:1])
    flow, log_scale = total(list(walk(model, Scaled(ones), linear_step(lambda x: x)).values()))
    summed = math.fsum(float((w.detach() * g).sum()) for w, g in zip(weights, torch.autograd.grad(flow, weights)))
    return log_scale + math.log(summed)


@proxy(higher_is_better=True, source=_ZERO_COST)
def l2_norm(model: nn.Module, probe: Probe) -> float:
    """Sum over layers of the L2 norm of the start weights; sees no image."""
    assert isinstance(model, GraphModule)
    return sum(float(w.norm()) for w in weights_of(model))


def _gradients(model: nn.Module, probe: Probe) -> list[tuple[Tensor, Tensor]]:
    """(weights, their gradient after one detection loss) of every layer."""
    assert isinstance(model, GraphModule)
    weights = weights_of(model)
    return list(zip([w.detach() for w in weights], torch.autograd.grad(probe.loss(model), weights)))
