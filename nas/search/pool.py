"""Candidates of a searcher that costs networks before it asks: which ones, their cheap columns, and what is believed of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from nas.objectives import Objective, violations
from nas.search.core import Ledger, listed
from nas.search.features import Features
from nas.search.variation import crossed, mutated
from searchspaces.space import Arch, Genes, Space

Cheap = Callable[[Arch], Mapping[str, float]]
Belief = Callable[[Sequence[Arch], Sequence[Mapping[str, float]]], np.ndarray]     # archs, cheap columns -> (n,), larger is better

LISTED = 4096           # spaces up to this size are candidates as a whole
KEPT = 256              # good candidates that were not asked stay for the next batch
_REFERENCE = 64         # networks over which features are standardized
CHOICE = 8              # random candidates for each network wanted
_ROUNDS = 4             # of these, before tight limits are left to a searcher that approaches them
_CHANGES = 1.5          # genes that a mutation changes, on average
_TOP = 0.1              # share of a stratum from which a start is drawn


@dataclass(frozen=True)
class Pool:
    """Candidates within every cheap limit, not asked yet: (n, genes), n cheap columns, (n, features), (n,) beliefs."""

    genes: Genes
    columns: list[Mapping[str, float]]
    features: np.ndarray
    beliefs: np.ndarray

    def __len__(self) -> int:
        return len(self.genes)

    def take(self, rows: np.ndarray) -> Pool:
        return Pool(self.genes[rows], [self.columns[i] for i in rows], self.features[rows], self.beliefs[rows])

    def __add__(self, other: Pool) -> Pool:
        return Pool(np.concatenate((self.genes, other.genes)), self.columns + other.columns,
                    np.concatenate((self.features, other.features)), np.concatenate((self.beliefs, other.beliefs)))


class Pools:
    """Makes pools, and keeps the best of what was costed and not asked."""

    def __init__(self, space: Space, ledger: Ledger, rng: np.random.Generator, objectives: Sequence[Objective], cheap: Cheap | None,
                 belief: Belief | None, candidates: int) -> None:
        self._space = space
        self._ledger = ledger
        self._rng = rng
        self._objectives = objectives
        self._cheap = cheap
        self._belief = belief
        self._candidates = candidates
        self._whole = space.size <= LISTED
        self._kept: Pool | None = None

    @cached_property
    def features(self) -> Features:
        genes = listed(self._space) if self._whole else self._space.sample_genes(np.random.default_rng(0), _REFERENCE)
        rows, columns = self._priced(genes)
        return Features(self._space, genes[rows], columns)

    def described(self, genes: Genes, columns: Mapping[str, float]) -> tuple[np.ndarray, float]:
        """(features,) and the belief of one network that was measured."""
        counted = [columns if self._cheap else {}]
        return self.features(genes[None], counted)[0], float(self._believed(genes[None], counted)[0])

    def random(self, wanted: int) -> Pool:
        """Many times as many as wanted, fewer where random networks rarely meet the limits; the whole space where it is small."""
        if self._whole:
            return self._all()
        found = self._costed(np.empty((0, len(self._space.choices)), dtype=np.int64))
        for _ in range(_ROUNDS):
            if len(found) < CHOICE * wanted:
                found += self._costed(self._new(self._space.sample_genes(self._rng, CHOICE * wanted)))
        return found

    def around(self, front: Genes) -> Pool:
        """What was kept, and new candidates: half of them mutations, a quarter crossed, the others random. Parents are the front and
        as many candidates of which most was expected, so that a way of several steps costs no measurement in between.
        """
        if self._whole:
            return self._all()
        if self._kept is not None:
            front = np.concatenate((front, self._kept.genes[: len(front)]))
        half, quarter = self._candidates // 2, self._candidates // 4
        mothers, fathers = front[self._rng.integers(len(front), size=(2, half + quarter))]
        fathers[:half] = mothers[:half]
        born = mutated(self._space, crossed(mothers, fathers, 1.0, self._rng), _CHANGES / len(self._space.choices), self._rng)
        fresh = self._costed(self._new(self._space.canonical(np.concatenate((born, self._space.sample_genes(self._rng, quarter))))))
        if self._kept is not None:
            fresh = self._kept.take(self._ledger.untaken(self._kept.genes)) + fresh
        return fresh.take(self._ledger.untaken(fresh.genes))

    def keep(self, pool: Pool, gains: np.ndarray) -> None:
        """Remember the candidates of a pool that are worth most."""
        if not self._whole:
            self._kept = pool.take(np.argsort(-gains, kind="stable")[:KEPT])

    def _all(self) -> Pool:
        if self._kept is None:
            genes = listed(self._space)
            self._kept = self._costed(genes[np.sort(np.unique(genes, axis=0, return_index=True)[1])])
        self._kept = self._kept.take(self._ledger.untaken(self._kept.genes))
        return self._kept

    def _new(self, genes: Genes) -> Genes:
        return genes[self._ledger.untaken(genes)]

    def _costed(self, genes: Genes) -> Pool:
        """Those of (n, genes) that can be costed and meet the cheap limits."""
        rows, columns = self._priced(genes)
        within = [i for i, row in enumerate(columns) if not violations(row, self._objectives)]
        genes, columns = genes[rows][within], [columns[i] for i in within]
        return Pool(genes, columns, self.features(genes, columns), self._believed(genes, columns))

    def _believed(self, genes: Genes, columns: Sequence[Mapping[str, float]]) -> np.ndarray:
        if self._belief is None or not len(genes):
            return np.zeros(len(genes))
        return self._belief([self._space.decode(row) for row in genes.tolist()], columns)

    def _priced(self, genes: Genes) -> tuple[list[int], list[Mapping[str, float]]]:
        """Rows that the cheap evaluation can cost, and their columns; a network that it cannot cost is no candidate."""
        if self._cheap is None:
            return list(range(len(genes))), [{}] * len(genes)
        rows, columns = [], []
        for i, row in enumerate(genes.tolist()):
            try:
                columns.append(self._cheap(self._space.decode(row)))
            except Exception:
                continue
            rows.append(i)
        return rows, columns


def spread(pool: Pool, known: np.ndarray | None, wanted: int, rng: np.random.Generator) -> list[int]:
    """Positions to start with: one in each stratum of the known objective, at random among those of which most is believed for it."""
    if known is None or not len(pool):
        return rng.permutation(len(pool))[:wanted].tolist()
    chosen = []
    for stratum in np.array_split(np.argsort(known, kind="stable"), wanted):
        if not len(stratum):
            continue
        slope, height = np.polyfit(known[stratum], pool.beliefs[stratum], 1) if len(stratum) > 2 else (0.0, 0.0)
        above = pool.beliefs[stratum] - slope * known[stratum] - height
        top = stratum[np.argsort(-above, kind="stable")[:max(3, int(_TOP * len(stratum)))]] if np.ptp(pool.beliefs) > 0 else stratum
        chosen.append(int(rng.choice(top)))
    return chosen
