"""Boosted trees on network traits (Friedman 2001, doi:10.1214/aos/1013203451), each level one question to all rows, as in CatBoost
(Prokhorenkova et al. 2018, arXiv:1706.09516): such trees overfit little, and a tree is a handful of numbers in a file.
"""

from __future__ import annotations

import numpy as np

from hwmodels.laws import Tree
from hwmodels.profile import TRAITS, Matrix, Vector

TREES, DEPTH, RATE, SHRINK, BINS = 200, 4, 0.1, 1.0, 24


def boosted(seen: Matrix, y: Vector) -> tuple[Tree, ...]:
    """Trees whose sum approximates y (n,) from traits (n, TRAITS), by least squares; at most TREES."""
    edges = [np.unique(np.quantile(column, np.linspace(0, 1, BINS + 1)[1:-1])) for column in seen.T]
    binned = np.stack([np.searchsorted(edge, column, side="left") for edge, column in zip(edges, seen.T)])  # (traits, n): bin > i: above i
    cuts, left, trees = [len(edge) for edge in edges], y.astype(np.float64).copy(), []
    for _ in range(TREES):
        leaf, asked = np.zeros(len(y), dtype=np.int64), []
        for _ in range(DEPTH):
            trait, cut = _best_question(binned, leaf, left, cuts)
            asked.append((trait, cut))
            leaf = 2 * leaf + (binned[trait] > cut)
        counts = np.bincount(leaf, minlength=2**DEPTH)
        values = RATE * np.bincount(leaf, left, 2**DEPTH) / (counts + SHRINK)
        left -= values[leaf]
        names, thresholds = tuple(TRAITS[trait] for trait, _ in asked), tuple(float(edges[trait][cut]) for trait, cut in asked)
        trees.append(Tree(names, thresholds, tuple(values.tolist())))
    return tuple(trees)


def _best_question(binned: np.ndarray, leaf: np.ndarray, left: Vector, cuts: list[int]) -> tuple[int, int]:
    """(trait, cut) whose answers, asked in every leaf, take most of the squares away."""
    leaves = int(leaf.max()) + 1
    slot = (np.arange(len(binned))[:, None] * leaves + leaf) * BINS + binned  # (traits, n)
    size = len(binned) * leaves * BINS
    counts = np.bincount(slot.ravel(), minlength=size).reshape(len(binned), leaves, BINS).cumsum(axis=2)
    sums = np.bincount(slot.ravel(), np.broadcast_to(left, slot.shape).ravel(), size).reshape(len(binned), leaves, BINS).cumsum(axis=2)
    above_sums, above_counts = sums[:, :, -1:] - sums, counts[:, :, -1:] - counts
    gain = (sums**2 / (counts + SHRINK) + above_sums**2 / (above_counts + SHRINK)).sum(axis=1)  # (traits, bins)
    for row, usable in enumerate(cuts):
        gain[row, usable:] = -1.0  # above the last cut there is nothing to tell apart
    return divmod(int(np.argmax(gain)), BINS)
