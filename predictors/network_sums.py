"""Latency of whole networks as a non-negative sum over their amounts and over the times of related devices."""

from __future__ import annotations

import numpy as np
from scipy.optimize import nnls

from hwmodels.laws import Law
from hwmodels.profile import AMOUNTS, Vector
from predictors.rows import Rows

RIDGE = 0.003  # pull of every share of a network's time towards zero, for each 10 networks measured up to MOST
_MOST = 50


def network_sums(rows: Rows, log_ms: Vector) -> Law:
    """The costs of least relative error (n,): no amount ever makes a network faster, so predictions stay sane far from the data."""
    amounts = np.concatenate([rows.profile, np.exp(rows.kin_matrix)], axis=1) * np.exp(-log_ms)[:, None]
    norm = np.linalg.norm(amounts, axis=0)
    norm[norm == 0] = 1.0
    ridge = np.sqrt(RIDGE * min(len(rows), _MOST) / 10) * np.eye(len(norm))
    found, _ = nnls(np.vstack([amounts / norm, ridge]), np.concatenate([np.ones(len(rows)), np.zeros(len(norm))]), maxiter=50 * len(norm))
    costs = (found / norm).tolist()
    return Law(
        weight=1.0,
        costs={name: cost for name, cost in zip(AMOUNTS, costs) if cost > 0},
        shares={name: cost for name, cost in zip(rows.kin, costs[len(AMOUNTS) :]) if cost > 0},
    )
