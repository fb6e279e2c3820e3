"""Laws with a Gaussian process in them: on what the sums leave over, and on power laws of traits and related devices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from hwmodels.laws import Law
from hwmodels.profile import TRAITS, Matrix, Vector
from predictors.forest import boosted
from predictors.gp import LEVEL, Kernel, Process, prior, process, sought
from predictors.network_sums import network_sums
from predictors.rows import Rows

POINTS = 200  # of a law; of more measurements those are kept from which all others follow best
_ALONE = 0.1  # spread of the exponents around a mean that knows MACs alone
_KIN = 0.03  # ... around a mean that knows other devices
_NONE = 1e-6
_JITTER = 1e-9


@dataclass(frozen=True)
class Fitted:
    """A law, and the kernel that was found for it where it has one."""

    law: Law
    kernel: Kernel | None = None


def sums(rows: Rows, log_ms: Vector, kernel: Kernel | None = None) -> Fitted:
    return Fitted(network_sums(rows, log_ms))


def sums_and_process(rows: Rows, log_ms: Vector, kernel: Kernel | None = None) -> Fitted:
    """Non-negative sums, and a residual that fades away from what was measured; `kernel` where it was sought before."""
    core = network_sums(rows, log_ms)
    left, no_kin = log_ms - rows.log_ms([core]), np.zeros((len(rows), 0))
    kernel = kernel or sought(rows.seen, no_kin, left, prior(len(TRAITS), _NONE))
    fitted = process(rows.seen, no_kin, left, kernel)
    return Fitted(msgspec.structs.replace(core, constant=LEVEL**2 * float(fitted.weights.sum()), **_points(fitted)), kernel)


def power_law(rows: Rows, log_ms: Vector, kernel: Kernel | None = None) -> Fitted:
    """A power law of traits and of the times on related devices (or of MACs alone where there are none), and a residual."""
    z, centre = rows.kin_matrix, _centre(rows)
    mean = z.mean(axis=1) if rows.kin else rows.log_ms([Law(weight=1.0, costs={"macs": 1.0})])
    level = float((log_ms - mean).mean())
    left = log_ms - mean - level
    kernel = kernel or sought(rows.seen, z - centre, left, prior(len(TRAITS), _KIN if rows.kin else _ALONE))
    fitted = process(rows.seen, z - centre, left, kernel)
    slopes = np.exp(2 * kernel.slopes) * (fitted.x.T @ fitted.weights)
    exponents = np.exp(2 * kernel.kinship) * (fitted.z.T @ fitted.weights)
    law = Law(
        weight=1.0,
        costs={} if rows.kin else {"macs": 1.0},
        constant=level + LEVEL**2 * float(fitted.weights.sum()) - float(exponents @ centre),
        slopes=dict(zip(TRAITS, slopes.tolist())),
        kin={name: 1 / len(rows.kin) + exponent for name, exponent in zip(rows.kin, exponents.tolist())},
        **_points(fitted),
    )
    return Fitted(law, kernel)


def deviations(rows: Rows, kernel: Kernel, asked: Rows) -> Vector:
    """(n,) standard deviations, in logs, of the times of `asked` under the power law measured on `rows`; they hang on no time."""
    centre = _centre(rows)
    fitted = process(rows.seen, rows.kin_matrix - centre, np.zeros(len(rows)), kernel)
    return fitted.sd(asked.seen, asked.kin_matrix - centre)


def _centre(rows: Rows) -> Vector:
    """(relatives,)."""
    return rows.kin_matrix.mean(axis=0)


def sums_and_trees(rows: Rows, log_ms: Vector, kernel: Kernel | None = None) -> Fitted:
    core = network_sums(rows, log_ms)
    return Fitted(msgspec.structs.replace(core, trees=boosted(rows.seen, log_ms - rows.log_ms([core]))))


def _points(fitted: Process) -> dict[str, Any]:
    """Fields of a law: its points, their weights and the scales; the same function at every measurement, of at most POINTS points."""
    kernel, x, weights = fitted.kernel, fitted.x, np.exp(2 * fitted.kernel.height) * fitted.weights
    if len(x) > POINTS:
        near = kernel.residual(x, x) / np.exp(2 * kernel.height)
        kept = _pivots(near, POINTS)
        across, among = near[:, kept], near[np.ix_(kept, kept)]
        weights = np.linalg.solve(across.T @ across + _JITTER * len(x) * among, across.T @ (near @ weights))
        x = x[kept]
    scales = dict(zip(TRAITS, np.exp(kernel.scales).tolist()))
    return {"points": tuple(map(tuple, x.tolist())), "weights": tuple(weights.tolist()), "scales": scales}


def _pivots(covariance: Matrix, count: int) -> list[int]:
    """Rows from which the others follow best, by pivoted Cholesky (Harbrecht et al. 2012, doi:10.1016/j.apnum.2011.10.001)."""
    left, factor, kept = np.diag(covariance).copy(), np.zeros((len(covariance), count)), []
    for i in range(count):
        best = int(np.argmax(left))
        kept.append(best)
        factor[:, i] = (covariance[:, best] - factor[:, :i] @ factor[best, :i]) / np.sqrt(max(left[best], 1e-12))
        left = np.maximum(left - factor[:, i] ** 2, 0.0)
        left[best] = -1.0
    return kept
