"""Proxy screening: thousands of networks ranked by what is believed of them, the best ones evaluated, the surroundings of these next."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from nas.objectives import Objective
from nas.pareto import front, ranks
from nas.search.core import Ledger, Scores
from nas.search.latent import level
from nas.search.nsga2 import NSGA2
from nas.search.pool import CHOICE, Belief, Cheap, Pool, Pools
from nas.study import Trial
from searchspaces.space import Arch, Genes, Space


class Screening:
    """Of `screened` random candidates within the limits, those on the first fronts of known objectives and belief are asked; later
    ones are mutations of the front that was measured, ranked the same way. Nothing is learned.

    cheap(arch) gives the cheap columns; belief(archs, columns) says how accurate networks may be, larger is better: a count or a proxy
    that costs little. Without both there is nothing to screen by, and NSGA-II asks.
    """

    def __init__(self, space: Space, objectives: Sequence[Objective], *, rng: np.random.Generator, cheap: Cheap | None = None,
                 belief: Belief | None = None, screened: int = 2000, batch: int = 16) -> None:
        self.batch = batch
        self._space = space
        self._known = [o for o in objectives if o.optimized and o.cost == "cheap"]
        self._rng = rng
        self._blind = cheap is None or belief is None
        self._screened = screened
        self._ledger = Ledger(space, rng)
        self._evolution = NSGA2(space, objectives, rng=rng, ledger=self._ledger)
        self._pools = Pools(space, self._ledger, rng, objectives, cheap, belief, 4 * batch)
        self._scores = Scores(objectives)
        self._queue: deque[Genes] = deque()
        self._told: list[tuple[Genes, list[float]]] = []

    def ask(self) -> Arch:
        if not self._queue and not self._blind:
            self._queue.extend(self._next())
        if not self._queue:
            return self._evolution.ask()
        return self._ledger.issue(self._queue.popleft())

    def tell(self, trial: Trial) -> None:
        self._evolution.tell(trial)
        if trial.state == "ok" and self._scores.violation(trial) <= 0:
            self._told.append((self._space.encode(trial.arch), self._scores.values(trial)))

    def _next(self) -> Genes:
        """(up to batch, genes), taken: at random within a front, the first front first."""
        if self._told:
            genes, values = zip(*self._told)
            pool = self._pools.around(np.array(genes)[front(values)])
        else:
            pool = self._pools.random(self._screened // CHOICE)
        if not len(pool):
            return pool.genes
        order = self._ranked(pool)
        self._pools.keep(pool, -order.astype(float))
        return self._ledger.fresh(pool.genes[np.lexsort((self._rng.random(len(pool)), order))[: self.batch]])

    def _ranked(self, pool: Pool) -> np.ndarray:
        """(n,) number of the front of each candidate, in known objectives and belief."""
        known = [level(o, np.array([row[o.name] for row in pool.columns])) for o in self._known]
        return ranks(np.stack([*known, -pool.beliefs], axis=1))
