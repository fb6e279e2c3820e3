"""How well a number ranks what was measured: Spearman's rho with its bootstrap interval, over everything or within groups alone."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

_DRAWS, _INTERVAL = 1000, 0.95


@dataclass(frozen=True)
class Rho:
    """`value` in -1..1 and its 95 % interval; NaN where nothing varies.  `n` values in `groups` groups."""

    value: float
    low: float
    high: float
    n: int
    groups: int

    def text(self) -> str:
        return f"{self.value:5.2f} ({self.low:5.2f} .. {self.high:4.2f})"


def spearman(predicted: Sequence[float], true: Sequence[float], groups: Sequence[Hashable] | None = None, seed: int = 0) -> Rho:
    """Rank correlation within groups: ranks are taken group by group about their mean, then correlated over all; without groups it is
    Spearman's.  The bootstrap draws from each group with replacement.
    """
    x, y = np.asarray(predicted, dtype=np.float64), np.asarray(true, dtype=np.float64)
    labels = np.zeros(len(x), dtype=int) if groups is None else np.unique([str(g) for g in groups], return_inverse=True)[1]
    members = [np.flatnonzero(labels == label) for label in range(labels.max() + 1)]
    rng = np.random.default_rng(seed)
    draws = _rhos(x, y, [rng.choice(places, (_DRAWS, len(places))) for places in members])
    edge = (1 - _INTERVAL) / 2
    low, high = np.nanquantile(draws, (edge, 1 - edge)) if np.isfinite(draws).any() else (np.nan, np.nan)
    return Rho(float(_rhos(x, y, [places[None] for places in members])[0]), float(low), float(high), len(x), len(members))


def _rhos(x: np.ndarray, y: np.ndarray, members: Sequence[np.ndarray]) -> np.ndarray:
    """(draws,) of rho, from (draws, n) places of each group."""
    a, b = (np.concatenate([_centred(values[places]) for places in members], axis=1) for values in (x, y))
    scale = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    return np.divide((a * b).sum(1), scale, out=np.full(len(a), np.nan), where=scale > 0)


def _centred(values: np.ndarray) -> np.ndarray:
    ranks = rankdata(values, axis=1)
    return ranks - ranks.mean(1, keepdims=True)
