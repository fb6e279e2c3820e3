"""The passes that the compiler adds to searchspaces.rewrite: each is (Graph, Weights) -> (Graph, Weights)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nas.compiler.errors import CompilerError
from searchspaces.graph import Graph, Node, Ref
from searchspaces.ops import FLOAT_BITS, WEIGHTED
from searchspaces.rewrite import norm_affine
from searchspaces.weights import Weights

Pass = Callable[..., tuple[Graph, Any]]      # (Graph, Weights) -> the same


def code_range(wbits: int) -> tuple[int, int]:
    """Lowest and highest weight code: two's complement, without -128 at 8 bits; -1 and +1 at 1 bit."""
    return {1: (-1, 1), 8: (-127, 127)}.get(wbits, (-(2 ** (wbits - 1)), 2 ** (wbits - 1) - 1))


def out_axis(node: Node) -> int:
    """Where a weight array has its output channels: torch stores a transposed conv as (C_in, C_out, k, k)."""
    return 1 if node.op == "conv_transpose2d" else 0


def per_channel(node: Node, values: np.ndarray, ndim: int) -> np.ndarray:
    """(C_out,) shaped to broadcast against a weight array of `ndim` axes."""
    return values.reshape([-1 if axis == out_axis(node) else 1 for axis in range(ndim)])


def quantize_weights(graph: Graph, weights: Weights) -> tuple[Graph, Weights]:
    """Float weights to int8 codes: clip(round(w / weight_scale)) in float32, as the fake-quantizer computes it; 1 bit is the sign.

    before  weight (C_out, ...) float, weight_scale (C_out,)
    after   weight (C_out, ...) int8 with w ~ weight_scale * weight
    """
    arrays: dict = {}
    for node in graph.of(*WEIGHTED):
        bits = node.get("wbits", FLOAT_BITS)
        if bits == FLOAT_BITS or weights[node, "weight"].dtype == np.int8:
            continue
        if (node, "weight_scale") not in weights:
            raise CompilerError(f"node '{node.name}' has {bits}-bit weights and no weight_scale: calibrate or train it quantized first")
        w, scale = weights[node, "weight"].astype(np.float32), weights[node, "weight_scale"].astype(np.float32)
        if not (np.isfinite(w).all() and np.isfinite(scale).all() and (scale > 0).all()):
            raise CompilerError(f"node '{node.name}' has weights that are not finite or a weight_scale that is not above 0")
        codes = np.where(w >= 0, 1, -1) if bits == 1 else np.rint(w / per_channel(node, scale, w.ndim))
        arrays[node, "weight"] = np.clip(codes, *code_range(bits)).astype(np.int8)
    return graph, weights.edited(arrays)


def affine_as_conv(graph: Graph, weights: Weights) -> tuple[Graph, Weights]:
    """A batch-norm or learnable scale that folds into no conv becomes a depthwise 1x1 conv, which takes activation and quantizer.

    before  x -> batchnorm(gamma, beta, mean, var)
    after   x -> conv2d(w, b), groups = C;  on codes w = +1 in 1 bit and weight_scale holds the gain
    """
    changed: dict[Ref, Node] = {}
    arrays: dict = {}
    for node in graph.of("batchnorm", "scale"):
        channels, bits = node.shape[0], graph.code_bits[node.inputs[0]]
        if node.op == "batchnorm":
            gain, shift = norm_affine(weights, node)
        else:
            gain, shift = np.full(channels, weights[node, "value"].item()), np.zeros(channels)
        fused = {name: node[name] for name in ("act", "quant", "out_bits") if name in node.attrs}
        attrs = {"channels": channels, "kernel": 1, "stride": 1, "padding": 0, "groups": channels, "bias": True, **fused}
        if bits < FLOAT_BITS:
            attrs |= {"wbits": 1, "abits": bits}
            arrays[node, "weight"] = np.ones((channels, 1, 1, 1), np.int8)
            arrays[node, "weight_scale"] = gain
        else:
            arrays[node, "weight"] = gain.reshape(-1, 1, 1, 1).astype(np.float32)
        arrays[node, "bias"] = shift.astype(np.float32)
        changed[node.name] = Node(node.name, "conv2d", node.inputs, attrs, node.shape)
    return graph.edited(changed), weights.edited(arrays, list(graph.of("batchnorm", "scale")))


def split_float_quantize(graph: Graph, weights: Weights) -> tuple[Graph, Weights]:
    """A node that reads floats writes floats: its fused quantizer becomes a quantize node again.

    before  x (float) -> batchnorm as conv, quant = g
    after   x (float) -> batchnorm as conv -> quantize(group = g)
    """
    nodes: list[Node] = []
    arrays: dict = {}
    renamed: dict[Ref, Ref] = {}
    for node in graph:
        node = node.reading(tuple(renamed.get(name, name) for name in node.inputs))
        nodes.append(node)
        if "quant" not in node.attrs or not node.inputs or any(graph.code_bits[name] < FLOAT_BITS for name in graph[node.name].inputs):
            continue
        renamed[node.name] = f"{node.name}.q"
        nodes[-1] = node.without("quant", "out_bits")
        nodes.append(Node(f"{node.name}.q", "quantize", (node.name,), {"bits": node["out_bits"], "group": node["quant"]}, node.shape))
        for param in ("scale", "zero_point"):
            arrays[f"{node.name}.q", param] = weights[f"quant.{node['quant']}", param]
    return Graph(tuple(nodes), tuple(renamed.get(name, name) for name in graph.outputs)), weights.edited(arrays)
