"""Bits for every layer of a trained net within a latency or a size, by what each layer costs on the device and what it minds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from hwmodels.device import Device
from hwmodels.flash import flash_bytes
from hwmodels.layout import weight_bytes
from nas.quant.allocate import Table
from nas.quant.costs import LATENCY, SIZE, latency, latency_costs, settled, shared_out
from nas.quant.errors import QuantError
from nas.quant.precisions import at_precision, free_layers, mixed
from nas.quant.sensitivity import MEASURES
from searchspaces import Graph, Weights
from searchspaces.module import to_torch
from searchspaces.quantizers import floated, quantized
from searchspaces.rewrite import deployed


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
    Raises NothingFits where no bits do.
    """
    if measure not in MEASURES:
        raise QuantError(f"no measure of sensitivity '{measure}'; measures: {', '.join(MEASURES)}")
    offered = list(precisions or device.precisions)
    if strange := [p for p in offered if p not in device.precisions or p == "fp32"]:
        raise QuantError(f"precision '{strange[0]}' is not one of the device's integer ones: {', '.join(device.precisions)}")
    names = [node.name for node in free_layers(graph)]
    minds = MEASURES[measure](to_torch(floated(graph), weights).eval(), names, offered, images, classes)
    costs: dict[str, Table] = {}
    if LATENCY in limits:
        nets = {precision: at_precision(graph, precision) for precision in offered}
        costs[LATENCY] = latency_costs(nets, {name: [name] for name in names}, weights, images, device)
    if SIZE in limits:
        costs[SIZE] = size_costs(graph, offered)

    def whole(chosen: Mapping[str, str]) -> dict[str, float]:
        net = mixed(graph, chosen)
        return {name: latency(net, weights, images, device)[0] if name == LATENCY else artifact_mb(net) for name in limits}

    return Choice(*settled(minds, costs, limits, whole), minds)


def size_costs(graph: Graph, precisions: Sequence[str]) -> Table:
    """MB of the artifact by layer: packed weights, and a share of everything else."""
    nets = {precision: at_precision(graph, precision) for precision in precisions}
    parts: Table = {node.name: {} for node in free_layers(graph)}
    for precision, bare in nets.items():
        net = deployed(quantized(bare))
        for name in parts:
            node = net[name]
            parts[name][precision] = weight_bytes(node, net.in_shapes(node)[0][-1 if node.op == "linear" else 0]) / 1e6
    return shared_out(parts, {precision: artifact_mb(net) for precision, net in nets.items()})


def artifact_mb(graph: Graph) -> float:
    """MB of the artifact of a net with its bits on it."""
    return flash_bytes(deployed(quantized(graph))) / 1e6
