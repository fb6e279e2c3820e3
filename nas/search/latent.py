"""Objectives as a model learns them and as a hypervolume counts them.

A level is an objective to be minimized: the log of a quantity with a unit (twice as fast is as much at 10 ms as at 100 ms), the
negative of what is to be large. A latent is what the Gaussian process sees: mAP through a logit below a ceiling, since networks come
ever closer to what a data set allows, and anything else standardized.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nas.objectives import Objective

CEILING = 1.15      # of the best accuracy seen: where accuracies are expected to end
SPREAD = 0.5        # standard deviation of a latent over unlike networks: that of logit(mAP / ceiling) on YOLOBench's VOC table
_TINY = 1e-12


def level(objective: Objective, values: np.ndarray) -> np.ndarray:
    """(n,) values of one objective, to be minimized."""
    if objective.direction == "max":
        return -values
    return np.log(np.maximum(values, _TINY)) if objective.unit else values


@dataclass(frozen=True)
class Latent:
    """The link fitted to the levels of measured networks. `ceiling` is set for accuracies in 0..1; `middle`, `scale` otherwise."""

    ceiling: float | None
    middle: float
    scale: float

    @staticmethod
    def fitted(objective: Objective, levels: np.ndarray) -> Latent:
        best = -float(levels.min())
        if objective.direction == "max" and not objective.unit and levels.max() < 0 and best < 1:
            return Latent(min(CEILING * best, (1 + best) / 2), 0.0, 1.0)
        return Latent(None, float(levels.mean()), float(levels.std()) / SPREAD or 1.0)

    def of(self, levels: np.ndarray) -> np.ndarray:
        """Better networks have larger latents."""
        if self.ceiling is None:
            return (self.middle - levels) / self.scale
        return np.log(-levels / (self.ceiling + levels))

    def levels(self, mean: np.ndarray, sd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of levels, from those of latents."""
        if self.ceiling is None:
            return self.middle - self.scale * mean, self.scale * sd
        low, high = (self.ceiling / (1 + np.exp(-(mean + side * sd))) for side in (-1, 1))
        return -self.ceiling / (1 + np.exp(-mean)), (high - low) / 2

    def worst(self, levels: np.ndarray) -> float:
        """Where a hypervolume ends: an accuracy of 0, or the worst level seen."""
        return float(levels.max()) if self.ceiling is None else 0.0
