"""How well predictions rank: Kendall's tau over all pairs or over chosen ones, its bootstrap interval, recall of the best.

A pair that the prediction ties counts 0, so a coarse number such as the resolution is not flattered by its ties.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from proxies.errors import ProxyError

Values = np.ndarray[tuple[int], np.dtype[np.float64]]
BAND = 1.5  # a search compares networks of about one latency: pairs whose latencies differ by at most this factor
TOP = 0.1  # share of the networks that counts as the best
INTERVAL = 0.95
_DRAWS = 1000


def concordance(predicted: Values, true: Values) -> np.ndarray:
    """(n, n) of +1 where a pair is ranked as measured, -1 where the other way round, 0 for ties."""
    if len(predicted) != len(true) or len(true) < 2:
        raise ProxyError(f"{len(predicted)} predictions and {len(true)} measured values cannot be ranked: two or more of each are needed")
    if not (np.isfinite(predicted).all() and np.isfinite(true).all()):
        raise ProxyError("ranks need finite values")
    return np.sign(predicted[:, None] - predicted) * np.sign(true[:, None] - true)


def within_band(latencies: Values, band: float = BAND) -> np.ndarray:
    """(n, n) of bool: pairs whose latencies differ by at most the factor `band`; never a network with itself or with a NaN."""
    logs = np.log(latencies)
    return (np.abs(logs[:, None] - logs) <= np.log(band)) & ~np.eye(len(logs), dtype=bool)


def alike(labels: Sequence[object]) -> np.ndarray:
    """(n, n) of bool: pairs of one label."""
    numbers = np.unique(np.asarray(labels), return_inverse=True)[1]
    return (numbers[:, None] == numbers) & ~np.eye(len(numbers), dtype=bool)


def kendall_tau(predicted: Values, true: Values, pairs: np.ndarray | None = None) -> float:
    """Tau over all pairs, or over those of the symmetric (n, n) mask `pairs`; NaN where it has none."""
    agree = concordance(predicted, true)
    chosen = ~np.eye(len(true), dtype=bool) if pairs is None else pairs
    return float(agree[chosen].mean()) if chosen.any() else float("nan")


def bootstrap(predicted: Values, true: Values, groups: Sequence[object], seed: int = 0) -> tuple[float, float]:
    """Interval of tau, 95 %: groups are drawn with replacement, because resolutions of one architecture are not independent."""
    agree = concordance(predicted, true)
    labels, numbers = np.unique(np.asarray(groups), return_inverse=True)
    rng = np.random.default_rng(seed)
    times = rng.multinomial(len(labels), np.full(len(labels), 1 / len(labels)), size=_DRAWS).astype(np.float64)[:, numbers]
    pairs = times.sum(1) ** 2 - (times**2).sum(1)  # a network drawn twice is no pair with itself
    taus = np.einsum("dn,dn->d", times @ agree, times)[pairs > 0] / pairs[pairs > 0]
    edge = (1 - INTERVAL) / 2
    low, high = np.quantile(taus, (edge, 1 - edge))
    return float(low), float(high)


def top_recall(predicted: Values, true: Values, share: float = TOP) -> float:
    """Which part of the best `share` of the networks is among the predicted best; ties at the edge count by the odds."""
    n = max(1, round(share * len(true)))
    best = np.argsort(-true, kind="stable")[:n]
    edge = np.sort(predicted)[-n]
    above, at = predicted > edge, predicted == edge
    return float((above[best].sum() + at[best].sum() * (n - above.sum()) / at.sum()) / n)
