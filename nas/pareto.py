"""Pareto arithmetic over points (n, objectives): dominance, sorting, crowding, hypervolume, knee.

`directions` holds "min" or "max" per objective; without it every objective is minimized.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

_MATRIX_POINTS = 1024  # above this the (n, n) table of comparisons costs more than taking off one front after another


class ParetoError(ValueError):
    """Points that cannot be compared: the message names what was found."""


def minimized(points: Sequence[Sequence[float]] | np.ndarray, directions: Sequence[str] | None = None) -> np.ndarray:
    """(n, m) float64 in which smaller is better throughout. Raises ParetoError for NaN, infinity, a wrong shape, an unknown direction."""
    table = np.asarray(points, dtype=np.float64)
    if table.ndim != 2:
        raise ParetoError(f"points of shape {table.shape}: want (points, objectives)")
    if not np.isfinite(table).all():
        worst = int(np.flatnonzero(~np.isfinite(table).all(axis=1))[0])
        raise ParetoError(f"point {worst} is {table[worst].tolist()}: want finite numbers")
    if directions is None:
        return table
    if len(directions) != table.shape[1] or not set(directions) <= {"min", "max"}:
        raise ParetoError(f"directions {tuple(directions)} do not fit {table.shape[1]} objectives: one 'min' or 'max' each")
    return table * np.array([1.0 if direction == "min" else -1.0 for direction in directions])


def dominates(a: Sequence[float], b: Sequence[float], directions: Sequence[str] | None = None) -> bool:
    """True where `a` is nowhere worse than `b` and somewhere better."""
    first, second = minimized([a, b], directions)
    return bool((first <= second).all() and (first < second).any())


def front(points: Sequence[Sequence[float]] | np.ndarray, directions: Sequence[str] | None = None) -> np.ndarray:
    """Indices, ascending, of the points that no other point dominates; equal points stay together."""
    return np.flatnonzero(_undominated(minimized(points, directions)))


def ranks(points: Sequence[Sequence[float]] | np.ndarray, directions: Sequence[str] | None = None) -> np.ndarray:
    """(n,) number of the non-dominated front of each point: 0 is the Pareto front, 1 the front without it, and so on."""
    table = minimized(points, directions)
    if table.shape[1] == 2:
        return _ranks_of_pairs(table)
    if len(table) <= _MATRIX_POINTS:
        return _ranks_by_matrix(table)
    rank = np.zeros(len(table), dtype=np.int64)
    left, level = np.arange(len(table)), 0
    while len(left):
        best = _undominated(table[left])
        rank[left[best]] = level
        left, level = left[~best], level + 1
    return rank


def crowding(points: Sequence[Sequence[float]] | np.ndarray) -> np.ndarray:
    """(n,) crowding distance within one front (Deb et al. 2002, doi:10.1109/4235.996017): infinite at the ends of each objective."""
    table = minimized(points)
    n, objectives = table.shape
    distance = np.zeros(n)
    for k in range(objectives):
        order = np.argsort(table[:, k], kind="stable")
        column = table[order, k]
        reach = column[-1] - column[0] if n else 0.0
        if reach > 0:
            distance[order[1:-1]] += (column[2:] - column[:-2]) / reach
            distance[order[[0, -1]]] = np.inf
    return np.full(n, np.inf) if n <= 2 else distance


def hypervolume(points: Sequence[Sequence[float]] | np.ndarray, reference: Sequence[float],
                directions: Sequence[str] | None = None) -> float:
    """Exact volume dominated by the points and bounded by `reference`; a point not better than it in every objective adds nothing.

    Any number of objectives, by slicing along the last one: fast for two and three, exponential in the number of objectives.
    """
    if len(points) == 0:
        return 0.0
    table = minimized(points, directions)
    bound = minimized([reference], directions)[0]
    if len(bound) != table.shape[1]:
        raise ParetoError(f"reference of {len(bound)} objectives for points of {table.shape[1]}")
    table = table[(table < bound).all(axis=1)]
    if len(bound) > 2:
        table = table[_undominated(table)]
    return _volume(table, bound) if len(table) else 0.0


def knee(points: Sequence[Sequence[float]] | np.ndarray, directions: Sequence[str] | None = None) -> int:
    """Index of the point of a front that bulges most towards the ideal point, each objective scaled to 0..1 over the front.

    With two objectives it is the point farthest from the line between the two ends (Das 1999, doi:10.1007/BF01195985).
    """
    if len(points) == 0:
        raise ParetoError("an empty front has no knee")
    table = minimized(points, directions)
    low, high = table.min(axis=0), table.max(axis=0)
    return int(((table - low) / np.where(high > low, high - low, 1.0)).sum(axis=1).argmin())


def _undominated(table: np.ndarray) -> np.ndarray:
    """(n,) bool. A point comes after every point that dominates it: rounded sums are monotone, and ties go by the objectives."""
    left = np.lexsort((*table.T[::-1], table.sum(axis=1)))
    kept = np.zeros(len(table), dtype=bool)
    while len(left):
        point = table[left[0]]
        kept[left[(table[left] == point).all(axis=1)]] = True
        left = left[(table[left] < point).any(axis=1)]
    return kept


def _ranks_of_pairs(table: np.ndarray) -> np.ndarray:
    """Two objectives in n log n: going by the first objective, a front's last point decides whether it dominates the next one."""
    unique, inverse = np.unique(table, axis=0, return_inverse=True)
    tails: list[float] = []
    levels = np.empty(len(unique), dtype=np.int64)
    for i, second in enumerate(unique[:, 1].tolist()):
        level = bisect_right(tails, second)
        if level == len(tails):
            tails.append(second)
        else:
            tails[level] = second
        levels[i] = level
    return levels[inverse.reshape(-1)]


def _ranks_by_matrix(table: np.ndarray) -> np.ndarray:
    at_least = np.asarray((table[:, None, :] <= table[None, :, :]).all(axis=2))  # [i, j]: i is nowhere worse than j
    beats = at_least & ~at_least.T
    count = beats.sum(axis=0)
    rank = np.full(len(table), -1, dtype=np.int64)
    level = 0
    while (current := np.flatnonzero((count == 0) & (rank < 0))).size:
        rank[current] = level
        count = count - beats[current].sum(axis=0)
        level += 1
    return rank


def _volume(table: np.ndarray, bound: np.ndarray) -> float:
    """Volume under points that lie strictly inside the bound; dominated ones cost time and change nothing."""
    if table.shape[1] == 1:
        return float(bound[0] - table[:, 0].min())
    if table.shape[1] == 2:
        table = table[np.lexsort((table[:, 1], table[:, 0]))]
        steps = np.append(table[1:, 0], bound[0]) - table[:, 0]
        return float((steps * (bound[1] - np.minimum.accumulate(table[:, 1]))).sum())
    table = table[np.argsort(table[:, -1], kind="stable")]
    heights = np.append(table[1:, -1], bound[-1]) - table[:, -1]
    total = 0.0
    for i in np.flatnonzero(heights > 0):
        slab = table[: i + 1, :-1]
        total += float(heights[i]) * _volume(slab if slab.shape[1] == 2 else slab[_undominated(slab)], bound[:-1])
    return total
