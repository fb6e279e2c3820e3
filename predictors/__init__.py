"""Learned estimates of cost, each with an interval.  No torch."""

from hwmodels.operators import Estimate
from predictors.errors import PredictorError
from predictors.metrics import Metrics, score
from predictors.operator_sums import OperatorSums

__all__ = ["Estimate", "Metrics", "OperatorSums", "PredictorError", "score"]
