"""The predictor of whole networks: several laws, weighted by cross-validation, and an interval calibrated on its errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from hwmodels.device import Device
from hwmodels.errors import DeviceError
from hwmodels.laws import NetworkTable, fault, nearest
from hwmodels.operators import Estimate
from hwmodels.profile import Matrix, Vector
from hwmodels.workload import Workload
from predictors.errors import PredictorError
from predictors.gp import Kernel
from predictors.residuals import Fitted, deviations, power_law, sums, sums_and_process, sums_and_trees
from predictors.rows import Rows, rows, seen_kinds

COVERAGE = 0.9  # of the interval
FEWEST = 5  # networks
FOLDS_OF_FEW, FOLDS, FEW = 10, 5, 60  # rows up to FEW are left out a tenth at a time, more a fifth at a time
FEWEST_FOR_TREES = 60
LEAST_WEIGHT = 0.05  # a law that deserves less is dropped
LEAST_QUANTILE, LEAST_APART = 1e-4, 1e-3  # where times follow a law exactly, or networks are all alike
NORMAL = 1.645  # standard deviations within which COVERAGE of a normal distribution lies
BELIEVED = 10  # networks: with so many measured the power law's process is believed, with more the left-out errors are
Numbers = Sequence[float] | np.ndarray
Fit = Callable[[Rows, Vector, Kernel | None], Fitted]
# The first has points: the interval widens away from them.
MEMBERS: dict[str, Fit] = {"sums and process": sums_and_process, "power law": power_law, "sums": sums, "sums and trees": sums_and_trees}


@dataclass(frozen=True)
class Judged:
    """Left-out errors in logs (n,) of the ensemble, its weights chosen on the other folds, doubts (n,), and fold numbers (n,)."""

    errors: Vector
    doubts: Vector
    folds: np.ndarray


class Ensemble:
    """`fit(workloads, ms)` then `predict(workload)`; `relatives` are fitted devices whose predictions serve as features (transfer)."""

    def __init__(self, relatives: Sequence[Device] = (), members: Sequence[str] = tuple(MEMBERS), seed: int = 0) -> None:
        self.relatives, self.seed = tuple(relatives), seed
        self.members = [MEMBERS[name] for name in members]
        self._table: NetworkTable | None = None
        self._judged: Judged | None = None

    @property
    def table(self) -> NetworkTable:
        if self._table is None:
            raise PredictorError("this Ensemble has seen no measurements: call fit(workloads, ms) first")
        return self._table

    @property
    def errors(self) -> dict[str, float]:
        """By cross-validation: mape (%), within_10, coverage_90 (fractions; the interval calibrated on other folds), networks."""
        if self._judged is None:
            raise PredictorError("this Ensemble was not fitted here, so its left-out errors are not known")
        folds, off = self._judged.folds, np.abs(np.expm1(self._judged.errors))
        ratios = np.abs(self._judged.errors) / self._judged.doubts
        covered = [ratios[folds == fold] <= _quantile(ratios[folds != fold]) for fold in np.unique(folds)]
        coverage = np.concatenate(covered).mean()
        found = {"mape": 100 * off.mean(), "within_10": (off <= 0.1).mean(), "coverage_90": coverage, "networks": len(off)}
        return {name: round(float(value), 4) for name, value in found.items()}

    def fit(self, workloads: Sequence[Workload], ms: Numbers, groups: Numbers | None = None) -> Ensemble:
        """`groups` number what is left out together, as one architecture at several resolutions; by default each network is one.

        Raises PredictorError for measurements that cannot be: different lengths, fewer than FEWEST, not finite or not positive.
        """
        if len(ms) != len(workloads) or len(ms) < FEWEST:
            raise PredictorError(f"{len(workloads)} networks and {len(ms)} times: as many of each are needed, at least {FEWEST}")
        return self.fit_rows(rows(workloads, self.relatives), ms, seen_kinds(workloads), groups)

    def fit_rows(
        self, known: Rows, ms: Numbers, kinds: Sequence[str], groups: Numbers | None = None, asked: Rows | None = None
    ) -> Ensemble:
        """As `fit`, of rows that were counted before; `kinds` are the operators and activation functions of all of them.

        `asked` are networks such as will be predicted, measured ones among them or not: they bound the interval of up to FEW rows.
        """
        times = np.asarray(ms, dtype=np.float64)
        if not (np.isfinite(times).all() and (times > 0).all()):
            raise PredictorError(f"time {times[~(np.isfinite(times) & (times > 0))][0]} ms of a network is not a positive number")
        log_ms = np.log(times)
        members = [one for one in self.members if one is not sums_and_trees or len(known) >= FEWEST_FOR_TREES]
        fitted = [member(known, log_ms, None) for member in members]
        folds = _folds(np.arange(len(known)) if groups is None else np.asarray(groups), self.seed)
        errors, distances = _left_out(known, log_ms, folds, members, fitted)
        weights, apart = _weights(errors), max(float(np.median(distances)), LEAST_APART)
        judged = Judged(_honest(errors, folds), np.hypot(apart, distances), folds)
        laws = tuple(
            msgspec.structs.replace(one.law, weight=float(weight))
            for place, (one, weight) in enumerate(zip(fitted, weights)) if weight > 0 or place == 0
        )
        table = NetworkTable(kinds=tuple(kinds), laws=laws, apart=apart, quantile=_quantile(np.abs(judged.errors) / judged.doubts))
        kernel = next((one.kernel for member, one in zip(members, fitted) if member is power_law), None)
        if asked is not None and kernel is not None and len(known) <= FEW:
            bound = _bound(deviations(known, kernel, asked) / table.doubt(asked.seen), len(known))
            table = msgspec.structs.replace(table, quantile=min(table.quantile, bound))
        self._table, self._judged = table, judged
        return self

    def predict(self, workload: Workload) -> Estimate:
        """Raises PredictorError for an operator or activation function that no measured network had."""
        try:
            self.table.check(workload)
        except DeviceError as strange:
            raise PredictorError(str(strange)) from None
        mean, low, high = self.predict_rows(rows([workload], self.relatives))
        return Estimate(float(mean[0]), float(low[0]), float(high[0]))

    def predict_rows(self, asked: Rows) -> tuple[Vector, Vector, Vector]:
        """(n,) ms: mean, and the ends of the interval."""
        mean, reach = asked.log_ms(self.table.laws), self.table.quantile * self.table.doubt(asked.seen)
        return np.exp(mean), np.exp(mean - reach), np.exp(mean + reach)

    def save(self, path: str | Path) -> None:
        Path(path).write_bytes(msgspec.json.encode(self.table))

    @staticmethod
    def load(path: str | Path, relatives: Sequence[Device] = ()) -> Ensemble:
        """Raises PredictorError for a file that is none, or that builds on relatives which are not given."""
        loaded = Ensemble(relatives)
        try:
            loaded._table = msgspec.json.decode(Path(path).read_bytes(), type=NetworkTable)
        except (OSError, msgspec.DecodeError) as broken:
            raise PredictorError(f"{path} holds no ensemble: {broken}") from None
        if wrong := fault(loaded._table):
            raise PredictorError(f"{path}: {wrong}")
        if lacking := set(loaded._table.relatives) - {device.name for device in relatives}:
            raise PredictorError(f"{path} builds on the device {sorted(lacking)[0]}, which is not among the relatives given")
        return loaded


def _folds(groups: np.ndarray, seed: int) -> np.ndarray:
    """(n,) fold numbers; a group stays together."""
    names, group = np.unique(groups, return_inverse=True)
    count = min(FOLDS_OF_FEW if len(groups) <= FEW else FOLDS, len(names))
    if count < 2:
        raise PredictorError("all networks are of one group: measure others too, so that errors can be judged on what was left out")
    order = np.random.default_rng(seed).permutation(len(names))
    return (order % count)[group]


def _left_out(
    known: Rows, log_ms: Vector, folds: np.ndarray, members: Sequence[Fit], fitted: Sequence[Fitted]
) -> tuple[Matrix, Vector]:
    """Each row predicted without its fold: errors in logs (n, members), and distances (n,) to the nearest network that was not left out.

    Kernels stay as found on all rows: they are few numbers, and seeking them takes the time.
    """
    errors, distances = np.zeros((len(known), len(members))), np.zeros(len(known))
    for fold in range(int(folds.max()) + 1):
        inside, out = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        again = [member(known[inside], log_ms[inside], one.kernel) for member, one in zip(members, fitted)]
        errors[out] = np.stack([log_ms[out] - known[out].log_ms([one.law]) for one in again], axis=1)
        distances[out] = nearest(again[0].law, known[out].seen)
    return errors, distances


def _weights(errors: Matrix) -> Vector:
    """(members,) shares of the average: by the inverse square of the mean squared error, too small ones dropped."""
    weights = np.maximum((errors**2).mean(axis=0), 1e-12) ** -2.0
    weights = weights / weights.sum()
    weights[weights < LEAST_WEIGHT] = 0.0
    return weights / weights.sum()


def _honest(errors: Matrix, folds: np.ndarray) -> Vector:
    """(n,) errors of the average, each fold's with weights from the other folds.

    Weights chosen on all of them flatter themselves: with those, intervals from ten random networks covered 70 to 97 % of YOLOBench on
    its nine devices, 85 % in the middle; with these 80 to 97 %, and 90 % in the middle.
    """
    found = np.zeros(len(errors))
    for fold in np.unique(folds):
        out = folds == fold
        found[out] = errors[out] @ _weights(errors[~out])
    return found


def _bound(ratios: Vector, measured: int) -> float:
    """What the quantile is at most: what the power law's process says of (n,) deviations in doubts of the networks asked for.

    Networks that teach most lie far apart: leaving out one of a handful tears a hole in which no other network lies, and the largest
    of ten errors is the quantile.  The process knows the hole.  With more measured its assumptions are what errs, so the bound rises
    above them.  Of 5 to 30, BELIEVED is best on YOLOBench's nine devices (10, 20, 50 networks, 20 draws), and with any of them left out
    it is 10 or 11.
    """
    return NORMAL * float(np.median(ratios)) * max(1.0, measured / BELIEVED) ** 0.5


def _quantile(ratios: Vector) -> float:
    """The conformal quantile of errors in doubts (Lei et al. 2018, doi:10.1080/01621459.2017.1307116, section 5.2)."""
    rank = min(int(np.ceil((len(ratios) + 1) * COVERAGE)), len(ratios)) - 1
    return max(float(np.sort(ratios)[rank]), LEAST_QUANTILE)
