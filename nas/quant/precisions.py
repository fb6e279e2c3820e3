"""Bit-widths on a graph: one precision for all stages, or a precision for each layer."""

from __future__ import annotations

from collections.abc import Mapping

from nas.quant.errors import QuantError
from searchspaces import Graph, Node
from searchspaces.ops import ACTIVATION_BITS, WEIGHT_BITS, WEIGHTED
from searchspaces.yolo import EDGE_BITS, PRECISIONS, bits


def edge_layers(graph: Graph) -> set[str]:
    """Weighted layers with no other before or no other behind them, which stay at EDGE_BITS; what scales each channel alone is no layer."""
    layers = {node.name for node in graph.of(*WEIGHTED) if node.get("groups", 1) == 1 or node["kernel"] > 1}
    after: set[str] = set()  # nodes behind a layer
    for node in graph:
        if any(name in layers or name in after for name in node.inputs):
            after.add(node.name)
    before: set[str] = set()  # nodes whose result a layer depends on
    for node in reversed(graph.nodes):
        if node.name in layers or node.name in before:
            before.update(node.inputs)
    return {node.name for node in graph.of(*WEIGHTED) if node.name not in after & before}


def free_layers(graph: Graph) -> list[Node]:
    """Weighted layers whose bits may be chosen, in order."""
    edge = edge_layers(graph)
    return [node for node in graph.of(*WEIGHTED) if node.name not in edge]


def at_precision(graph: Graph, precision: str) -> Graph:
    """The graph with every free layer at one precision such as 'w4a4'."""
    if not _known(precision):
        raise QuantError(f"no precision '{precision}'; want bits of weights and activations such as {', '.join(PRECISIONS)}")
    return mixed(graph, {node.name: precision for node in free_layers(graph)})


def mixed(graph: Graph, precisions: Mapping[str, str]) -> Graph:
    """The graph with each free layer at the precision of its name.

    A sum, a pooling and whatever else has no weights holds as many bits as the layers that read it need.
    """
    free = {node.name for node in free_layers(graph)}
    if wrong := sorted((precisions.keys() ^ free) | {name for name, p in precisions.items() if not _known(p)}):
        raise QuantError(f"layer '{wrong[0]}': want one of {', '.join(PRECISIONS)} for each of the {len(free)} layers with free bits")
    changed: dict[str, Node] = {}
    for node in reversed(graph.nodes):
        if node.op in WEIGHTED:
            weights, codes = bits(precisions[node.name]) if node.name in free else (EDGE_BITS, EDGE_BITS)
            changed[node.name] = node.having(wbits=weights, abits=codes)
        else:
            readers = [changed[reader.name].attrs["abits"] for reader in graph.readers(node.name)]
            changed[node.name] = node.having(abits=max(readers, default=EDGE_BITS))
    return graph.edited(changed)


def _known(precision: str) -> bool:
    """Of the space, or another of bits that are trained and compiled, such as w3a3."""
    return precision in {f"w{w}a{a}" for w in WEIGHT_BITS for a in ACTIVATION_BITS}
