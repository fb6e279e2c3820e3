"""Regularized (aging) evolution (Real et al. 2019, arXiv:1802.01548), its tournament by constraint domination."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from nas.objectives import Objective
from nas.search.core import Ledger, Scores, SpaceExhausted, best_first
from nas.study import Trial
from searchspaces.space import Arch, Genes, Space

_TRIES = 32  # mutations of one parent before a random network takes the place of its child


class RegularizedEvolution:
    """The youngest `population` networks live; the best of `tournament` random ones is mutated. With several objectives, the best one
    is of the tournament's first front, at its least crowded place."""

    def __init__(self, space: Space, objectives: Sequence[Objective], *, rng: np.random.Generator, population: int = 64,
                 tournament: int = 10, batch: int = 16) -> None:
        self.batch = batch
        self._space = space
        self._rng = rng
        self._first = population
        self._tournament = tournament
        self._ledger = Ledger(space, rng)
        self._scores = Scores(objectives)
        self._living: deque[tuple[Genes, list[float], float]] = deque(maxlen=population)

    def ask(self) -> Arch:
        child = self._child() if self._first <= 0 and len(self._living) > 1 else self._ledger.random(1)
        self._first -= 1
        if not len(child):
            raise SpaceExhausted("every network of the space has been tried")
        return self._ledger.issue(child[0])

    def tell(self, trial: Trial) -> None:
        genes = self._ledger.redeem(trial.arch)
        if trial.state != "failed":
            self._living.append((genes, self._scores.values(trial), self._scores.violation(trial)))

    def _child(self) -> Genes:
        """(1, genes), or (0, genes) where the space has no more."""
        picked = self._rng.choice(len(self._living), size=min(self._tournament, len(self._living)), replace=False)
        genes, values, violation = zip(*(self._living[i] for i in picked))
        parent = genes[best_first(np.array(values), np.array(violation))[0]]
        for i in range(_TRIES):
            child = parent.copy()
            for gene in self._rng.choice(len(parent), size=min(1 + i // 8, len(parent)), replace=False):
                child[gene] = self._rng.integers(self._space.sizes[gene])
            if len(fresh := self._ledger.fresh(self._space.canonical(child[None]))):
                return fresh
        return self._ledger.random(1)
