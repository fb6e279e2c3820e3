"""Which option (bits, an activation) for which layer: the least sensitive assignment whose cost stays within a limit, exactly.

A multiple-choice knapsack as an integer program (HAWQ-v3, arXiv:2011.10680): one option a layer, losses and costs add up over layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from nas.quant.errors import NothingFits

Option = TypeVar("Option")
Table = dict[str, dict[str, float]]  # layer -> option -> amount, in a unit that adds up over layers
_SLACK = 1e-9  # of a limit: sums of floats in another order


def allocate(
    losses: Mapping[str, Mapping[Option, float]], costs: Mapping[str, Mapping[str, Mapping[Option, float]]], limits: Mapping[str, float]
) -> dict[str, Option]:
    """Layer -> option, of least summed loss among all assignments with sum(costs[limit][layer][option]) <= limits[limit] for each limit.

    losses   layer -> option -> what choosing it costs in accuracy, in any unit that adds up
    costs    name of a limit (such as 'latency_ms') -> layer -> option -> amount
    Raises NothingFits where nothing does, with the least that each limit could be.
    """
    layers = [(layer, option) for layer, options in losses.items() for option in options]
    rows = {layer: k for k, layer in enumerate(losses)}
    one_each = np.zeros((len(losses), len(layers)))
    for k, (layer, _) in enumerate(layers):
        one_each[rows[layer], k] = 1.0
    constraints = [LinearConstraint(one_each, 1, 1)]
    for name, limit in limits.items():
        least = sum(min(costs[name][layer].values()) for layer in losses)
        if least > limit * (1 + _SLACK):
            raise NothingFits(f"no assignment keeps {name} within {limit:g}: the least is {least:g}")
        constraints.append(LinearConstraint([[costs[name][layer][option] for layer, option in layers]], -np.inf, limit * (1 + _SLACK)))
    values = np.array([losses[layer][option] for layer, option in layers], dtype=float)
    unit = float(np.abs(values).max()) or 1.0  # the solver's tolerances are absolute
    found = milp(values / unit, constraints=constraints, integrality=np.ones(len(layers)),
                 bounds=Bounds(0, 1), options={"mip_rel_gap": 0.0})  # fmt: skip
    if found.x is None:
        raise NothingFits(f"no assignment keeps {' and '.join(f'{n} within {v:g}' for n, v in limits.items())} at once")
    return {layer: option for (layer, option), chosen in zip(layers, found.x) if chosen > 0.5}


def drawn(options: Mapping[str, Sequence[Option]], rng: np.random.Generator) -> dict[str, Option]:
    """Layer -> one of its options at random, each with a share of its own that is drawn first: draws differ in what they hold as well
    as in where.  All layers choose among the same number of options.
    """
    shares = rng.dirichlet(np.ones(len(next(iter(options.values())))))
    return {layer: found[rng.choice(len(found), p=shares)] for layer, found in options.items()}
