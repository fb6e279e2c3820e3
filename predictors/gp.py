"""An exact Gaussian process over network traits: power laws, plus a smooth residual that fades away from what was measured.

Rasmussen and Williams 2006, Gaussian Processes for Machine Learning, chapters 2, 4.2 (Matern 5/2, ARD) and 5.4 (marginal likelihood).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import cho_factor, cho_solve, lapack
from scipy.optimize import minimize

Vector = np.ndarray[tuple[int], np.dtype[np.float64]]
Matrix = np.ndarray[tuple[int, int], np.dtype[np.float64]]

LEVEL = 10.0  # standard deviation of the constant, in logs: nothing is known of how fast a device is
_SCALARS = 3  # log of the residual's height, of the kinship's and of the noise
_ITERATIONS = 60


@dataclass(frozen=True)
class Kernel:
    """Covariance of log times.  All logs: slopes (traits,) are deviations of the power law's exponents, scales (traits,) the lengths
    over which the residual varies, in standard deviations of a trait.

    k(x, x') = LEVEL^2 + sum_i slope_i^2 x_i x'_i + height^2 matern52(|(x - x') / scale|) + kinship^2 z z', and noise^2 on the diagonal
    """

    slopes: Vector
    scales: Vector
    height: float
    kinship: float
    noise: float

    def between(self, x: Matrix, z: Matrix, other_x: Matrix, other_z: Matrix) -> Matrix:
        """(n, m) covariances of noiseless log times; x are traits, z the log times of relatives (no columns where there are none)."""
        return LEVEL**2 + (x * np.exp(2 * self.slopes)) @ other_x.T + np.exp(2 * self.kinship) * (z @ other_z.T) + self.residual(x, other_x)

    def residual(self, x: Matrix, other: Matrix) -> Matrix:
        root = np.sqrt(5 * _squares(x * np.exp(-self.scales), other * np.exp(-self.scales)))
        return np.exp(2 * self.height) * (1 + root + root**2 / 3) * np.exp(-root)

    def variance(self, x: Matrix, z: Matrix) -> Vector:
        return LEVEL**2 + x**2 @ np.exp(2 * self.slopes) + np.exp(2 * self.kinship) * (z**2).sum(1) + np.exp(2 * self.height)

    def packed(self) -> Vector:
        return np.concatenate([self.slopes, self.scales, [self.height, self.kinship, self.noise]])

    @staticmethod
    def unpacked(values: Vector) -> Kernel:
        traits = (len(values) - _SCALARS) // 2
        height, kinship, noise = (float(value) for value in values[2 * traits :])
        return Kernel(values[:traits], values[traits : 2 * traits], height, kinship, noise)


@dataclass(frozen=True)
class Prior:
    """What is believed of a kernel before a device is measured: middle and standard deviation of every log."""

    middle: Kernel
    spread: Kernel


def prior(traits: int, slope: float) -> Prior:
    """`slope`: the exponent of a trait, in logs of ms per spread, that the mean does not know of."""
    middle = Kernel(np.full(traits, np.log(slope)), np.full(traits, np.log(8.0)), np.log(0.2), np.log(0.5), np.log(0.02))
    return Prior(middle, Kernel(np.full(traits, 0.7), np.full(traits, 0.7), 0.7, 0.7, 0.5))


@dataclass(frozen=True)
class Process:
    """A fitted process: what was measured, and its weights.  `noise` is part of the kernel."""

    kernel: Kernel
    x: Matrix
    z: Matrix
    weights: Vector  # (n,): K^-1 y
    factor: tuple[Any, bool]  # of K

    def mean(self, x: Matrix, z: Matrix) -> Vector:
        return self.kernel.between(x, z, self.x, self.z) @ self.weights

    def sd(self, x: Matrix, z: Matrix) -> Vector:
        """Of a measurement, noise included."""
        across = self.kernel.between(x, z, self.x, self.z)
        explained = (across * cho_solve(self.factor, across.T).T).sum(1)
        return np.sqrt(np.maximum(self.kernel.variance(x, z) - explained, 0.0) + np.exp(2 * self.kernel.noise))


def process(x: Matrix, z: Matrix, y: Vector, kernel: Kernel) -> Process:
    """Raises numpy's LinAlgError where the covariance of the rows is not positive definite."""
    covariance = kernel.between(x, z, x, z) + np.exp(2 * kernel.noise) * np.eye(len(y))
    factor = cho_factor(covariance, lower=True)
    return Process(kernel, x, z, cho_solve(factor, y), factor)


def sought(x: Matrix, z: Matrix, y: Vector, prior: Prior, most: int = 400) -> Kernel:
    """The most probable kernel given log times y (n,), on `most` of the rows where there are more."""
    if len(y) > most:
        some = np.linspace(0, len(y) - 1, most).astype(int)
        x, z, y = x[some], z[some], y[some]
    return _sought(x, z, y, prior)


def _sought(x: Matrix, z: Matrix, y: Vector, prior: Prior) -> Kernel:
    start = prior.middle.packed()
    bounds = [(-14.0, 6.0)] * len(start)
    found = minimize(objective(x, z, y, prior), start, jac=True, method="L-BFGS-B", options={"maxiter": _ITERATIONS}, bounds=bounds)
    return Kernel.unpacked(found.x)


def objective(x: Matrix, z: Matrix, y: Vector, prior: Prior) -> Callable[[Vector], tuple[float, Vector]]:
    """Packed kernel -> the negative log of its posterior probability, up to a constant, and its gradient."""
    middle, spread = prior.middle.packed(), prior.spread.packed()
    linear, square, related = x.T.copy(), _Differences(x), z @ z.T

    def loss(values: Vector) -> tuple[float, Vector]:
        kernel = Kernel.unpacked(values)
        slopes, height, kinship = np.exp(2 * kernel.slopes), np.exp(2 * kernel.height), np.exp(2 * kernel.kinship)
        root = np.sqrt(5 * square.sum(np.exp(-2 * kernel.scales)))
        fading = np.exp(-root)
        bump, kin = height * (1 + root + root**2 / 3) * fading, kinship * related
        covariance = LEVEL**2 + (x * slopes) @ x.T + kin + bump + np.exp(2 * kernel.noise) * np.eye(len(y))
        try:
            factor = cho_factor(covariance, lower=True)
        except np.linalg.LinAlgError:
            return 1e12, np.zeros(len(values))
        weights, inverse = cho_solve(factor, y), _inverse(factor[0])
        pull = inverse - np.outer(weights, weights)
        steep = pull * (height * 5 / 3 * (1 + root) * fading)
        gradient = np.concatenate([
            slopes * ((linear @ pull) * linear).sum(1),
            0.5 * np.exp(-2 * kernel.scales) * square.weighted(steep),
            [(pull * bump).sum(), (pull * kin).sum(), np.exp(2 * kernel.noise) * np.trace(pull)],
        ])
        off = (values - middle) / spread
        value = 0.5 * y @ weights + np.log(np.diag(factor[0])).sum() + 0.5 * off @ off
        return float(value), gradient + off / spread

    return loss


class _Differences:
    """Squared differences of n rows, trait by trait, kept as rows: (n, n, traits) is never built."""

    def __init__(self, x: Matrix) -> None:
        self.x = x

    def sum(self, weights: Vector) -> Matrix:
        """(n, n): sum over traits of weights_i (a_i - b_i)^2."""
        scaled = self.x * np.sqrt(weights)
        return _squares(scaled, scaled)

    def weighted(self, pairs: Matrix) -> Vector:
        """(traits,): sum over all pairs of rows, each times its entry of the symmetric `pairs`."""
        return 2 * (pairs.sum(0) @ self.x**2 - (self.x * (pairs @ self.x)).sum(0))


def _squares(a: Matrix, b: Matrix) -> Matrix:
    return np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T, 0.0)


def _inverse(lower: Matrix) -> Matrix:
    inverse, _ = lapack.dpotri(lower, lower=1)
    return np.tril(inverse) + np.tril(inverse, -1).T
