"""Searchers of other libraries behind our ask and tell: one rule for networks that they propose twice, and for those that do not exist."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nas.search.core import Ledger, SpaceExhausted
from nas.study import Trial
from searchspaces.space import Arch, Genes, Space

Repair = Callable[[Genes], Genes]  # (genes,) canonical -> (genes,): the nearest network that exists


class Ended(Exception):
    """The library proposes nothing more."""


class Foreign:
    """A library knows neither conditional genes nor which networks exist, and may propose one twice.  So every proposal is made canonical
    and repaired; a repeated one is answered from memory and costs nothing; after `patience` repeated ones in a row, or where the library
    has ended, a random new network is asked.

    A ticket is what a library calls its proposal.  `tell` settles all the tickets that wait for a network.
    """

    def __init__(self, space: Space, rng: np.random.Generator, *, batch: int, repair: Repair | None = None, patience: int = 50) -> None:
        self.batch = batch
        self._space = space
        self._ledger = Ledger(space, rng)
        self._repair = repair or (lambda genes: genes)
        self._patience = patience
        self._known: dict[str, Trial] = {}
        self._open: dict[str, list[Any]] = {}  # asked, not told: the tickets that wait for it

    def ask(self) -> Arch:
        for _ in range(self._patience):
            try:
                ticket, genes = self._propose()
            except Ended:
                break
            genes = self._repair(self._space.canonical(genes[None])[0])
            arch = self._space.decode(genes.tolist())
            if len(self._ledger.fresh(genes[None])):
                self._open[arch.key] = [ticket]
                return arch
            if arch.key in self._open:
                self._open[arch.key].append(ticket)
            else:
                self._repeated(ticket, self._known[arch.key])
        arch = self._random()
        self._open[arch.key] = self._imported(arch)
        return arch

    def tell(self, trial: Trial) -> None:
        self._known[trial.arch.key] = trial
        for ticket in self._open.pop(trial.arch.key, ()):
            self._settle(ticket, trial)

    def _random(self) -> Arch:
        while len(rows := self._ledger.random(1)):
            genes = self._repair(rows[0])
            if np.array_equal(genes, rows[0]) or len(self._ledger.fresh(genes[None])):
                return self._space.decode(genes.tolist())
        raise SpaceExhausted("every network of the space has been tried")

    def _propose(self) -> tuple[Any, Genes]:
        """A ticket and its (genes,).  Raises Ended where there is none left, SpaceExhausted where the library waits to be told."""
        raise NotImplementedError

    def _settle(self, ticket: Any, trial: Trial) -> None:
        raise NotImplementedError

    def _repeated(self, ticket: Any, trial: Trial) -> None:
        """Settle a proposal of a network that was told before."""
        self._settle(ticket, trial)

    def _imported(self, arch: Arch) -> list[Any]:
        """The tickets of a network that the library did not propose, where it takes such results."""
        return []
