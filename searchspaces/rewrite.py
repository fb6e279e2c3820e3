"""From the training form of a network to its deploy form: passes (Graph, Weights | None) -> the same.

Without weights only the structure changes, so that thousands of candidates can be costed in the form that will run.
Where a node's weights are codes (weight_scale present), scales change and codes stay.
"""

from __future__ import annotations

import numpy as np

from searchspaces.graph import Graph, Node, Ref, verify
from searchspaces.ops import FLOAT_BITS, WEIGHTED
from searchspaces.weights import Weights

Net = tuple[Graph, Weights | None]
_TAKES_ACTIVATION = frozenset({"conv2d", "conv_transpose2d", "linear", "add"})
_TAKES_QUANTIZE = frozenset({*_TAKES_ACTIVATION, "mul", "activation", "input", "global_avgpool", "scale"})


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
            arrays[total, "weight"] = sum(w for w, _ in kernels)
            arrays[total, "bias"] = sum(b for _, b in kernels)
    return graph.edited(changed, gone), None if weights is None else weights.edited(arrays, lost)


def _branch(weights: Weights, conv: Node | None, norm: Node, kernel: int, c_in: int) -> tuple[np.ndarray, np.ndarray]:
    """(C_out, C_in/groups, kernel, kernel) and (C_out,) of one branch; no conv is the identity."""
    gain, shift = norm_affine(weights, norm)
    c_out = len(gain)
    w = np.zeros((c_out, c_in, kernel, kernel))
    if conv is None:
        w[np.arange(c_out), np.arange(c_out) % c_in, kernel // 2, kernel // 2] = gain
    else:
        edge = (kernel - conv["kernel"]) // 2
        inside = slice(edge, edge + conv["kernel"])
        w[:, :, inside, inside] = weights[conv, "weight"] * gain[:, None, None, None]
    return w.astype(np.float32), shift.astype(np.float32)


def norm_affine(weights: Weights, norm: Node) -> tuple[np.ndarray, np.ndarray]:
    """(gain, shift) per channel in float64: batchnorm(x) = x * gain + shift."""
    gamma, beta = weights[norm, "gamma"].astype(np.float64), weights[norm, "beta"].astype(np.float64)
    gain = gamma / np.sqrt(weights[norm, "var"].astype(np.float64) + norm["eps"])
    return gain, beta - weights[norm, "mean"] * gain


def fold_batchnorm(graph: Graph, weights: Weights | None = None) -> Net:
    """Fold a batch-norm into the weighted node it reads, where it is that node's only reader.

    before  x -> conv(w, b) -> batchnorm(gamma, beta, mean, var)
    after   x -> conv(w * s, (b - mean) * s + beta),  s = gamma / sqrt(var + eps) per output channel
    Where w are codes, weight_scale * s takes the place of w * s; it may then be negative.
    """
    changed: dict[Ref, Node] = {}
    gone: dict[Ref, Ref] = {}
    arrays: dict = {}
    lost = []
    for norm in graph.of("batchnorm"):
        conv = graph[norm.inputs[0]]
        if conv.op not in WEIGHTED or len(graph.readers(conv.name)) > 1:
            continue
        changed[conv.name] = conv.having(bias=True)
        gone[norm.name] = conv.name
        lost.append(norm)
        if weights is None:
            continue
        gain, shift = norm_affine(weights, norm)
        arrays[conv, "bias"] = (weights.get(conv, "bias", 0.0) * gain + shift).astype(np.float32)
        if (conv, "weight_scale") in weights:
            arrays[conv, "weight_scale"] = weights[conv, "weight_scale"] * gain
        else:
            axes = (1, -1, 1, 1) if conv.op == "conv_transpose2d" else (-1,) + (1,) * (weights[conv, "weight"].ndim - 1)
            arrays[conv, "weight"] = (weights[conv, "weight"] * gain.reshape(axes)).astype(np.float32)
    return graph.edited(changed, gone), None if weights is None else weights.edited(arrays, lost)


def fuse_activation(graph: Graph, weights: Weights | None = None) -> Net:
    """Hand an activation to the node it reads, as its `act`, where it is that node's only reader."""
    changed: dict[Ref, Node] = {}
    gone: dict[Ref, Ref] = {}
    for act in graph.of("activation"):
        before = graph[act.inputs[0]]
        if before.op in _TAKES_ACTIVATION and len(graph.readers(before.name)) == 1 and "act" not in before.attrs:
            changed[before.name] = before.having(act=act["kind"])
            gone[act.name] = before.name
    return graph.edited(changed, gone), weights


def fuse_quantize(graph: Graph, weights: Weights | None = None) -> Net:
    """Hand a quantize to the node it reads: that node then writes codes of `out_bits`, on the grid of quantizer `quant`.

    A quantize of codes (a narrower copy, or a graph that needs two grids) stays, as a requantization.
    """
    changed: dict[Ref, Node] = {}
    gone: dict[Ref, Ref] = {}
    arrays: dict = {}
    lost = []
    for quantize in graph.of("quantize"):
        before = graph[quantize.inputs[0]]
        if before.op not in _TAKES_QUANTIZE or len(graph.readers(before.name)) > 1 or before.name in changed:
            continue
        changed[before.name] = before.having(quant=quantize["group"], out_bits=quantize["bits"])
        gone[quantize.name] = before.name
        lost.append(quantize)
        if weights is not None:
            arrays[f"quant.{quantize['group']}", "scale"] = weights[quantize, "scale"]
            arrays[f"quant.{quantize['group']}", "zero_point"] = weights[quantize, "zero_point"]
    return graph.edited(changed, gone), None if weights is None else weights.edited(arrays, lost)


DEPLOY = (merge_rep, fold_batchnorm, fuse_activation, fuse_quantize)


def deployed(graph: Graph) -> Graph:
    """The structure that will run on the device: `graph` (quantize nodes placed or not) after every pass of DEPLOY."""
    weights: Weights | None = None
    for deploy_pass in DEPLOY:
        graph, weights = deploy_pass(graph, weights)
    verify(graph, after="deployment")
    return graph


def is_float(graph: Graph) -> bool:
    return all(bits == FLOAT_BITS for bits in graph.code_bits.values())
