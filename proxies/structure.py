"""What the graph alone says about how accurate a detector may get: counts, paths and widths, with rep branches merged.

These are the inputs of the combination learner and of the search's accuracy score.  A few milliseconds a graph, no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import log

import numpy as np

from hwmodels.workload import OpCost, Workload, workload
from proxies.errors import ProxyError
from searchspaces import Graph
from searchspaces.graph import Ref
from searchspaces.ops import WEIGHTED
from searchspaces.rewrite import merge_rep

Matrix = np.ndarray[tuple[int, int], np.dtype[np.float64]]


@dataclass(frozen=True)
class Feature:
    """`rises`: accuracy may only rise with it (else only fall), which the monotone model imposes and a search cannot game.
    `scale_free`: belongs to the architecture whatever the resolution; features that grow with the area are divided by it first.
    """

    name: str
    rises: bool = True
    scale_free: bool = False
    per_pixel: bool = False


FEATURES = (
    Feature("log_macs"),
    Feature("log_activation_elements"),  # outputs of weighted operators
    Feature("log_params", scale_free=True),
    Feature("log_resolution"),
    # Spatial convs on the longest way to a raw map: what the receptive field and the expressivity grow with.
    Feature("log_longest_path", scale_free=True),
    # Convs on the shortest way: the fewer a gradient has to pass, the better a deep network trains.  Merged RepVGG stacks, which
    # have no other skip, are long here; residual and cross-stage networks are short.
    Feature("log_shortest_path", rises=False, scale_free=True),
    Feature("log_width", scale_free=True),  # widest conv before the head at strides 4, 8 and 16, mean of logs
    Feature("log_convs", scale_free=True),
    Feature("log_head_macs", scale_free=True, per_pixel=True),  # of convs that serve one raw map alone
    Feature("smooth_share", scale_free=True),  # of activation elements: not cut off at 0 or bent there as the ReLU family is
)
NAMES = tuple(feature.name for feature in FEATURES)
_BENT = frozenset({"relu", "relu6", "leaky_relu"})
_WIDTH_STRIDES = (4, 8, 16)


def structure(graph: Graph) -> dict[str, float]:
    """The features of a graph in training form, under the names of FEATURES.  Raises ProxyError where it has no weighted operator."""
    merged = merge_rep(graph)[0]
    return structure_of(merged, workload(merged))


def structure_of(merged: Graph, load: Workload, saved: int = 0) -> dict[str, float]:
    """The same of a graph with rep branches merged and its workload, or of a deploy form and what its DeployBuilder `saved`."""
    convs = [op for op in load.ops if op.op in WEIGHTED]
    if not convs:
        raise ProxyError("a graph without a conv has no structure to score")
    side = merged.of("input")[0].shape[-1]
    longest, shortest, reached = _paths(merged)
    head = [op for op in convs if len(reached[op.name]) == 1]
    body = [op for op in convs if len(reached[op.name]) > 1] or convs
    elements = load.activation_elements
    ends = _raw_maps(merged)
    return {
        "log_macs": log(load.macs),
        "log_activation_elements": log(sum(elements.values())),
        "log_params": log(load.params + saved),
        "log_resolution": log(side),
        "log_longest_path": sum(log(max(1, longest[end])) for end in ends) / len(ends),
        "log_shortest_path": sum(log(max(1, shortest[end])) for end in ends) / len(ends),
        "log_width": _log_width(body, side),
        "log_convs": log(len(convs)),
        "log_head_macs": log(max(1, sum(op.macs for op in head))),
        "smooth_share": 1 - sum(elements.get(kind, 0) for kind in _BENT) / sum(elements.values()),
    }


def matrix(found: Iterable[Mapping[str, float]]) -> Matrix:
    """(graphs, FEATURES)"""
    return np.array([[row[name] for name in NAMES] for row in found])


def _raw_maps(graph: Graph) -> tuple[Ref, ...]:
    """What a detector's head hands to the decoder; the outputs of any other graph."""
    decoders = graph.of("dfl_decode")
    return tuple(name for node in decoders for name in node.inputs) if decoders else graph.outputs


def _paths(graph: Graph) -> tuple[dict[Ref, int], dict[Ref, int], dict[Ref, frozenset[Ref]]]:
    """By node: spatial convs on the longest way to it, convs on the shortest way to it, raw maps that hang on it."""
    longest: dict[Ref, int] = {}
    shortest: dict[Ref, int] = {}
    for node in graph:
        weighted = node.op in WEIGHTED
        longest[node.name] = max((longest[x] for x in node.inputs), default=0) + (weighted and node.get("kernel", 1) > 1)
        shortest[node.name] = min((shortest[x] for x in node.inputs), default=0) + weighted
    ends = frozenset(_raw_maps(graph))
    reached: dict[Ref, frozenset[Ref]] = {}
    for node in reversed(graph.nodes):
        beyond = [reached[reader.name] for reader in graph.readers(node.name) if node.name not in ends]
        reached[node.name] = frozenset({node.name}) & ends | frozenset().union(*beyond)
    return longest, shortest, reached


def _log_width(body: Iterable[OpCost], side: int) -> float:
    """A level that the network skips has no say."""
    widest: dict[int, int] = {}
    for op in body:
        stride = 2 ** round(np.log2(side / op.h_out)) if op.h_out <= side else 1
        widest[stride] = max(op.c_out, widest.get(stride, 1))
    levels = [widest[stride] for stride in _WIDTH_STRIDES if stride in widest] or list(widest.values())
    return sum(map(log, levels)) / len(levels)
