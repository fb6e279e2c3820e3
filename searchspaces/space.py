"""Space: choices over genes and a build function.  Sampling works on integer vectors, so thousands of candidates are cheap.

A gene that cannot matter (its `when` names another gene's options) takes its first value, so two spellings of one network
share one key.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from searchspaces.graph import Graph

Genes = np.ndarray[Any, np.dtype[np.int64]]  # (n, genes): option numbers


class SpaceError(ValueError):
    """A gene or an option outside the space: names it and lists what would work."""


@dataclass(frozen=True)
class Choice:
    """One gene.  `when=(gene, options)`: it matters only where that earlier gene takes one of those options."""

    name: str
    options: tuple[Any, ...]
    when: tuple[str, tuple[Any, ...]] | None = None


@dataclass(frozen=True)
class Arch:
    """One point of a space: gene names to options, canonical.  Plain JSON on disk."""

    space: str
    genes: Mapping[str, Any]

    def __getitem__(self, gene: str) -> Any:
        return self.genes[gene]

    @cached_property
    def key(self) -> str:
        """The same for two spellings of one network; a study stores it."""
        return json.dumps(dict(self.genes), sort_keys=True, separators=(",", ":"))

    def __hash__(self) -> int:
        return hash((self.space, self.key))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Arch) and (self.space, self.key) == (other.space, other.key)


@dataclass(frozen=True)
class Space:
    """`build(arch, classes) -> Graph` in training form; where the space can be costed, `build(arch, classes, g)` lets a given Builder
    add the nodes, such as a DeployBuilder.  A gene's condition may only name genes before it.
    """

    name: str
    choices: tuple[Choice, ...]
    build: Callable[..., Graph]

    def __post_init__(self) -> None:
        seen: dict[str, Choice] = {}
        for choice in self.choices:
            if choice.name in seen or not choice.options:
                raise SpaceError(f"space '{self.name}': gene '{choice.name}' appears twice or has no options")
            if choice.when and (choice.when[0] not in seen or not set(choice.when[1]) <= set(seen[choice.when[0]].options)):
                raise SpaceError(f"space '{self.name}': the condition of '{choice.name}' names no earlier gene and its options")
            seen[choice.name] = choice

    @cached_property
    def sizes(self) -> np.ndarray:
        return np.array([len(choice.options) for choice in self.choices], dtype=np.int64)

    @cached_property
    def _column(self) -> dict[str, int]:
        return {choice.name: i for i, choice in enumerate(self.choices)}

    @cached_property
    def _conditions(self) -> list[tuple[int, int, Genes]]:
        """(gene, the gene it hangs on, option numbers of that one under which it matters), in gene order."""
        rows = []
        for i, choice in enumerate(self.choices):
            if choice.when:
                parent = self._column[choice.when[0]]
                allowed = [self.choices[parent].options.index(option) for option in choice.when[1]]
                rows.append((i, parent, np.array(allowed, dtype=np.int64)))
        return rows

    def canonical(self, genes: Genes) -> Genes:
        """A copy of (n, genes) option numbers with every gene that cannot matter at its first option."""
        genes = genes.copy()
        for gene, parent, allowed in self._conditions:
            genes[~np.isin(genes[:, parent], allowed), gene] = 0
        return genes

    def sample_genes(self, rng: np.random.Generator, n: int) -> Genes:
        """(n, genes) canonical option numbers, each gene uniform over its options."""
        return self.canonical(rng.integers(0, self.sizes, size=(n, len(self.choices))))

    def sample(self, rng: np.random.Generator) -> Arch:
        return self.decode(self.sample_genes(rng, 1)[0])

    def mutate(self, arch: Arch, rng: np.random.Generator, rate: float | None = None) -> Arch:
        """Each gene that matters moves to another option with probability `rate` (default 1/genes), at least one does."""
        genes = self.encode(arch)
        live = [i for i in np.flatnonzero(self._matters(genes)) if self.sizes[i] > 1]
        if not live:
            return arch
        moved = [i for i in live if rng.random() < (rate if rate is not None else 1 / len(live))] or [live[rng.integers(len(live))]]
        for i in moved:
            genes[i] = (genes[i] + rng.integers(1, self.sizes[i])) % self.sizes[i]
        return self.decode(self.canonical(genes[None])[0])

    def crossover(self, a: Arch, b: Arch, rng: np.random.Generator) -> Arch:
        """Uniform crossover: each gene from either parent."""
        mask = rng.random(len(self.choices)) < 0.5
        return self.decode(self.canonical(np.where(mask, self.encode(a), self.encode(b))[None])[0])

    def repair(self, genes: Mapping[str, Any]) -> Arch:
        """The nearest arch: unknown genes dropped, missing ones first, options outside the space to the closest one."""
        return self.arch({c.name: _closest(genes.get(c.name, c.options[0]), c.options) for c in self.choices})

    def arch(self, genes: Mapping[str, Any]) -> Arch:
        """The canonical Arch of named options; raises SpaceError for a gene or an option that is not in the space."""
        if unknown := [name for name in genes if name not in self._column]:
            raise SpaceError(f"gene '{unknown[0]}' is outside space '{self.name}': genes are {', '.join(self._column)}")
        if missing := [name for name in self._column if name not in genes]:
            raise SpaceError(f"gene '{missing[0]}' of space '{self.name}' is missing")
        numbers = []
        for choice in self.choices:
            option = genes[choice.name]
            if option not in choice.options:
                options = ", ".join(map(str, choice.options))
                raise SpaceError(f"{choice.name}={option} is outside space '{self.name}': options are {options}")
            numbers.append(choice.options.index(option))
        return self.decode(self.canonical(np.array([numbers], dtype=np.int64))[0])

    def encode(self, arch: Arch) -> Genes:
        """(genes,) option numbers of an arch of this space."""
        return np.array([c.options.index(arch.genes[c.name]) for c in self.choices], dtype=np.int64)

    def decode(self, genes: Iterable[int]) -> Arch:
        return Arch(self.name, {c.name: c.options[i] for c, i in zip(self.choices, genes)})

    def limited(self, options: Mapping[str, Iterable[Any]]) -> Space:
        """This space with the named genes held to some of their options; raises SpaceError where none remains."""
        choices = []
        for choice in self.choices:
            if choice.name in options:
                wanted = list(options[choice.name])
                kept = tuple(option for option in choice.options if option in wanted)
                if not kept:
                    raise SpaceError(f"space '{self.name}': no option of '{choice.name}' ({choice.options}) is among {wanted}")
                choice = replace(choice, options=kept)
            choices.append(choice)
        kept_by_name = {choice.name: choice.options for choice in choices}
        return replace(self, choices=tuple(_reconditioned(choice, kept_by_name) for choice in choices))

    def _matters(self, genes: Genes) -> np.ndarray:
        live = np.ones(len(self.choices), dtype=bool)
        for gene, parent, allowed in self._conditions:
            live[gene] = live[parent] and genes[parent] in allowed
        return live

    @cached_property
    def size(self) -> float:
        """Number of spellings, an upper bound of the number of networks."""
        return float(np.prod(self.sizes.astype(float)))


def _reconditioned(choice: Choice, options: Mapping[str, tuple[Any, ...]]) -> Choice:
    if choice.when is None:
        return choice
    gene, allowed = choice.when
    return replace(choice, when=(gene, tuple(option for option in allowed if option in options[gene])))


def _closest(option: Any, options: tuple[Any, ...]) -> Any:
    if option in options or not isinstance(option, int | float):
        return option if option in options else options[0]
    return min(options, key=lambda o: abs(o - option) if isinstance(o, int | float) else float("inf"))
