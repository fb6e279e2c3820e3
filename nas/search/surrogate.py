"""Surrogate-assisted search: a Gaussian process learns what is expensive, what is cheap is known, and the next networks are those that
promise the largest growth of the hypervolume.

Expected hypervolume improvement after Emmerich et al. 2011 (doi:10.1109/CEC.2011.5949880); the process is predictors/gp.py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from nas.objectives import Objective, violations
from nas.search.acquisition import hypervolume_gain, staircase
from nas.search.core import Ledger
from nas.search.latent import Latent, level
from nas.search.nsga2 import NSGA2
from nas.search.pool import Belief, Cheap, Pool, Pools, spread
from nas.study import Trial
from predictors import gp
from searchspaces.space import Arch, Genes, Space

MARGIN, REACH = 0.05, 1.0   # see `beyond`
_REFIT = 10         # the kernel is sought again when the measurements have grown by one part in so many
_OFF = -12.0        # log of a height that is none


class Surrogate:
    """One or two optimized objectives; with more, and where random networks rarely meet the limits until `start` have been measured,
    NSGA-II asks.

    cheap(arch) gives the cheap columns: with it, objectives among them are known of every candidate, candidates beyond a limit are
    not asked, and counted columns help to learn. belief(archs, columns) is a prior guess of logit(accuracy), for the first networks
    and as the mean of the process: from counts, a proxy, or another data set (transfer.py). `known` networks are asked first.
    `candidates` new networks are costed for every batch, mutations of the front and random ones; a space of a few thousand networks is
    a candidate as a whole.
    """

    def __init__(self, space: Space, objectives: Sequence[Objective], *, rng: np.random.Generator, cheap: Cheap | None = None,
                 belief: Belief | None = None, known: Sequence[Arch] = (), start: int = 8, batch: int = 8,
                 candidates: int = 128) -> None:
        self.batch = batch
        self._space = space
        self._rng = rng
        self._objectives = objectives
        self._wanted = [o for o in objectives if o.optimized]
        self._learned = [o.cost == "expensive" or cheap is None for o in self._wanted]
        self._start = start
        self._tight = False     # random networks rarely meet the limits
        self._ledger = Ledger(space, rng)
        self._evolution = NSGA2(space, objectives, rng=rng, ledger=self._ledger)
        self._pools = Pools(space, self._ledger, rng, objectives, cheap, belief, candidates)
        self._queue: deque[Genes] = deque()
        if known:
            self._queue.extend(self._ledger.fresh(np.stack([space.encode(arch) for arch in known])))
        # What was measured: genes, features, beliefs, levels of the wanted objectives, whether every limit is met.
        self._genes: list[Genes] = []
        self._features: list[np.ndarray] = []
        self._beliefs: list[float] = []
        self._levels: list[list[float]] = []
        self._within: list[bool] = []
        self._kernels: dict[int, gp.Kernel] = {}
        self._refit_at = 0

    def ask(self) -> Arch:
        if not self._queue:
            self._queue.extend(self._next())
        if not self._queue:
            return self._evolution.ask()
        return self._ledger.issue(self._queue.popleft())

    def tell(self, trial: Trial) -> None:
        genes = self._space.encode(trial.arch)
        self._evolution.tell(trial)
        if trial.state != "ok" or any(o.name not in trial.columns for o in self._wanted):
            return
        features, belief = self._pools.described(genes, trial.columns)
        self._genes.append(genes)
        self._features.append(features)
        self._beliefs.append(belief)
        self._levels.append([float(level(o, np.array(trial.columns[o.name]))) for o in self._wanted])
        self._within.append(not violations(trial.columns, self._objectives))

    def _next(self) -> Genes:
        """(up to batch, genes), taken; empty where NSGA-II is to ask."""
        none = np.empty((0, len(self._space.choices)), dtype=np.int64)
        if len(self._wanted) > 2:
            return none
        missing = self._start - len(self._genes)
        if missing > 0 and not self._tight:
            pool = self._pools.random(self._start)
            self._tight = len(pool) < missing
            chosen = spread(pool, self._known(pool), missing, self._rng)
        elif missing > 0 or not any(self._within):
            return none
        else:
            pool = self._pools.around(self._front())
            chosen = self._promising(pool)
        return self._ledger.fresh(pool.genes[chosen]) if chosen else none

    def _front(self) -> Genes:
        """(n, genes) of the undominated networks within the limits."""
        levels = np.array(self._levels)
        within = np.flatnonzero(self._within)
        best = staircase(_pairs(levels[within]), (np.inf, np.inf))
        return np.array([self._genes[i] for i in within if (_pairs(levels[i][None]) == best).all(axis=1).any()])

    def _known(self, pool: Pool) -> np.ndarray | None:
        """(n,) level of the first objective that is known beforehand; None where none is."""
        for objective, learned in zip(self._wanted, self._learned):
            if not learned:
                return level(objective, np.array([row[objective.name] for row in pool.columns]))
        return None

    def _promising(self, pool: Pool) -> list[int]:
        """Positions of the next batch: one after the other, each taken for as good as predicted when the next one is chosen."""
        if not len(pool):
            return []
        mean, sd, reference = self._predicted(pool)
        reached = _pairs(np.array(self._levels)[self._within])
        chosen: list[int] = []
        gains = hypervolume_gain(mean, sd, reached, reference)
        self._pools.keep(pool, gains)
        for _ in range(min(self.batch, len(pool))):
            if chosen:
                reached = np.concatenate((reached, mean[chosen[-1:]]))
                gains = hypervolume_gain(mean, sd, reached, reference)
            gains[chosen] = -np.inf
            chosen.append(int(gains.argmax()))
        return chosen

    def _predicted(self, pool: Pool) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
        """Mean and standard deviation (n, 2) of the levels of the pool, and the reference point."""
        levels = np.array(self._levels)
        refit = len(levels) >= self._refit_at
        if refit:
            self._refit_at = len(levels) + max(1, len(levels) // _REFIT)
        columns: list[tuple[np.ndarray, np.ndarray]] = []
        reference: list[float] = []
        for i, (objective, learned) in enumerate(zip(self._wanted, self._learned)):
            if learned:
                link = Latent.fitted(objective, levels[:, i])
                columns.append(link.levels(*self._guess(i, link, levels[:, i], pool, refit)))
                best, worst = levels[:, i].min(), link.worst(levels[:, i])
            else:
                known = level(objective, np.array([row[objective.name] for row in pool.columns]))
                columns.append((known, np.zeros(len(pool))))
                both = np.concatenate((known, levels[:, i]))
                best, worst = both.min(), both.max()
            share = beyond(objective)
            reference.append(float(worst + share * (worst - best)) if worst > best else float(worst) + share)
        if len(columns) == 1:
            columns.insert(0, (np.zeros(len(pool)), np.zeros(len(pool))))
            reference.insert(0, 1.0)
        mean, sd = (np.stack([pair[side] for pair in columns], axis=1) for side in (0, 1))
        return mean, sd, (reference[0], reference[1])

    def _guess(self, i: int, link: Latent, levels: np.ndarray, pool: Pool, refit: bool) -> tuple[np.ndarray, np.ndarray]:
        """Latents of the pool for the i-th objective, learned from all that was measured."""
        believed = np.array(self._beliefs) if link.ceiling else np.zeros(len(levels))
        expected = pool.beliefs if link.ceiling else np.zeros(len(pool))
        x, z, y = np.array(self._features), believed[:, None], link.of(levels) - believed
        if refit or i not in self._kernels:
            self._kernels[i] = gp.sought(x, z, y, kernel_prior(x.shape[1], believed=bool(expected.any())))
        process = gp.process(x, z, y, self._kernels[i])
        mean, sd = process.mean(pool.features, expected[:, None]), process.sd(pool.features, expected[:, None])
        return mean + expected, sd


def beyond(objective: Objective) -> float:
    """How far the reference point lies beyond the worst network, in ranges of the objective.

    Whoever sets a limit wants the best network at it, where a near reference sees hardly any area.
    """
    return MARGIN if objective.limit is None else REACH


def _pairs(levels: np.ndarray) -> np.ndarray:
    """(n, 2) levels; a single objective becomes the second one."""
    return levels if levels.shape[1] == 2 else np.concatenate((np.zeros_like(levels), levels), axis=1)


def kernel_prior(features: int, believed: bool = False) -> gp.Prior:
    """Vague, and as tall whatever the number of features: slopes and scales go with its root."""
    root = features**0.5
    kin = np.log(0.2) if believed else _OFF
    middle = gp.Kernel(np.full(features, np.log(0.9 / root)), np.full(features, np.log(0.6 * root)), float(np.log(0.35)), float(kin),
                       float(np.log(0.04)))
    return gp.Prior(middle, gp.Kernel(np.full(features, 0.7), np.full(features, 0.5), 0.7, 0.5, 0.5))
