"""From the training form of a network to its deploy form: passes (Graph, Weights | None) -> the same.

Without weights only the structure changes, so that thousands of candidates can be costed in the form that will run.
Where a node's weights are codes (weight_scale present), scales change and codes stay.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import chain
from typing import overload

import numpy as np

from searchspaces.graph import Graph, Node, Ref
from searchspaces.ops import FLOAT_BITS, WEIGHTED, Attrs
from searchspaces.weights import Weights

Net = tuple[Graph, Weights | None]
TAKES_ACTIVATION = frozenset({"conv2d", "conv_transpose2d", "linear", "add", "batchnorm", "scale"})
_TAKES_QUANTIZE = frozenset({*TAKES_ACTIVATION, "mul", "activation", "input", "global_avgpool"})


@overload
def merge_rep(graph: Graph, weights: None = None) -> tuple[Graph, None]: ...
@overload
def merge_rep(graph: Graph, weights: Weights) -> tuple[Graph, Weights]: ...
def merge_rep(graph: Graph, weights: Weights | None = None) -> Net:
    """Merge the branches of a re-parameterizable sum into one conv (RepVGG, Ding et al. 2021, arXiv:2101.03697).

    before  x -> conv3x3 -> bn, x -> conv1x1 -> bn, (x -> bn) -> add(rep)
    after   x -> conv3x3(w, b): every branch folded, padded to the largest kernel and summed
    """
    changed: dict[Ref, Node] = {}
    gone: dict[Ref, Ref] = {}
    arrays: dict = {}
    lost: list[Node] = []
    for total in graph.of("add"):
        if not total.get("rep"):
            continue
        norms = [graph[name] for name in total.inputs]
        convs = [graph[n.inputs[0]] if graph[n.inputs[0]].op == "conv2d" else None for n in norms]
        real = [conv for conv in convs if conv is not None]
        base = max(real, key=lambda conv: conv["kernel"])
        attrs = {k: v for k, v in base.attrs.items() if k != "bias"}
        changed[total.name] = Node(total.name, "conv2d", base.inputs, {**attrs, "bias": True}, total.shape)
        for node in (*norms, *real):
            gone[node.name] = base.inputs[0]
            lost.append(node)
        if weights is not None:
            c_in = graph.in_shapes(base)[0][0] // base["groups"]
            kernels = [_branch(weights, conv, norm, base["kernel"], c_in) for conv, norm in zip(convs, norms)]
            arrays[total, "weight"] = np.sum([w for w, _ in kernels], axis=0).astype(np.float32)
            arrays[total, "bias"] = np.sum([b for _, b in kernels], axis=0).astype(np.float32)
    return graph.edited(changed, gone) if changed else graph, None if weights is None else weights.edited(arrays, lost)


def _branch(weights: Weights, conv: Node | None, norm: Node, kernel: int, c_in: int) -> tuple[np.ndarray, np.ndarray]:
    """(C_out, C_in/groups, kernel, kernel) and (C_out,) of one branch, float64; no conv is the identity."""
    gain, shift = norm_affine(weights, norm)
    c_out = len(gain)
    w = np.zeros((c_out, c_in, kernel, kernel))
    if conv is None:
        w[np.arange(c_out), np.arange(c_out) % c_in, kernel // 2, kernel // 2] = gain
    else:
        edge = (kernel - conv["kernel"]) // 2
        inside = slice(edge, edge + conv["kernel"])
        w[:, :, inside, inside] = weights[conv, "weight"] * gain[:, None, None, None]
    return w, shift


def norm_affine(weights: Weights, norm: Node) -> tuple[np.ndarray, np.ndarray]:
    """(gain, shift) per channel in float64: batchnorm(x) = x * gain + shift."""
    gamma, beta = weights[norm, "gamma"].astype(np.float64), weights[norm, "beta"].astype(np.float64)
    gain = gamma / np.sqrt(weights[norm, "var"].astype(np.float64) + norm["eps"])
    return gain, beta - weights[norm, "mean"] * gain


def fold_batchnorm(graph: Graph, weights: Weights | None = None) -> Net:
    """Fold a batch-norm into the weighted node it reads, where it is that node's only reader.

    before  x -> conv(w, b) -> batchnorm(gamma, beta, mean, var)
    after   x -> conv(w * s, (b - mean) * s + beta),  s = gamma / sqrt(var + eps) per output channel
    Where w are codes, weight_scale * s takes the place of w * s; it may then be negative.  A batch-norm behind anything else stays.
    """
    after, folded = _taken_in(graph, batchnorm=_bias)
    if weights is None:
        return after, None
    arrays: dict = {}
    for norm in folded:
        conv = graph[norm.inputs[0]]
        gain, shift = norm_affine(weights, norm)
        arrays[conv, "bias"] = (weights.get(conv, "bias", 0.0) * gain + shift).astype(np.float32)
        if (conv, "weight_scale") in weights:
            arrays[conv, "weight_scale"] = weights[conv, "weight_scale"] * gain
        else:
            axes = (1, -1, 1, 1) if conv.op == "conv_transpose2d" else (-1,) + (1,) * (weights[conv, "weight"].ndim - 1)
            arrays[conv, "weight"] = (weights[conv, "weight"] * gain.reshape(axes)).astype(np.float32)
    return after, weights.edited(arrays, folded)


def fuse_activation(graph: Graph, weights: Weights | None = None) -> Net:
    """Hand an activation to the node it reads, as its `act`, where it is that node's only reader."""
    return _taken_in(graph, activation=_act)[0], weights


def fuse_quantize(graph: Graph, weights: Weights | None = None) -> Net:
    """Hand a quantize to the node it reads: that node then writes codes of `out_bits`, on the grid of quantizer `quant`.

    A quantize of codes (a narrower copy, or a graph that needs two grids) stays, as a requantization.
    """
    after, fused = _taken_in(graph, quantize=_quantizer)
    if weights is None:
        return after, None
    arrays: dict = {}
    for quantize in fused:
        for param in ("scale", "zero_point"):
            arrays[f"quant.{quantize['group']}", param] = weights[quantize, param]
    return after, weights.edited(arrays, fused)


def _bias(norm: Node, before: Node) -> Attrs | None:
    return {"bias": True} if before.op in WEIGHTED and before.name == norm.inputs[0] else None


def _act(act: Node, before: Node) -> Attrs | None:
    free = before.op in TAKES_ACTIVATION and "act" not in before.attrs and "quant" not in before.attrs
    return {"act": act.attrs["kind"]} if free else None


def _quantizer(quantize: Node, before: Node) -> Attrs | None:
    free = before.op in _TAKES_QUANTIZE and "quant" not in before.attrs
    return {"quant": quantize.attrs["group"], "out_bits": quantize.attrs["bits"]} if free else None


def _taken_in(graph: Graph, **rules: Callable[[Node, Node], Attrs | None]) -> tuple[Graph, list[Node]]:
    """The graph without the nodes that the only node they read can do the work of, and those nodes.

    rules[op](node, before) gives the attributes by which `before`, as it stands with what it has taken in so far, does the work
    of `node` too, or None where it cannot.
    """
    uses = Counter(chain(chain.from_iterable([node.inputs for node in graph.nodes]), graph.outputs))
    nodes: dict[Ref, Node] = {}
    gone: dict[Ref, Ref] = {}
    taken: list[Node] = []
    for node in graph.nodes:
        rule, inputs = rules.get(node.op), node.inputs
        if rule is not None and uses[inputs[0]] == 1:
            before = nodes[gone.get(inputs[0], inputs[0])]
            attrs = rule(node, before)
            if attrs is not None:
                nodes[before.name] = before.having(**attrs)
                gone[node.name] = before.name
                taken.append(node)
                continue
        nodes[node.name] = node if gone.keys().isdisjoint(inputs) else node.reading(tuple([gone.get(name, name) for name in inputs]))
    return Graph(tuple(nodes.values()), tuple([gone.get(name, name) for name in graph.outputs])), taken


DEPLOY = (merge_rep, fold_batchnorm, fuse_activation, fuse_quantize)


def deployed(graph: Graph) -> Graph:
    """The structure that will run on the device: `graph` (quantize nodes placed or not) after every pass of DEPLOY.

    The last three passes run in one sweep here, since a search does this for every candidate; that nothing is lost is tested.
    """
    return _taken_in(merge_rep(graph)[0], batchnorm=_bias, activation=_act, quantize=_quantizer)[0]


def is_float(graph: Graph) -> bool:
    return all(bits == FLOAT_BITS for bits in graph.code_bits.values())
