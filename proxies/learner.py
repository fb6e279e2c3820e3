"""Learners of accuracy from a few labelled networks, and rank aggregation, which needs no label.

Both models see logit(accuracy) and features standardized over a pool of networks, labelled or not.
  Monotone  additive, concave and monotone in every feature: what it cannot say, a search cannot exploit, and it extrapolates
  Process   Gaussian process; its kernel says that networks alike as a whole, or alike in architecture, or alike in resolution
            have like accuracies: logit(mAP) is nearly a term of the architecture plus a term of the resolution
`learn` averages the two, whose errors differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from scipy.optimize import nnls
from scipy.stats import rankdata

from proxies.errors import ProxyError
from proxies.ranking import Values
from proxies.structure import FEATURES, Feature, Matrix

KNOTS = (0.25, 0.5, 0.75)  # quantiles of the pool at which the slope of a feature may fall
RIDGE = 0.01  # per label, on standardized features
NOISE = 0.003  # variance of a label beside that of the kernel: one training seed moves logit(mAP) by about .02
LENGTHS = (2.0, 3.0, 1.0)  # of the whole, the architecture, the resolution; in standard deviations a feature, root mean square
EXTENSION = 0.75  # features may leave the pool's range by this share of its width, then they count no further
_EDGE = 1e-3  # accuracies this close to 0 or 1 count as this close


@dataclass(frozen=True)
class Monotone:
    """A value in 0..1: expit(intercept + sum over features f of the concave, monotone pieces of f).

    One entry a feature in `names`, `signs` (-1: less is better), `mean`, `std`, `low`, `high` (the pool's range, standardized and
    signed) and, K entries each, `knots`; `weights` has 1 + K an entry, all at least 0: of z, and of min(z - knot, 0).
    """

    names: tuple[str, ...]
    signs: tuple[float, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    knots: tuple[tuple[float, ...], ...]
    weights: tuple[tuple[float, ...], ...]
    intercept: float
    source: str

    def logit(self, x: Matrix) -> Values:
        z = (x - np.array(self.mean)) / np.array(self.std) * np.array(self.signs)
        low, high = np.array(self.low), np.array(self.high)
        reach = EXTENSION * (high - low)
        basis = _pieces(np.clip(z, low - reach, high + reach), np.array(self.knots))
        return self.intercept + np.einsum("nfk,fk->n", basis, np.array(self.weights))

    def __call__(self, x: Matrix) -> Values:
        """(networks,) from (networks, features)."""
        return expit(self.logit(x))


def _pieces(z: Matrix, knots: Matrix) -> np.ndarray:
    """(n, features, 1 + K): the feature itself, and its shortfall below each knot."""
    return np.concatenate([z[:, :, None], np.minimum(z[:, :, None] - knots, 0)], axis=2)


def fit_monotone(x: Matrix, accuracy: Values, pool: Matrix | None = None, features: Sequence[Feature] = FEATURES, *,
                 slopes: Mapping[str, float] = MappingProxyType({}), ridge: float = RIDGE, source: str = "") -> Monotone:  # fmt: skip
    """Non-negative least squares on the pieces.  x: (labels, features); `pool` (networks, features) gives scale, range and knots.

    `slopes`: d logit(accuracy) / d feature where that is known from elsewhere, of the feature's sign; the rest is fitted to what is left.
    """
    x, pool, target = _checked(x, accuracy, x if pool is None else pool, features)
    mean, std = _scale(pool)
    signs = np.array([1.0 if feature.rises else -1.0 for feature in features])
    known, all_z = (x - mean) / std * signs, (pool - mean) / std * signs
    knots = np.quantile(all_z, KNOTS, axis=0).T
    basis = _pieces(known, knots).reshape(len(x), -1)
    centre = basis.mean(0)
    given = np.zeros((len(features), 1 + len(KNOTS)))
    given[:, 0] = np.array([slopes.get(feature.name, 0.0) for feature in features]) * std * signs
    fitted = np.repeat([feature.name not in slopes for feature in features], 1 + len(KNOTS))
    left = target - basis @ given.ravel()
    penalty = np.sqrt(ridge * len(x)) * np.eye(basis.shape[1])
    weights, _ = nnls(np.vstack([(basis - centre) * fitted, penalty]), np.concatenate([left - left.mean(), np.zeros(len(centre))]))
    weights += given.ravel()
    return Monotone(
        tuple(feature.name for feature in features), tuple(signs.tolist()), tuple(mean.tolist()), tuple(std.tolist()),
        tuple(all_z.min(0).tolist()), tuple(all_z.max(0).tolist()), tuple(map(tuple, knots.tolist())),
        tuple(map(tuple, weights.reshape(len(features), -1).tolist())), float(target.mean() - centre @ weights), source,
    )  # fmt: skip


@dataclass(frozen=True)
class Process:
    """A fitted Gaussian process; `parts` are the labelled networks as each part of the kernel sees them, `weights` one a label."""

    mean: Values
    std: Values
    features: tuple[Feature, ...]
    parts: tuple[Matrix, ...]
    weights: Values
    intercept: float

    def logit(self, x: Matrix) -> Values:
        return self.intercept + _kernel(_parts((x - self.mean) / self.std, self.std, self.features), self.parts) @ self.weights


def _parts(z: Matrix, std: Values, features: Sequence[Feature]) -> tuple[Matrix, ...]:
    """The whole, the architecture without its resolution, the resolution; each divided by its length.  z: standardized."""
    size = [feature.name for feature in features].index("log_resolution")
    free = np.stack([  # a count is divided by the area of the image: its log less twice that of the side
        z[:, i] - (2 * std[size] / std[i] * z[:, size] if feature.per_pixel else 0.0)
        for i, feature in enumerate(features) if feature.scale_free
    ], axis=1)  # fmt: skip
    return tuple(part / (length * np.sqrt(part.shape[1])) for part, length in zip((z, free, z[:, [size]]), LENGTHS))


def _kernel(a: tuple[Matrix, ...], b: tuple[Matrix, ...]) -> Matrix:
    total = np.zeros((len(a[0]), len(b[0])))
    for left, right in zip(a, b):
        squared = (left**2).sum(1)[:, None] + (right**2).sum(1) - 2 * left @ right.T
        total += np.exp(-np.maximum(squared, 0) / 2) / len(a)
    return total


def fit_process(x: Matrix, accuracy: Values, pool: Matrix | None = None, features: Sequence[Feature] = FEATURES) -> Process:
    """Nothing is tuned on the labels: with a few tens of them, fitted length scales rank unseen families worse than fixed ones."""
    x, pool, target = _checked(x, accuracy, x if pool is None else pool, features)
    mean, std = _scale(pool)
    parts = _parts((x - mean) / std, std, features)
    covariance = _kernel(parts, parts) + NOISE * np.eye(len(x))
    return Process(mean, std, tuple(features), parts, np.linalg.solve(covariance, target - target.mean()), float(target.mean()))


@dataclass(frozen=True)
class Combination:
    """Accuracy in 0..1 from features: the mean of both models' logits."""

    monotone: Monotone
    process: Process

    def __call__(self, x: Matrix) -> Values:
        """(networks,) from (networks, features)."""
        return expit((self.monotone.logit(x) + self.process.logit(x)) / 2)


def learn(x: Matrix, accuracy: Values, pool: Matrix | None = None, features: Sequence[Feature] = FEATURES) -> Combination:
    """Learns from labels (two are the least, thirty are good): x (labels, features), accuracy (labels,) in 0..1.

    pool: (networks, features) of all networks to be ranked, whose spread standardizes the features; no labels of theirs are needed.
    features: what the columns are; proxies join as further columns.
    """
    return Combination(fit_monotone(x, accuracy, pool, features), fit_process(x, accuracy, pool, features))


def aggregated(values: Sequence[Values], higher_is_better: Sequence[bool]) -> Values:
    """Ranks of several proxies as one, without labels: sum of logs of rank / n, which a single bad rank pulls down most
    (Lee and Ham 2024, arXiv:2403.19232).  values: per proxy (networks,).
    """
    if not values or len(values) != len(higher_is_better):
        raise ProxyError(f"{len(values)} proxies and {len(higher_is_better)} directions: one each, at least one")
    table = np.array(values, dtype=np.float64)
    if not np.isfinite(table).all():
        raise ProxyError("ranks need finite values")
    signed = table * np.where(higher_is_better, 1.0, -1.0)[:, None]
    return np.log(rankdata(signed, axis=1) / table.shape[1]).sum(0)


def expit(x: Values) -> Values:
    return 1 / (1 + np.exp(-x))


def _scale(pool: Matrix) -> tuple[Values, Values]:
    std = pool.std(0)
    return pool.mean(0), np.where(std > 0, std, 1.0)


def _checked(x: Matrix, accuracy: Values, pool: Matrix, features: Sequence[Feature]) -> tuple[Matrix, Matrix, Values]:
    x, pool, y = np.asarray(x, np.float64), np.asarray(pool, np.float64), np.asarray(accuracy, np.float64)
    if x.ndim != 2 or x.shape != (len(y), len(features)) or pool.ndim != 2 or pool.shape[1] != len(features) or len(y) < 2:
        raise ProxyError(f"features {x.shape}, labels {y.shape} and pool {pool.shape} do not fit {len(features)} columns and 2+ labels")
    if not (np.isfinite(x).all() and np.isfinite(pool).all() and np.isfinite(y).all()) or y.min() < 0 or y.max() > 1:
        raise ProxyError("labels are accuracies in 0..1 and features finite numbers")
    y = np.clip(y, _EDGE, 1 - _EDGE)
    return x, pool, np.log(y / (1 - y))
