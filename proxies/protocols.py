"""How a learner of accuracy is judged on a labelled table: a few labels are drawn, everything else is ranked.

families unseen   for each family in turn, labels are drawn from the others and the family is predicted; tau is over all networks,
                  across families, with every prediction made by a learner that saw none of its family
families seen     labels are drawn from all networks, and tau is over the networks that were not drawn
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from proxies.errors import ProxyError
from proxies.ranking import BAND, Values
from proxies.structure import Matrix

# (positions of the labelled networks, positions to predict) -> predictions; it may read features of all, labels of the former alone
Learner = Callable[[np.ndarray, np.ndarray], Values]
DRAWS = 20


@dataclass(frozen=True)
class Setting:
    """What is known: accuracy (networks,), each network's family, and latencies (networks,) by device."""

    accuracy: Values
    families: Sequence[str]
    latencies: Mapping[str, Values] = field(default_factory=dict)

    @cached_property
    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        return np.triu_indices(len(self.accuracy), 1)

    @cached_property
    def order(self) -> np.ndarray:
        i, j = self.pairs
        return np.sign(self.accuracy[i] - self.accuracy[j])

    @cached_property
    def near(self) -> dict[str, np.ndarray]:
        i, j = self.pairs
        logs = {device: np.log(times) for device, times in self.latencies.items()}
        return {device: np.abs(t[i] - t[j]) <= np.log(BAND) for device, t in logs.items()}


@dataclass(frozen=True)
class Judged:
    """Kendall's tau over all pairs, and over those within a latency band of each device."""

    tau: float
    tau_band: Mapping[str, float]


def judge(predicted: Values, setting: Setting, among: np.ndarray | None = None) -> Judged:
    """`among`: (networks,) of bool, those to be ranked; the others' predictions are not looked at."""
    i, j = setting.pairs
    agree = np.sign(predicted[i] - predicted[j]) * setting.order
    counted = np.ones(len(agree), dtype=bool) if among is None else among[i] & among[j]
    bands = {device: _mean(agree[counted & near]) for device, near in setting.near.items()}
    return Judged(_mean(agree[counted]), bands)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def average(judged: Sequence[Judged]) -> Judged:
    return Judged(float(np.mean([j.tau for j in judged])),
                  {device: float(np.mean([j.tau_band[device] for j in judged])) for device in judged[0].tau_band})  # fmt: skip


def families_unseen(learner: Learner, setting: Setting, labels: int, draws: int = DRAWS) -> Judged:
    """Mean over `draws`; draw d is seeded with d."""
    return average([judge(unseen_predictions(learner, setting, labels, draw), setting) for draw in range(draws)])


def unseen_predictions(learner: Learner, setting: Setting, labels: int | None = None, seed: int = 0) -> Values:
    """(networks,), each by a learner that saw none of its family: `labels` drawn from the others, or all of them where None."""
    rng = np.random.default_rng(seed)
    families = np.asarray(setting.families)
    predicted = np.empty(len(families))
    for family in np.unique(families):
        others, asked = np.flatnonzero(families != family), np.flatnonzero(families == family)
        if labels is not None and not 2 <= labels <= len(others):
            raise ProxyError(f"{labels} labels cannot be drawn from the {len(others)} networks outside family '{family}'")
        known = others if labels is None else rng.choice(others, labels, replace=False)
        predicted[asked] = learner(known, asked)
    return predicted


def families_seen(learner: Learner, setting: Setting, labels: int, draws: int = DRAWS) -> Judged:
    """Mean over `draws`."""
    n = len(setting.accuracy)
    if not 2 <= labels < n - 1:
        raise ProxyError(f"{labels} labels of {n} networks leave nothing to rank, or nothing to learn from")
    found = []
    for draw in range(draws):
        known = np.random.default_rng(1000 + draw).choice(n, labels, replace=False)
        asked = np.setdiff1d(np.arange(n), known)
        predicted, among = np.zeros(n), np.zeros(n, dtype=bool)
        predicted[asked], among[asked] = learner(known, asked), True
        found.append(judge(predicted, setting, among))
    return average(found)


def ridge_learner(x: Matrix, accuracy: Values, ridge: float = 0.1) -> Learner:
    """The plain way, to compare with: ridge regression of the accuracy on standardized columns."""

    def learn(known: np.ndarray, asked: np.ndarray) -> Values:
        mean, std = x[known].mean(0), x[known].std(0)
        std = np.where(std > 0, std, 1.0)
        z, y = (x[known] - mean) / std, accuracy[known]
        weights = np.linalg.solve(z.T @ z + ridge * np.eye(x.shape[1]), z.T @ (y - y.mean()))
        return (x[asked] - mean) / std @ weights + y.mean()

    return learn
