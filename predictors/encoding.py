"""Workloads as numbers: what the predictors learn from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hwmodels.operators import features
from hwmodels.workload import Workload

Matrix = np.ndarray[tuple[int, int], np.dtype[np.float64]]


def operator_sums(workloads: Sequence[Workload]) -> tuple[Matrix, list[str]]:
    """(workloads, features) amounts summed over operators, and the names of the features, sorted."""
    rows: list[dict[str, float]] = []
    for load in workloads:
        row: dict[str, float] = {}
        for op in load.ops:
            for feature, amount in features(op):
                row[feature] = row.get(feature, 0.0) + amount
        rows.append(row)
    names = sorted({name for row in rows for name in row})
    column = {name: i for i, name in enumerate(names)}
    matrix = np.zeros((len(rows), len(names)))
    for i, row in enumerate(rows):
        for name, amount in row.items():
            matrix[i, column[name]] = amount
    return matrix, names
