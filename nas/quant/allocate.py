"""Which bits for which layer: the least sensitive assignment whose cost stays within a limit, exactly.

A multiple-choice knapsack as an integer program (HAWQ-v3, arXiv:2011.10680): one option a layer, losses and costs add up over layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from nas.quant.errors import QuantError

Option = TypeVar("Option")
_SLACK = 1e-9  # of a limit: sums of floats in another order


def allocate(
    losses: Mapping[str, Mapping[Option, float]], costs: Mapping[str, Mapping[str, Mapping[Option, float]]], limits: Mapping[str, float]
) -> dict[str, Option]:
    """Layer -> option, of least summed loss among all assignments with sum(costs[limit][layer][option]) <= limits[limit] for each limit.

    losses   layer -> option -> what choosing it costs in accuracy, in any unit that adds up
    costs    name of a limit (such as 'latency_ms') -> layer -> option -> amount
    Raises QuantError where nothing fits, with the least that each limit could be.
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
            raise QuantError(f"no assignment of bits keeps {name} within {limit:g}: the least is {least:g}")
        constraints.append(LinearConstraint([[costs[name][layer][option] for layer, option in layers]], -np.inf, limit * (1 + _SLACK)))
    values = np.array([losses[layer][option] for layer, option in layers], dtype=float)
    unit = float(np.abs(values).max()) or 1.0  # the solver's tolerances are absolute
    found = milp(values / unit, constraints=constraints, integrality=np.ones(len(layers)),
                 bounds=Bounds(0, 1), options={"mip_rel_gap": 0.0})  # fmt: skip
    if found.x is None:
        raise QuantError(f"no assignment of bits keeps {' and '.join(f'{n} within {v:g}' for n, v in limits.items())} at once")
    return {layer: option for (layer, option), chosen in zip(layers, found.x) if chosen > 0.5}
