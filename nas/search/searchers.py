"""The table of searchers; `searcher` makes one by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nas.objectives import Objective
from nas.search.core import Searcher, SearchError
from nas.search.evolution import RegularizedEvolution
from nas.search.local import ParetoLocalSearch
from nas.search.nsga2 import NSGA2
from nas.search.pool import Belief, Cheap
from nas.search.random import Random
from nas.search.screening import Screening
from nas.search.surrogate import Surrogate
from searchspaces.space import Arch, Space

SEARCHERS: dict[str, Callable[..., Searcher]] = {
    "surrogate": Surrogate,
    "nsga2": NSGA2,
    "evolution": RegularizedEvolution,
    "local": ParetoLocalSearch,
    "screening": Screening,
    "random": Random,
}
NNI = "nni:"              # before the names of NNI's own strategies and tuners; see nas.nni_bridge
COSTING = frozenset({"surrogate", "screening"})     # these cost candidates before they ask: they take `cheap` and `belief`


def searcher(name: str, space: Space, objectives: Sequence[Objective], seed: int, *, cheap: Cheap | None = None,
             belief: Belief | None = None, known: Sequence[Arch] = (), **settings: Any) -> Searcher:
    """A new searcher by name; the same arguments ask the same. `cheap` (Evaluation.cheap), `belief` and `known`, networks to begin with,
    reach those that use them.

    'nni:NAME' is a strategy or tuner of NNI. Raises SearchError for a name that is not known.
    """
    check(name)
    if name.startswith(NNI):
        from nas.nni_bridge import searcher_from_nni

        return searcher_from_nni(name.removeprefix(NNI), space, objectives, seed=seed, **settings)
    if name in COSTING:
        settings |= {"cheap": cheap, "belief": belief}
    if name == "surrogate":
        settings |= {"known": known}
    return SEARCHERS[name](space, objectives, rng=np.random.default_rng(seed), **settings)


def check(name: str) -> None:
    """Raises SearchError, which lists what there is, unless `name` is in the table or, after 'nni:', one of NNI's."""
    known = list(SEARCHERS)
    if name.startswith(NNI):
        from nas.nni_bridge import STRATEGIES

        known = [f"{NNI}{strategy}" for strategy in STRATEGIES]
    if name not in known:
        raise SearchError(f"no searcher '{name}'; there are {', '.join(known)}; {NNI}TPE and others are NNI's")
