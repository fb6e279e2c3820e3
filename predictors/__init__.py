"""Learned estimates of cost, each with an interval.  No torch."""

from hwmodels.operators import Estimate
from predictors.active import choose
from predictors.ensemble import Ensemble
from predictors.errors import PredictorError
from predictors.fitting import fit_device
from predictors.metrics import Metrics, score
from predictors.operator_sums import OperatorSums
from predictors.rows import Rows, rows

__all__ = ["Ensemble", "Estimate", "Metrics", "OperatorSums", "PredictorError", "Rows", "choose", "fit_device", "rows", "score"]
