"""The table of searchers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nas.objectives import Objective
from nas.search.core import Searcher, SearchError
from nas.search.evolution import RegularizedEvolution
from nas.search.nsga2 import NSGA2
from nas.search.random import Random
from searchspaces.space import Space

SEARCHERS: dict[str, Callable[..., Searcher]] = {
    "nsga2": NSGA2,
    "evolution": RegularizedEvolution,
    "random": Random,
}


def searcher(name: str, space: Space, objectives: Sequence[Objective], seed: int, **settings: Any) -> Searcher:
    """A new searcher by name; the same arguments ask the same. Raises SearchError for a name that is not in the table."""
    if name not in SEARCHERS:
        raise SearchError(f"no searcher '{name}'; there are {', '.join(SEARCHERS)}")
    return SEARCHERS[name](space, objectives, rng=np.random.default_rng(seed), **settings)
