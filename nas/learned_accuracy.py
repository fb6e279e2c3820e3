"""mAP of a network after some epochs of training, learned from every candidate that the study has trained, at whatever rung.

A Gaussian process (predictors/gp.py) over what the structure and the bits say of a network and over the epochs that its weights have
behind them; its mean is the accuracy score, so that it begins as what the search believed.  mAP is learned as a logit.  The epochs
enter by a power law alone, the same for all networks: with one rung their slope is unknown, and an interval at the whole recipe is wide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nas.search.surrogate import kernel_prior
from nas.study import Trial
from predictors import gp
from proxies.combine import drop
from proxies.structure import matrix, structure
from searchspaces import SPACES

LEAST = 0.01  # mAP below which a net has learned nothing that ranks it
_SIDE = 1.645  # standard deviations on each side of a 90 % interval
_EPOCH_SLOPE = (0.0, 0.5)  # log of logits per e-fold of epochs, and its spread
_SAME = (6.0, 0.1)  # log of the length over which the residual varies with epochs: it does not


@dataclass(frozen=True)
class Guess:
    """mAP as expected, and its 90 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Measured:
    """mAP that the network of a trial reached when its weights had `epochs` behind them."""

    trial: int
    epochs: float
    map: float


class Traits:
    """(trials, traits) of a study's scored trials, standardized over them, and what the score believes; a few ms a network."""

    def __init__(self, trials: Sequence[Trial], classes: int, believed: bool) -> None:
        self._row = {trial.number: i for i, trial in enumerate(trials)}
        found = matrix(structure(SPACES[t.arch.space].build(t.arch, classes)) for t in trials)
        lost = np.array([[drop(t["quant_noise"])] for t in trials])
        rows = np.concatenate((found, lost), axis=1)
        spread = rows.std(axis=0)
        self._rows = (rows - rows.mean(axis=0)) / np.where(spread < 1e-9, 1.0, spread)
        self.believed = believed
        self._beliefs = _logit(np.array([t["score"] for t in trials])) if believed else np.zeros(len(trials))

    def at(self, trials: Sequence[int], epochs: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        """((n, traits + 1), (n, 1)): what the process sees of these trials after so many epochs, and the logits that the score gives."""
        rows = [self._row[number] for number in trials]
        return np.column_stack((self._rows[rows], np.log(epochs))), self._beliefs[rows][:, None]


class LearnedAccuracy:
    """Fitted to what was measured; one candidate at least."""

    def __init__(self, traits: Traits, measured: Sequence[Measured]) -> None:
        self._traits = traits
        self._of = {m.trial: m for m in sorted(measured, key=lambda m: m.epochs)}  # the one of the most epochs
        x, z = traits.at([m.trial for m in measured], [m.epochs for m in measured])
        y = _logit(np.array([m.map for m in measured])) - z[:, 0]
        self._process = gp.process(x, z, y, gp.sought(x, z, y, _prior(x.shape[1] - 1, traits.believed)))

    def logits(self, trials: Sequence[int], epochs: float) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation (n,) of the logit of mAP after so many epochs.

        Of a candidate that was trained the measurement stands, and the process says what the difference in epochs makes of it: after
        as many epochs two candidates keep the order in which they were measured.
        """
        x, z = self._traits.at(trials, [epochs] * len(trials))
        mean, sd = self._process.mean(x, z) + z[:, 0], self._process.sd(x, z)
        for i, number in enumerate(trials):
            if number in self._of:
                known = self._of[number]
                mean[i] = _logit(np.array(known.map)) + self._effect(epochs) - self._effect(known.epochs)
        return mean, sd

    def _effect(self, epochs: float) -> float:
        """Of so many epochs on a network of average traits, in logits."""
        x, z = np.zeros((1, len(self._process.kernel.slopes))), np.zeros((1, 1))
        x[0, -1] = np.log(epochs)
        return float(self._process.mean(x, z)[0])

    def guesses(self, trials: Sequence[int], epochs: float) -> list[Guess]:
        mean, sd = self.logits(trials, epochs)
        return [Guess(*map(float, row)) for row in zip(*(_map(mean + side * sd) for side in (0.0, -_SIDE, _SIDE)))]

    def levels(self, trials: Sequence[int], epochs: float) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation (n,) of -mAP, as hypervolumes count it."""
        mean, sd = self.logits(trials, epochs)
        return -_map(mean), (_map(mean + sd) - _map(mean - sd)) / 2


def _logit(values: np.ndarray) -> np.ndarray:
    inside = np.clip(values, LEAST, 1 - LEAST)
    return np.asarray(np.log(inside / (1 - inside)))


def _map(logits: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-logits)))


def _prior(traits: int, believed: bool) -> gp.Prior:
    """The search's prior for the traits, and epochs beside them."""
    known = kernel_prior(traits, believed)

    def beside(kernel: gp.Kernel, slope: float, scale: float) -> gp.Kernel:
        return gp.Kernel(np.append(kernel.slopes, slope), np.append(kernel.scales, scale), kernel.height, kernel.kinship, kernel.noise)

    return gp.Prior(beside(known.middle, _EPOCH_SLOPE[0], _SAME[0]), beside(known.spread, _EPOCH_SLOPE[1], _SAME[1]))
