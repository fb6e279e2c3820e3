"""Start weights of a network from those of a trained one of another width or depth, as elastic networks share them.

Once-for-all (Cai et al. 2020, arXiv:1908.09791) cuts narrow networks out of a wide one; here either may be the larger one.  Layers of a
scope ('stage2', 'neck.p4_up') are paired in order, whichever of them are of a kind, and channels are followed through splits, sums and
concats, so that a channel of a wider network reads what it read in the donor.  What a copied channel reads beyond that starts at zero:
a network that is wider than its donor everywhere starts with the donor's outputs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import numpy as np

from searchspaces import Graph, Node, Weights
from searchspaces.ops import WEIGHTED

Indices = np.ndarray  # (C,) int64: for each channel of a tensor of ours the donor's one, -1 where there is none
_IMAGE, _NONE = 0, -1  # number of the image's first channel, and of a channel that the donor does not have
_ROOM = 1 << 20  # numbers for the channels of one layer


@dataclass(frozen=True)
class Inherited:
    """Weights of the asked shapes, and the `share` 0..1 of their numbers that the donor gave."""

    weights: Weights
    share: float


def inherit(graph: Graph, weights: Weights, donor_graph: Graph, donor_weights: Weights) -> Inherited:
    """The weights of a float `graph` with what the donor has of its layers; the rest stays as in `weights`, such as random ones.

    Both graphs are in training form.  Where rep branches of the donor are merged, ours get its kernel alone.
    """
    pairs = _pairs(graph, weights, donor_graph, donor_weights)
    base = {node.name: _ROOM * number for number, node in enumerate(donor_graph.nodes, 1)}
    theirs = _channels(donor_graph, lambda node: base[node.name] + np.arange(node.shape[0]))

    def numbered(node: Node) -> Indices:
        donor = pairs.get(node.name)
        found = _outputs(graph, node, donor_graph, donor) if donor else np.full(node.shape[0], _NONE)
        return np.where(found < 0, _NONE, found + base[donor.name]) if donor else found

    ours = _channels(graph, numbered)
    arrays = weights.arrays()
    copied = 0
    for name, donor in pairs.items():
        node = graph[name]
        reads = _matched(ours[node.inputs[0]], theirs[donor.inputs[0]])
        for param in _params(weights, name):
            if (source := donor_weights.get(donor, param)) is None:
                continue
            target = arrays[f"{name}.{param}"]
            if node.op in WEIGHTED:
                gives = np.where(ours[name] < 0, -1, ours[name] - base[donor.name])
                arrays[f"{name}.{param}"], count = _layer(target, source, reads, gives, node.op == "conv_transpose2d")
            else:
                arrays[f"{name}.{param}"], count = _vector(target, source, reads)
            copied += count
    return Inherited(Weights(arrays), copied / max(1, sum(array.size for array in arrays.values())))


def _layer(target: np.ndarray, source: np.ndarray, reads: Indices, gives: Indices, transposed: bool) -> tuple[np.ndarray, int]:
    """A weight (C_out, C_in, ..), (C_in, C_out, ..) where transposed, or a bias (C_out,), and how many numbers came from the donor."""
    if target.ndim == 1:
        return _vector(target, source, gives)
    new, old = (np.swapaxes(a, 0, 1).copy() if transposed else a.copy() for a in (target, source))
    if len(reads) != new.shape[1]:  # groups: a channel reads few of the layer's inputs
        reads = _prefix(new.shape[1], old.shape[1])
    rows, columns = gives >= 0, reads >= 0
    new[rows] = 0.0
    new[np.ix_(rows, columns)] = old[np.ix_(gives[rows], reads[columns])]
    return np.swapaxes(new, 0, 1) if transposed else new, int(rows.sum() * columns.sum() * prod(new.shape[2:]))


def _vector(target: np.ndarray, source: np.ndarray, channels: Indices) -> tuple[np.ndarray, int]:
    if target.shape != channels.shape:  # not one number a channel, such as the value of a scale
        return (source.copy(), source.size) if source.shape == target.shape else (target, 0)
    there = channels >= 0
    new = target.copy()
    new[there] = source[channels[there]]
    return new, int(there.sum())


def _pairs(graph: Graph, weights: Weights, donor_graph: Graph, donor_weights: Weights) -> dict[str, Node]:
    """Our node -> the donor's, for layers that are of a kind, and for the batch-norms behind them."""
    ours, theirs = _by_scope(graph, weights), _by_scope(donor_graph, donor_weights)
    pairs: dict[str, Node] = {}
    for scope, nodes in ours.items():
        for a, b in _aligned(nodes, theirs.get(scope, []), weights, donor_weights):
            pairs[a.name] = b
    for norm in graph.of("batchnorm"):
        if norm.name not in pairs and (layer := pairs.get(norm.inputs[0])):
            behind = [reader for reader in donor_graph.readers(layer.name) if reader.op == "batchnorm"]
            pairs |= {norm.name: behind[0]} if behind else {}
    return pairs


def _by_scope(graph: Graph, weights: Weights) -> dict[str, list[Node]]:
    """Nodes with weights by the first part of their names, but for batch-norms that follow a layer."""
    found: dict[str, list[Node]] = defaultdict(list)
    for node in graph:
        follows = node.op == "batchnorm" and graph[node.inputs[0]].op in WEIGHTED
        if not follows and _params(weights, node.name):
            found[node.name.rpartition(".")[0]].append(node)
    return found


def _aligned(a: list[Node], b: list[Node], weights: Weights, donor_weights: Weights) -> list[tuple[Node, Node]]:
    """The longest pairing of two lists in order, nodes of a kind together; among equally long ones that of the closest shapes."""
    worth = np.zeros((len(a), len(b)))
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            worth[i, j] = 1 + _overlap(x, y, weights, donor_weights) if _kind(x) == _kind(y) else 0
    best = np.zeros((len(a) + 1, len(b) + 1))  # of what is left of both lists
    for i in reversed(range(len(a))):
        for j in reversed(range(len(b))):
            paired = worth[i, j] + best[i + 1, j + 1] if worth[i, j] else 0
            best[i, j] = max(paired, best[i + 1, j], best[i, j + 1])
    i = j = 0
    found = []
    while i < len(a) and j < len(b):
        if worth[i, j] and best[i, j] == worth[i, j] + best[i + 1, j + 1]:
            found.append((a[i], b[j]))
            i, j = i + 1, j + 1
        elif best[i, j] == best[i + 1, j]:
            i += 1
        else:
            j += 1
    return found


def _kind(node: Node) -> tuple[object, ...]:
    return node.op, node.get("kernel"), node.get("stride"), node.get("groups", 1) > 1


def _overlap(a: Node, b: Node, weights: Weights, donor_weights: Weights) -> float:
    """Share 0..1 of two nodes' first arrays that both have."""
    x, y = (w[node, _params(w, node.name)[0]].shape for node, w in ((a, weights), (b, donor_weights)))
    return prod(min(p, q) / max(p, q) for p, q in zip(x, y))


def _params(weights: Weights, name: str) -> list[str]:
    return [param for param in ("weight", "bias", "gamma", "beta", "mean", "var", "value") if (name, param) in weights]


def _outputs(graph: Graph, node: Node, donor_graph: Graph, donor: Node) -> Indices:
    """For each channel that a layer gives the donor's, piece by piece where both split what they give."""
    ours, theirs = _pieces(graph, node), _pieces(donor_graph, donor)
    if len(ours) != len(theirs):
        ours, theirs = [0, node.shape[0]], [0, donor.shape[0]]
    parts = []
    for (start, stop), (first, last) in zip(pairwise(ours), pairwise(theirs)):
        found = _prefix(stop - start, last - first)
        parts.append(np.where(found < 0, -1, found + first))
    return np.concatenate(parts)


def _pieces(graph: Graph, node: Node) -> list[int]:
    """Channels at which what a layer gives is cut by slices, 0 and its width among them."""
    readers = graph.readers(node.name)
    while len(readers) == 1 and readers[0].op in ("batchnorm", "activation"):
        readers = graph.readers(readers[0].name)
    cuts = {edge for reader in readers if reader.op == "slice" for edge in (reader["start"], reader["stop"])}
    return sorted({0, node.shape[0], *cuts})


def _channels(graph: Graph, of_layer: Callable[[Node], Indices]) -> dict[str, Indices]:
    """A number for each channel of each tensor, which says which channel of which layer it carries on."""
    found: dict[str, Indices] = {}
    for node in graph:
        count = node.shape[0]
        if node.op == "input":
            found[node.name] = _IMAGE + np.arange(count)
        elif node.op in WEIGHTED:
            found[node.name] = of_layer(node)
        elif node.op == "concat":
            found[node.name] = np.concatenate([found[name] for name in node.inputs])
        elif node.op == "slice":
            found[node.name] = found[node.inputs[0]][node["start"] : node["stop"]]
        else:  # channels go through; a sum carries on its first input, the one that is there at any depth
            first = found[node.inputs[0]]
            found[node.name] = np.repeat(first, count // len(first)) if len(first) and count % len(first) == 0 else np.full(count, _NONE)
    return found


def _matched(ours: Indices, theirs: Indices) -> Indices:
    """For each channel that is read the donor's position of the same number, the n-th of ours for the n-th of theirs.  Where the donor
    reads none of them, as behind layers that only one of the two has, positions match.
    """
    places: Mapping[int, list[int]] = defaultdict(list)
    for position, number in enumerate(theirs.tolist()):
        if number != _NONE:
            places[number].append(position)
    queues = {number: iter(positions) for number, positions in places.items()}
    found = np.array([next(queues.get(number, iter(())), -1) for number in ours.tolist()], np.int64)
    return found if (found >= 0).any() else _prefix(len(ours), len(theirs))


def _prefix(count: int, theirs: int) -> Indices:
    return np.where(np.arange(count) < theirs, np.arange(count), -1)
