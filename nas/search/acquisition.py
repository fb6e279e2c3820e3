"""What a candidate may add to the front: expected hypervolume improvement, exact for two objectives."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr

_ROOT = 1 / np.sqrt(2 * np.pi)


def expected_shortfall(level: np.ndarray, mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """E[max(0, level - x)] of x ~ N(mean, sd^2), with sd = 0 allowed; the arguments broadcast."""
    certain = sd <= 0
    z = (level - mean) / np.where(certain, 1.0, sd)
    return np.where(certain, np.maximum(level - mean, 0.0), sd * (z * ndtr(z) + _ROOT * np.exp(-0.5 * z * z)))


def staircase(points: np.ndarray, reference: tuple[float, float]) -> np.ndarray:
    """(m, 2) undominated points within the reference, both minimized, by rising first and falling second objective."""
    inside = points[(points < reference).all(axis=1)]
    inside = inside[np.lexsort((inside[:, 1], inside[:, 0]))]
    lowest = np.minimum.accumulate(inside[:, 1])
    return inside[np.append(True, lowest[1:] < lowest[:-1])[: len(inside)]]


def hypervolume_gain(mean: np.ndarray, sd: np.ndarray, front: np.ndarray, reference: tuple[float, float]) -> np.ndarray:
    """(n,) expected growth of the hypervolume of `front` (m, 2) by each candidate alone, N(mean, sd^2) per objective, both minimized.

    The area above the front is cut at its points into upright strips; in each the expected width and the expected height of what a
    candidate adds are independent (Emmerich, Deutz, Klinkenberg 2011, doi:10.1109/CEC.2011.5949880, in a form for strips).
    """
    stairs = staircase(front, reference)
    edges = np.append(stairs[:, 0], reference[0])
    heights = np.concatenate(([reference[1]], stairs[:, 1]))
    reach = expected_shortfall(edges[None], mean[:, :1], sd[:, :1])             # (n, strips): width up to each strip's right edge
    width = np.diff(reach, axis=1, prepend=0.0)
    return np.asarray((width * expected_shortfall(heights[None], mean[:, 1:], sd[:, 1:])).sum(axis=1))
