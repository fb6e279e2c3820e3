"""How good predictions are: relative errors, hit rates, ranks and coverage of the intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import kendalltau, spearmanr

from hwmodels.operators import Estimate
from predictors.errors import PredictorError


@dataclass(frozen=True)
class Metrics:
    """`mape` and `rmspe` in percent; `within_5` and `within_10`, `coverage` as fractions; `spearman`, `kendall` in -1..1."""

    mape: float
    rmspe: float
    within_5: float
    within_10: float
    spearman: float
    kendall: float
    coverage: float


def score(estimates: Sequence[Estimate], measured_ms: Sequence[float]) -> Metrics:
    """Raises PredictorError unless there are two or more pairs."""
    if len(estimates) != len(measured_ms) or len(estimates) < 2:
        raise PredictorError(f"{len(estimates)} estimates and {len(measured_ms)} measurements: as many of each are needed, at least two")
    mean = np.array([estimate.mean_ms for estimate in estimates])
    truth = np.asarray(measured_ms, dtype=np.float64)
    error = np.abs(mean - truth) / truth
    inside = [e.low_ms <= t <= e.high_ms for e, t in zip(estimates, truth)]
    return Metrics(
        mape=100 * float(error.mean()),
        rmspe=100 * float(np.sqrt((error**2).mean())),
        within_5=float((error <= 0.05).mean()),
        within_10=float((error <= 0.10).mean()),
        spearman=float(spearmanr(mean, truth)[0]),
        kendall=float(kendalltau(mean, truth)[0]),
        coverage=float(np.mean(inside)),
    )
