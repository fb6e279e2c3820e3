"""NSGA-II on integer genes (Deb, Pratap, Agarwal, Meyarivan 2002, doi:10.1109/4235.996017), a generation at a time in numpy."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from nas.objectives import Objective
from nas.search.core import Ledger, Scores, SpaceExhausted, best_first
from nas.search.variation import polynomial, simulated_binary
from nas.study import Trial
from searchspaces.space import Arch, Genes, Space

_BREEDING_ROUNDS = 8  # before random genes fill a generation up


class NSGA2:
    """Constraint domination, binary tournaments, simulated binary crossover and polynomial mutation on the option numbers.

    Networks are never asked twice, so a generation holds only new ones. `mutation` is the probability per gene (default 1/genes).
    `ledger` is given where another searcher asks in the same space, too.
    """

    def __init__(self, space: Space, objectives: Sequence[Objective], *, rng: np.random.Generator, population: int = 24,
                 crossover: float = 0.9, mutation: float | None = None, ledger: Ledger | None = None) -> None:
        self.batch = population
        self._space = space
        self._rng = rng
        self._crossover = crossover
        self._mutation = mutation or 1 / len(space.choices)
        self._ledger = ledger or Ledger(space, rng)
        self._scores = Scores(objectives)
        self._queue: deque[Genes] = deque()
        self._told: list[tuple[Genes, list[float], float]] = []         # since the last generation
        # The surviving population, best first: genes, values to minimize, violation.
        self._genes = np.empty((0, len(space.choices)), dtype=np.int64)
        self._values = np.empty((0, self._scores.width))
        self._violation = np.empty(0)

    def ask(self) -> Arch:
        if not self._queue:
            self._select()
            self._queue.extend(self._breed() if len(self._genes) > 1 else self._spread())
        if not self._queue:
            raise SpaceExhausted("every network of the space has been tried")
        return self._ledger.issue(self._queue.popleft())

    def tell(self, trial: Trial) -> None:
        genes = self._ledger.redeem(trial.arch)
        if trial.state != "failed":
            self._told.append((genes, self._scores.values(trial), self._scores.violation(trial)))

    def _select(self) -> None:
        """Parents and told offspring together, the best `population` of them kept."""
        if not self._told:
            return
        genes, values, violation = zip(*self._told)
        self._told = []
        merged = np.concatenate((self._genes, genes))
        scores = np.concatenate((self._values, np.array(values).reshape(-1, self._scores.width)))
        misses = np.concatenate((self._violation, violation))
        kept = best_first(scores, misses)[: self.batch]
        self._genes, self._values, self._violation = merged[kept], scores[kept], misses[kept]

    def _spread(self) -> Genes:
        """The first generation: every gene runs evenly through its options, in its own random order."""
        columns = [self._rng.permutation(np.arange(self.batch) % size) for size in self._space.sizes]
        genes = self._ledger.fresh(self._space.canonical(np.stack(columns, axis=1)))
        return np.concatenate((genes, self._ledger.random(self.batch - len(genes))))

    def _breed(self) -> Genes:
        """`population` fresh children, fewer only where the space runs out."""
        children = np.empty((0, self._genes.shape[1]), dtype=np.int64)
        for _ in range(_BREEDING_ROUNDS):
            missing = self.batch - len(children)
            if missing == 0:
                return children
            born = self._space.canonical(polynomial(self._crossed(self.batch), self._mutation, self._space.sizes, self._rng))
            children = np.concatenate((children, self._ledger.fresh(born, limit=missing)))
        return np.concatenate((children, self._ledger.random(self.batch - len(children))))

    def _crossed(self, n: int) -> Genes:
        """(n, genes): the population is sorted, so the smaller of two random positions wins its tournament."""
        mothers, fathers = self._genes[self._rng.integers(0, len(self._genes), size=(2, 2, n)).min(axis=1)]
        return simulated_binary(mothers, fathers, self._crossover, self._space.sizes, self._rng)
