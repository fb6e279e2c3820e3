"""Latency as a non-negative sum over operators: no operator ever makes a network faster."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from scipy.optimize import nnls

from hwmodels.errors import DeviceError
from hwmodels.operators import Estimate, OperatorTable
from hwmodels.workload import Workload
from predictors.encoding import Matrix, operator_sums
from predictors.errors import PredictorError

COVERAGE = 0.9  # of the interval
SMALLEST_FACTOR = 1.08  # a shared machine was seen to run 5 % slower minutes later; no interval is narrower than that
_RIDGE = 1e-6  # pull of every cost towards zero, relative to its column: settles what the measurements leave open


class OperatorSums:
    """`fit(workloads, ms)` then `predict(workload)`.  A workload may be a whole network or a single operator.

    Errors are weighted relatively, above `floor_ms`, below which a timing is mostly noise.  The interval comes from leave-one-out
    residuals of the workloads with at least `whole` operators, or of all of them where fewer than five have that many.
    """

    def __init__(self, floor_ms: float = 0.005, whole: int = 20) -> None:
        self.floor_ms, self.whole = floor_ms, whole
        self._table: OperatorTable | None = None

    @property
    def table(self) -> OperatorTable:
        if self._table is None:
            raise PredictorError("this OperatorSums has seen no measurements: call fit(workloads, ms) first")
        return self._table

    def fit(self, workloads: Sequence[Workload], ms: Sequence[float], groups: Sequence[int] | None = None) -> OperatorSums:
        """`groups` number what is left out together, as a network and its operators; by default each workload is one.

        Raises PredictorError for measurements that cannot be: different lengths, fewer than two, not finite or not positive.
        """
        times = np.asarray(ms, dtype=np.float64)
        if len(times) != len(workloads) or len(times) < 2:
            raise PredictorError(f"{len(workloads)} workloads and {len(times)} times: as many of each are needed, at least two")
        if not (np.isfinite(times).all() and (times > 0).all()):
            raise PredictorError(f"time {times[~(np.isfinite(times) & (times > 0))][0]} ms of a workload is not a positive number")
        amounts, names = operator_sums(workloads)
        # A network is worth as much as all its operators together: its own row carries what their sum misses.
        weights = np.sqrt([len(load.ops) for load in workloads]) / (times + self.floor_ms)
        problem = _Problem(amounts, times, weights)
        large = np.flatnonzero([len(load.ops) >= self.whole for load in workloads])
        judged = large if len(large) >= 5 else np.arange(len(times))
        factor = _factor(problem, judged, np.arange(len(times)) if groups is None else np.asarray(groups))
        self._table = OperatorTable(dict(zip(names, problem.solve().tolist())), factor)
        return self

    def predict(self, workload: Workload) -> Estimate:
        """Raises PredictorError for an operator, precision or activation that no measurement held."""
        try:
            return self.table.predict(workload)
        except DeviceError as fault:
            raise PredictorError(str(fault)) from None

    def save(self, path: str | Path) -> None:
        Path(path).write_bytes(msgspec.json.format(msgspec.json.encode(self.table)))

    @staticmethod
    def load(path: str | Path) -> OperatorSums:
        loaded = OperatorSums()
        try:
            loaded._table = msgspec.json.decode(Path(path).read_bytes(), type=OperatorTable)
        except (OSError, msgspec.DecodeError) as fault:
            raise PredictorError(f"{path} holds no operator sums: {fault}") from None
        return loaded


class _Problem:
    """Non-negative least squares on weighted rows, as normal equations, so that leaving rows out is a subtraction."""

    def __init__(self, amounts: Matrix, times: np.ndarray, weights: np.ndarray) -> None:
        self.amounts, self.times = amounts, times
        norm = np.linalg.norm(amounts * weights[:, None], axis=0)
        self.norm = np.where(norm > 0, norm, 1.0)
        self.rows, self.targets = amounts * weights[:, None] / self.norm, times * weights
        self.gram, self.moment = self.rows.T @ self.rows, self.rows.T @ self.targets

    def solve(self, without: np.ndarray | None = None) -> np.ndarray:
        """Cost per unit of each feature; `without` is a mask of rows that do not count."""
        gram, moment = self.gram, self.moment
        if without is not None:
            gram = gram - self.rows[without].T @ self.rows[without]
            moment = moment - self.rows[without].T @ self.targets[without]
        factor = np.linalg.cholesky(gram + _RIDGE * np.eye(len(gram)))
        solution, _ = nnls(factor.T, np.linalg.solve(factor, moment), maxiter=100 * len(gram))
        return solution / self.norm


def _factor(problem: _Problem, judged: np.ndarray, groups: np.ndarray) -> float:
    """The factor within which COVERAGE of the judged rows lie, each predicted from the rows of other groups (conformal)."""
    errors = []
    for group in np.unique(groups[judged]):
        without = groups == group
        cost, known = problem.solve(without), (problem.amounts[~without] > 0).any(axis=0)
        for row in judged[without[judged]]:
            if known[problem.amounts[row] > 0].all():  # else the predictor would refuse it
                errors.append(abs(float(np.log(max(problem.amounts[row] @ cost, 1e-9) / problem.times[row]))))
    if not errors:
        raise PredictorError("every workload has features of its own: measure more of them, so that an interval can be found")
    rank = min(int(np.ceil((len(errors) + 1) * COVERAGE)), len(errors)) - 1
    return max(float(np.exp(sorted(errors)[rank])), SMALLEST_FACTOR)
