"""Random search: the baseline that every other searcher has to beat."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from nas.objectives import Objective
from nas.search.core import Ledger, SpaceExhausted
from nas.study import Trial
from searchspaces.space import Arch, Genes, Space


class Random:
    """Uniform over the genes, never the same network twice."""

    def __init__(self, space: Space, objectives: Sequence[Objective], *, rng: np.random.Generator, batch: int = 32) -> None:
        self.batch = batch
        self._ledger = Ledger(space, rng)
        self._queue: deque[Genes] = deque()

    def ask(self) -> Arch:
        if not self._queue:
            self._queue.extend(self._ledger.random(self.batch))
        if not self._queue:
            raise SpaceExhausted("every network of the space has been tried")
        return self._ledger.issue(self._queue.popleft())

    def tell(self, trial: Trial) -> None:
        self._ledger.redeem(trial.arch)
