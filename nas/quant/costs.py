"""What every option of every layer costs, and the assignment that keeps limits when the whole net is measured.

Costs are those of whole nets with one option everywhere, taken apart by layer: on this machine they are compiled and timed, on a device
with operator costs they are priced.  So a layer's cost stands in its place in the net, between layers of its own option.  What the rest
of a net takes is shared out over the layers: costs add up to what was found for each net of one option.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from hwmodels.device import LOCAL, Device
from hwmodels.workload import workload
from nas.deploy.layers import whole_and_layers
from nas.quant.allocate import Option, Table, allocate
from nas.quant.errors import NothingFits, QuantError
from searchspaces import Graph, Weights
from searchspaces.quantizers import quantized
from searchspaces.rewrite import deployed

LATENCY, SIZE = "latency_ms", "size_mb"
ROUNDS = 6  # of drawing a limit in


def latency(graph: Graph, weights: Weights, images: Iterable[Tensor], device: Device) -> tuple[float, dict[str, float]]:
    """(whole, operator of the deploy form -> ms) of a net at the bits of its graph.

    On this machine it is timed with steps fitted to the images, untrained: bits decide its time, values do not.
    """
    if device.name == LOCAL:
        with torch.no_grad():
            return whole_and_layers(graph, weights, images)
    if device.operators is None:
        raise QuantError(f"device '{device.name}' prices whole networks and no single layer; layers are priced by 'local' and by boards "
                         "with operator costs")  # fmt: skip
    load = workload(deployed(quantized(graph)))
    return device.predict(load).mean_ms, {op.name: device.operators.price(op) for op in load.ops}


def shared_out(parts: Mapping[str, Mapping[str, float]], wholes: Mapping[str, float]) -> Table:
    """layer -> option -> amount, from those of the layers and of whole nets of one option: the rest of a net in equal shares."""
    rest = {option: (whole - sum(parts[layer][option] for layer in parts)) / len(parts) for option, whole in wholes.items()}
    return {layer: {option: amount + rest[option] for option, amount in amounts.items()} for layer, amounts in parts.items()}


def latency_costs(
    nets: Mapping[str, Graph], operators: Mapping[str, Sequence[str]], weights: Weights, images: Iterable[Tensor], device: Device
) -> Table:
    """layer -> option -> ms.  nets[option] has it in every layer; operators[layer] are the layer's in the deploy form."""
    wholes: dict[str, float] = {}
    parts: Table = {layer: {} for layer in operators}
    for option, net in nets.items():
        wholes[option], by_operator = latency(net, weights, images, device)
        for layer, names in operators.items():
            parts[layer][option] = sum(by_operator[name] for name in names)
    return shared_out(parts, wholes)


def settled(
    losses: Mapping[str, Mapping[Option, float]], costs: Mapping[str, Mapping[str, Mapping[Option, float]]], limits: Mapping[str, float],
    measure: Callable[[dict[str, Option]], dict[str, float]],
) -> tuple[dict[str, Option], dict[str, float]]:  # fmt: skip
    """(layer -> option, limit -> cost) of least loss whose whole net, measured, keeps the limits.

    losses, costs, limits   as allocate takes them
    measure                 what a net of such an assignment costs as a whole, for each limit
    Where the whole is above a limit, the limit of the allocation is drawn in by the excess and it is done again.  Raises NothingFits.
    """
    drawn_in = dict(limits)
    for _ in range(ROUNDS):
        try:
            chosen = allocate(losses, costs, drawn_in)
        except NothingFits as fault:
            missed = [f"{name} was {limit - drawn_in[name]:.3g} above what layers add up to" for name, limit in limits.items()
                      if drawn_in[name] < limit]  # fmt: skip
            raise NothingFits(f"{fault} ({', '.join(missed)})" if missed else str(fault)) from None
        found = measure(chosen)
        if all(found[name] <= limits[name] for name in limits):
            return chosen, found
        drawn_in = {name: drawn_in[name] - max(found[name] - limits[name], 0.0) * 1.05 for name in limits}
    said = " and ".join(f"{name} within {limit:g} (last: {found[name]:g})" for name, limit in limits.items())
    raise NothingFits(f"no assignment keeps {said}")
