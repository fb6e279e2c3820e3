"""Bits for every layer of a trained net within a latency or a size, by what each layer costs on the device and what it minds.

Costs are those of whole nets at one precision each, taken apart by layer: on this machine they are compiled and timed, on a device with
operator costs they are priced.  So a layer's cost stands in its place in the net, between layers as narrow as itself; where the net of
mixed bits turns out above the limit, the limit of the allocation is drawn in and it is done again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hwmodels.device import LOCAL, Device
from hwmodels.flash import flash_bytes
from hwmodels.layout import weight_bytes
from hwmodels.workload import workload
from nas.deploy.layers import whole_and_layers
from nas.quant.allocate import allocate
from nas.quant.errors import QuantError
from nas.quant.precisions import at_precision, free_layers, mixed
from nas.quant.sensitivity import MEASURES, Table
from searchspaces import Graph, Weights
from searchspaces.module import to_torch
from searchspaces.ops import WEIGHTED
from searchspaces.quantizers import floated, quantized
from searchspaces.rewrite import deployed

LATENCY, SIZE = "latency_ms", "size_mb"
ROUNDS = 6  # of drawing a limit in


@dataclass(frozen=True)
class Costs:
    """One limit's costs: layer -> precision -> amount, and `rest`, what the other layers need at most at any one precision."""

    layers: Table
    rest: float


@dataclass(frozen=True)
class Choice:
    """Layer -> precision, with what the whole net then costs by limit and what each layer minds."""

    precisions: dict[str, str]
    costs: dict[str, float]
    sensitivity: Table


def choose(
    graph: Graph, weights: Weights, images: Sequence[Tensor], classes: int, device: Device, limits: Mapping[str, float], *,
    precisions: Sequence[str] | None = None, measure: str = "loss",
) -> Choice:  # fmt: skip
    """The least sensitive bits within `limits` ('latency_ms', 'size_mb') for a trained float net.

    graph, weights   rep branches merged; bits on the graph are not looked at
    images           batches (N, 3, H, W) in 0..1 on which the sensitivity is taken
    measure          'loss', 'hessian' or 'noise' (nas.quant.sensitivity)
    Raises QuantError where no bits fit.
    """
    if measure not in MEASURES:
        raise QuantError(f"no measure of sensitivity '{measure}'; measures: {', '.join(MEASURES)}")
    offered = list(precisions or device.precisions)
    if strange := [p for p in offered if p not in device.precisions or p == "fp32"]:
        raise QuantError(f"precision '{strange[0]}' is not one of the device's integer ones: {', '.join(device.precisions)}")
    names = [node.name for node in free_layers(graph)]
    model = to_torch(floated(graph), weights).eval()
    minds = MEASURES[measure](model, names, offered, images, classes)
    tables = {name: (latency_costs if name == LATENCY else size_costs)(graph, weights, images, device, offered) for name in limits}
    layers = {name: table.layers for name, table in tables.items()}
    drawn = {name: limit - tables[name].rest for name, limit in limits.items()}
    for _ in range(ROUNDS):
        try:
            chosen = allocate(minds, layers, drawn)
        except QuantError as fault:
            left = ", ".join(f"of {name} {limit:g}, {limit - drawn[name]:.3g} go to everything else" for name, limit in limits.items())
            raise QuantError(f"{fault} ({left})") from None
        found = {name: cost_of(name, mixed(graph, chosen), weights, images, device) for name in limits}
        if all(found[name] <= limits[name] for name in limits):
            return Choice(chosen, found, minds)
        drawn = {name: drawn[name] - max(found[name] - limits[name], 0.0) * 1.05 for name in limits}
    raise QuantError("no bits keep " + " and ".join(f"{name} within {limit:g} (last: {found[name]:g})" for name, limit in limits.items()))


def size_costs(graph: Graph, weights: Weights, images: Iterable[Tensor], device: Device, precisions: Sequence[str]) -> Costs:
    """MB of the artifact: packed weights by layer, and everything else."""
    layers: Table = {node.name: {} for node in free_layers(graph)}
    rest = 0.0
    for precision in precisions:
        net = deployed(quantized(at_precision(graph, precision)))
        for name in layers:
            node = net[name]
            layers[name][precision] = weight_bytes(node, net.in_shapes(node)[0][-1 if node.op == "linear" else 0]) / 1e6
        rest = max(rest, flash_bytes(net) / 1e6 - sum(options[precision] for options in layers.values()))
    return Costs(layers, rest)


def latency_costs(graph: Graph, weights: Weights, images: Iterable[Tensor], device: Device, precisions: Sequence[str]) -> Costs:
    """Milliseconds: measured layer by layer on this machine, priced on a device with operator costs."""
    names = [node.name for node in free_layers(graph)]
    layers: Table = {name: {} for name in names}
    rest = 0.0
    for precision in precisions:
        whole, by_layer = _latency(at_precision(graph, precision), weights, images, device)
        for name in names:
            layers[name][precision] = by_layer[name]
        rest = max(rest, whole - sum(by_layer[name] for name in names))
    return Costs(layers, rest)


def cost_of(name: str, graph: Graph, weights: Weights, images: Iterable[Tensor], device: Device) -> float:
    """What a net with its bits on it costs as a whole, in the unit of the limit's name."""
    return _latency(graph, weights, images, device)[0] if name == LATENCY else flash_bytes(deployed(quantized(graph))) / 1e6


def _latency(graph: Graph, weights: Weights, images: Iterable[Tensor], device: Device) -> tuple[float, dict[str, float]]:
    """(whole, layer -> ms).  A net is timed with steps fitted to the images, untrained: bits decide its time, values do not."""
    if device.name == LOCAL:
        with torch.no_grad():
            return whole_and_layers(graph, weights, images)
    if device.operators is None:
        raise QuantError(f"device '{device.name}' prices whole networks and no single layer; layers are priced by 'local' and by boards "
                         "with operator costs")  # fmt: skip
    load = workload(deployed(quantized(graph)))
    return device.predict(load).mean_ms, {op.name: device.operators.price(op) for op in load.ops if op.op in WEIGHTED}
