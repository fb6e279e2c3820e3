"""Rounding as noise: how large it is, and what a loss makes of it, by theory and by measurement.

Rounding to a grid of step s leaves an error that is close to uniform in (-s/2, s/2), of variance s^2 / 12, as long as the grid is fine
and reaches as far as the weights.  To second order a loss then rises by sum_i s_i^2 / 24 H_ii: quantization-aware training descends on a
loss with that much more curvature penalty (QReg, arXiv:2206.12372; QGen, arXiv:2404.11769).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from searchspaces.fakequant import WeightQuantizer

Tensors = Mapping[str, Tensor]  # weights or steps of layers, by name
Loss = Callable[[Tensors], Tensor]  # of a net with these weights
_TOUCHING = 1 + 1e-4  # half steps that are still no clipping: a weight between two levels, in floats


@dataclass(frozen=True)
class Noise:
    """Rounding noise of some weights.  `inside` and `inside_predicted` are of those alone that the grid reaches."""

    predicted: float  # mean of s^2 / 12
    measured: float  # mean squared error of rounding
    inside_predicted: float
    inside: float
    clipped: float  # share of the weights beyond the grid by more than half a step
    weights: int

    @property
    def ratio(self) -> float:
        return self.measured / self.predicted

    @property
    def inside_ratio(self) -> float:
        """1 where the reached weights are rounded as uniform noise would have it; nan where none is reached."""
        return self.inside / self.inside_predicted if self.inside_predicted else float("nan")

    @property
    def sampling(self) -> float:
        """Relative standard error of a ratio for so many weights: the squares of a uniform variable spread by sqrt(4/5) of their mean."""
        return (0.8 / (self.weights * (1 - self.clipped))) ** 0.5 if self.clipped < 1 else float("inf")


@dataclass(frozen=True, eq=False)
class Rounding:
    """A layer's weights, what they are rounded to, and the distance of neighbouring levels; tensors of one shape."""

    weight: Tensor
    rounded: Tensor
    step: Tensor

    @property
    def noise(self) -> Noise:
        error, variance = (self.rounded - self.weight).double(), self.step.double().square() / 12
        reached = error.abs() <= self.step.double() / 2 * _TOUCHING
        some = bool(reached.any())
        return Noise(
            predicted=float(variance.mean()),
            measured=float(error.square().mean()),
            inside_predicted=float(variance[reached].mean()) if some else 0.0,
            inside=float(error[reached].square().mean()) if some else 0.0,
            clipped=1 - float(reached.double().mean()),
            weights=error.numel(),
        )


@torch.no_grad()
def rounding(weight: Tensor, quantizer: WeightQuantizer) -> Rounding:
    """By a quantizer's own steps.  At one bit the levels -s and s lie two scales apart."""
    shape = [-1 if axis == quantizer.axis else 1 for axis in range(weight.dim())]
    step = quantizer.log_scale.exp().view(shape) * (2 if quantizer.bits == 1 else 1)
    return Rounding(weight.detach(), quantizer(weight).detach(), step.expand_as(weight))


def fitted_rounding(weight: Tensor, wbits: int, axis: int = 0) -> Rounding:
    """On the grid of least squared error for each channel of `axis`."""
    quantizer = WeightQuantizer(wbits, weight.shape[axis], axis)
    quantizer.fit(weight)
    return rounding(weight, quantizer)


def pooled(noises: list[Noise]) -> Noise:
    """The noise of several layers as that of one with all their weights."""
    count = sum(n.weights for n in noises)
    reached = sum(n.weights * (1 - n.clipped) for n in noises)

    def mean(name: str) -> float:
        return sum(getattr(n, name) * n.weights for n in noises) / count

    def mean_inside(name: str) -> float:
        return sum(getattr(n, name) * n.weights * (1 - n.clipped) for n in noises) / reached if reached else 0.0

    return Noise(mean("predicted"), mean("measured"), mean_inside("inside_predicted"), mean_inside("inside"), mean("clipped"), count)


def predicted_rise(diagonals: Tensors, steps: Tensors) -> float:
    """sum_i s_i^2 / 24 H_ii: the rise of a loss by uniform noise, to second order.  `diagonals` as by hessian_diagonals."""
    return sum(float((steps[name].square() * diagonal).sum()) for name, diagonal in diagonals.items()) / 24


def first_order_spread(gradients: Tensors, steps: Tensors) -> float:
    """Standard deviation of g u over u uniform in (-s/2, s/2): sqrt(sum_i s_i^2 / 12 g_i^2)."""
    return (sum(float((steps[name] * gradient).square().sum()) for name, gradient in gradients.items()) / 12) ** 0.5


@torch.no_grad()
def uniform_rise(loss: Loss, weights: Tensors, steps: Tensors, *, pairs: int, seed: int = 0) -> tuple[float, float]:
    """(mean, standard error) of loss(w + u) - loss(w) over u uniform in (-s/2, s/2), in pairs of u and -u: what the loss has of first
    order cancels in a pair.
    """
    generator = torch.Generator().manual_seed(seed)
    before = float(loss(weights))
    rises = []
    for _ in range(pairs):
        noise = {name: (torch.rand(w.shape, generator=generator).to(w) - 0.5) * steps[name] for name, w in weights.items()}
        above, below = (float(loss({name: w + sign * noise[name] for name, w in weights.items()})) for sign in (1, -1))
        rises.append((above + below) / 2 - before)
    values = torch.tensor(rises, dtype=torch.float64)
    return float(values.mean()), float(values.std() / pairs**0.5)


@torch.no_grad()
def rounded_rise(loss: Loss, roundings: Mapping[str, Rounding]) -> float:
    """What the loss really rises by when the weights are rounded: one draw, with its part of first order and with what is clipped."""
    return float(loss({n: r.rounded for n, r in roundings.items()})) - float(loss({n: r.weight for n, r in roundings.items()}))
