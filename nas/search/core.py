"""What every searcher shares: the protocol, the error class, the archs that were asked before, and who beats whom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from nas.objectives import Objective, violations
from nas.pareto import crowding, ranks
from nas.study import Trial
from searchspaces.space import Arch, Genes, Space

_ENUMERABLE = 100_000     # spellings of a space that are listed when sampling finds nothing new
_ROUNDS = 20              # samples of the size wanted before that


class SearchError(ValueError):
    """A search that cannot start or go on; the message says why and what would help."""


class SpaceExhausted(SearchError):
    """Every network of the space has been asked for."""


class Searcher(Protocol):
    """`ask` for up to `batch` archs, then `tell` their trials in the order of asking; a failed trial is told as well."""

    batch: int

    def ask(self) -> Arch:
        """An arch not asked before. Raises SpaceExhausted where there is none left."""

    def tell(self, trial: Trial) -> None: ...


class Ledger:
    """The genes asked so far: canonical duplicates are recognized, and a trial that comes back finds its genes without a search."""

    def __init__(self, space: Space, rng: np.random.Generator) -> None:
        self.space = space
        self.rng = rng
        self._taken: set[bytes] = set()
        self._open: dict[int, tuple[Arch, Genes]] = {}  # by id(arch); the arch is held, so the id stays its own

    def fresh(self, genes: Genes, limit: int | None = None) -> Genes:
        """The first `limit` rows of (n, genes) canonical option numbers that are neither taken nor come twice; they are taken now."""
        kept: list[int] = []
        for i, key in enumerate(map(bytes, np.ascontiguousarray(genes, dtype=np.uint16))):
            if len(kept) == limit:
                break
            if key not in self._taken:
                self._taken.add(key)
                kept.append(i)
        return genes[kept]

    def untaken(self, genes: Genes) -> np.ndarray:
        """Positions of the rows of (n, genes) canonical option numbers that `fresh` would give; none of them is taken now."""
        first: dict[bytes, int] = {}
        for i, key in enumerate(map(bytes, np.ascontiguousarray(genes, dtype=np.uint16))):
            if key not in self._taken:
                first.setdefault(key, i)
        return np.array(list(first.values()), dtype=np.int64)

    def random(self, n: int) -> Genes:
        """Up to n fresh random rows; fewer, and in the end none, where the space has no more."""
        found = np.empty((0, len(self.space.choices)), dtype=np.int64)
        for _ in range(_ROUNDS):
            if len(found) == n:
                return found
            found = np.concatenate((found, self.fresh(self.space.sample_genes(self.rng, n - len(found)))))
        if self.space.size <= _ENUMERABLE:
            found = np.concatenate((found, self.fresh(self.rng.permutation(listed(self.space)), limit=n - len(found))))
        return found

    def issue(self, genes: Genes) -> Arch:
        """The arch of one row, remembered until its trial comes back."""
        arch = self.space.decode(genes.tolist())
        self._open[id(arch)] = (arch, genes)
        return arch

    def redeem(self, arch: Arch) -> Genes:
        """The genes of an arch that comes back: (genes,)."""
        held = self._open.pop(id(arch), None)
        return held[1] if held else self.space.encode(arch)


def listed(space: Space) -> Genes:
    """Every spelling of a space, canonical; two of them may be one network."""
    return space.canonical(np.indices(tuple(space.sizes)).reshape(len(space.sizes), -1).T.astype(np.int64))


class Scores:
    """Reads a trial as numbers: the optimized columns, all to be minimized, and the sum of its violations."""

    def __init__(self, objectives: Sequence[Objective]) -> None:
        self._limited = [objective for objective in objectives if objective.limit is not None]
        self._wanted = [(o.name, 1.0 if o.direction == "min" else -1.0) for o in objectives if o.optimized]
        self.width = len(self._wanted)

    def values(self, trial: Trial) -> list[float]:
        """One number per optimized objective; 0 where an infeasible trial does not know it, since only its violation counts."""
        columns = trial.columns
        return [sign * columns.get(name, 0.0) for name, sign in self._wanted]

    def violation(self, trial: Trial) -> float:
        return sum(violations(trial.columns, self._limited).values()) if self._limited else 0.0


def best_first(values: np.ndarray, violation: np.ndarray) -> np.ndarray:
    """Indices from best to worst under constraint domination (Deb et al. 2002): a feasible point beats an infeasible one, of two
    infeasible ones the smaller violation wins, feasible ones go by front and, within one, by crowding distance.

    values (n, objectives), all minimized; violation (n,), 0 where feasible.
    """
    feasible = np.flatnonzero(violation <= 0)
    rank = np.zeros(len(values))
    spread = np.zeros(len(values))
    if feasible.size:
        levels = ranks(values[feasible])
        rank[feasible] = levels
        for level in range(int(levels.max()) + 1):
            members = feasible[levels == level]
            spread[members] = crowding(values[members])
    rank[violation > 0] = len(values)
    return np.lexsort((-spread, violation, rank))
