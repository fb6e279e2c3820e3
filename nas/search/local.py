"""Pareto local search: all neighbours of every undominated network (Paquete, Chiarandini, Stuetzle 2004,
doi:10.1007/978-3-642-17144-4_7)."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from nas.objectives import Objective
from nas.pareto import front
from nas.search.core import Ledger, Scores, SpaceExhausted
from nas.study import Trial
from searchspaces.space import Arch, Genes, Space


class ParetoLocalSearch:
    """Starts from `start` random networks; of the best ones not yet explored, one at random has its neighbours asked. A neighbour
    differs in one gene: by one step where options are numbers, by any other option where they are not."""

    def __init__(self, space: Space, objectives: Sequence[Objective], *, rng: np.random.Generator, start: int = 10, batch: int = 8) -> None:
        self.batch = batch
        self._space = space
        self._rng = rng
        self._start = start
        self._ledger = Ledger(space, rng)
        self._scores = Scores(objectives)
        self._queue: deque[Genes] = deque()
        self._told: list[tuple[Genes, list[float], float, bool]] = []   # genes, values, violation, explored

    def ask(self) -> Arch:
        while not self._queue:
            if not self._told:
                self._queue.extend(self._ledger.random(self._start))
            elif not self._explore():
                self._queue.extend(self._ledger.random(1))
            if not self._queue and not self._unexplored():
                raise SpaceExhausted("every network of the space has been tried")
        return self._ledger.issue(self._queue.popleft())

    def tell(self, trial: Trial) -> None:
        genes = self._ledger.redeem(trial.arch)
        if trial.state != "failed":
            self._told.append((genes, self._scores.values(trial), self._scores.violation(trial), False))
            self._forget()

    def _forget(self) -> None:
        """Only what is undominated stays; of infeasible networks, as long as there is no other, the nearest misses."""
        least = min(violation for _, _, violation, _ in self._told)
        kept = [entry for entry in self._told if entry[2] <= least]
        self._told = [kept[i] for i in front([entry[1] for entry in kept])] if least <= 0 else kept

    def _unexplored(self) -> list[int]:
        return [i for i, entry in enumerate(self._told) if not entry[3]]

    def _explore(self) -> bool:
        """Queue the new neighbours of one network; False where no network is left to explore."""
        waiting = self._unexplored()
        if not waiting:
            return False
        chosen = waiting[int(self._rng.integers(len(waiting)))]
        genes, values, violation, _ = self._told[chosen]
        self._told[chosen] = (genes, values, violation, True)
        around = self._space.canonical(neighbours(self._space, genes))
        self._queue.extend(self._ledger.fresh(self._rng.permutation(around)))
        return True


def neighbours(space: Space, genes: Genes) -> Genes:
    """(n, genes) spellings that differ from (genes,) in one gene."""
    rows = []
    for i, choice in enumerate(space.choices):
        ordered = all(isinstance(option, int | float) and not isinstance(option, bool) for option in choice.options)
        for option in (genes[i] - 1, genes[i] + 1) if ordered else range(len(choice.options)):
            if option != genes[i] and 0 <= option < len(choice.options):
                row = genes.copy()
                row[i] = option
                rows.append(row)
    return np.array(rows, dtype=np.int64).reshape(-1, len(genes))
