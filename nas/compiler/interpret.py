"""interpret(graph, weights, images): a Graph in numpy, in any form, in real arithmetic.

What quantize nodes, weight scales and fused quantizers mean is computed with float64 and rounding, with nothing of the compiler's
integer arithmetic: this is what passes and plans are held against.  Slow and plain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from hwmodels.layout import AFTER_MAPS
from nas.compiler.activations import ACTIVATION
from nas.compiler.errors import CompilerError
from nas.compiler.passes import code_range, out_axis, per_channel
from searchspaces.graph import Graph, Node, Ref
from searchspaces.ops import FLOAT_BITS
from searchspaces.rewrite import norm_affine
from searchspaces.weights import Weights

Array = np.ndarray


def interpret(graph: Graph, weights: Weights, image: Array) -> dict[Ref, Array]:
    """Every node's real output, float64, without batch; `image` is (C, H, W) in 0..1.

    A quantized tensor holds scale * (code - zero_point).  Decoding and nms are left out.
    """
    values: dict[Ref, Array] = {}
    for node in graph:
        if node.op in AFTER_MAPS:
            continue
        values[node.name] = evaluate(node, weights, [values[name] for name in node.inputs] or [np.asarray(image, dtype=np.float64)])
    return values


def evaluate(node: Node, weights: Weights, x: Sequence[Array]) -> Array:
    """One node on the values of its inputs, with the activation and quantizer that passes have handed to it."""
    if node.op not in OPERATORS:
        raise CompilerError(f"node '{node.name}' ({node.op}) cannot be interpreted; what can: {', '.join(OPERATORS)}")
    return _fused(node, weights, OPERATORS[node.op](node, weights, *x))


def without_quantizer(node: Node) -> Node:
    """The node with its output still real: what a quantized output is the nearest code of."""
    return node.without("quant", "out_bits")


def _fused(node: Node, weights: Weights, y: Array) -> Array:
    y = ACTIVATION[node.get("act", "none")](y)
    if node.op == "quantize":
        return _on_grid(y, node["bits"], weights[node, "scale"], weights[node, "zero_point"])
    if "quant" in node.attrs:
        key = f"quant.{node['quant']}"
        return _on_grid(y, node["out_bits"], weights[key, "scale"], weights[key, "zero_point"])
    return y


def _on_grid(y: Array, bits: int, scale: Array, zero_point: Array) -> Array:
    s, z = float(np.float32(scale.item())), int(zero_point.item())
    return s * (np.clip(np.floor(y / s + z + 0.5), 0, 2**bits - 1) - z)


def real_weight(node: Node, weights: Weights) -> Array:
    """The weights a node multiplies with, float64: codes times their scale, or floats rounded to codes where bits are below 32."""
    w = weights[node, "weight"]
    bits = node.get("wbits", FLOAT_BITS)
    if bits == FLOAT_BITS:
        return w.astype(np.float64)
    scale = per_channel(node, weights[node, "weight_scale"].astype(np.float64), w.ndim)
    if w.dtype != np.int8:
        w = np.where(w >= 0, 1, -1) if bits == 1 else np.rint(w.astype(np.float32) / scale.astype(np.float32))
    return np.clip(w, *code_range(bits)) * scale


def _bias(node: Node, weights: Weights) -> Array:
    channels = weights[node, "weight"].shape[out_axis(node)]
    return np.asarray(weights.get(node, "bias", np.zeros(channels)), dtype=np.float64)


def _conv2d(node: Node, weights: Weights, x: Array) -> Array:
    w, k, p, s = real_weight(node, weights), node["kernel"], node.get("padding", 0), node.get("stride", 1)
    groups = node.get("groups", 1)
    windows = sliding_window_view(np.pad(x, ((0, 0), (p, p), (p, p))), (k, k), axis=(1, 2))[:, ::s, ::s]    # (C, H, W, k, k)
    c, h, v = windows.shape[:3]
    columns = windows.reshape(groups, c // groups, h, v, k, k).transpose(0, 1, 4, 5, 2, 3).reshape(groups, -1, h * v)
    y = np.matmul(w.reshape(groups, len(w) // groups, -1), columns)
    return y.reshape(len(w), h, v) + _bias(node, weights)[:, None, None]


def _conv_transpose2d(node: Node, weights: Weights, x: Array) -> Array:
    w, k, s = real_weight(node, weights), node["kernel"], node["stride"]       # (C_in, C_out, k, k)
    _, h, v = x.shape
    y = np.zeros(node.shape)
    for i in range(k):
        for j in range(k):
            y[:, i : i + s * (h - 1) + 1 : s, j : j + s * (v - 1) + 1 : s] += np.tensordot(w[:, :, i, j], x, (0, 0))
    return y + _bias(node, weights)[:, None, None]


def _linear(node: Node, weights: Weights, x: Array) -> Array:
    return x @ real_weight(node, weights).T + _bias(node, weights)


def _batchnorm(node: Node, weights: Weights, x: Array) -> Array:
    gain, shift = norm_affine(weights, node)
    return x * gain[:, None, None] + shift[:, None, None]


def _maxpool(node: Node, weights: Weights, x: Array) -> Array:
    k, p, s = node["kernel"], node.get("padding", 0), node.get("stride", 1)
    padded = np.pad(x, ((0, 0), (p, p), (p, p)), constant_values=-np.inf)
    return sliding_window_view(padded, (k, k), axis=(1, 2))[:, ::s, ::s].max((3, 4))


def _softmax(node: Node, weights: Weights, x: Array) -> Array:
    e = np.exp(x - x.max(node.get("axis", -1), keepdims=True))
    return e / e.sum(node.get("axis", -1), keepdims=True)


def _layernorm(node: Node, weights: Weights, x: Array) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + node["eps"]) * weights[node, "gamma"] + weights[node, "beta"]



OPERATORS: dict[str, Callable[..., Array]] = {
    "input": lambda node, weights, image: image,
    "conv2d": _conv2d,
    "conv_transpose2d": _conv_transpose2d,
    "linear": _linear,
    "batchnorm": _batchnorm,
    "activation": lambda node, weights, x: ACTIVATION[node["kind"]](x),
    "add": lambda node, weights, *xs: sum(xs[1:], xs[0]),
    "mul": lambda node, weights, a, b: a * b,
    "scale": lambda node, weights, x: x * weights[node, "value"].item(),
    "concat": lambda node, weights, *xs: np.concatenate(xs),
    "slice": lambda node, weights, x: x[node["start"] : node["stop"]],
    "upsample": lambda node, weights, x: x.repeat(node["factor"], 1).repeat(node["factor"], 2),
    "maxpool": _maxpool,
    "global_avgpool": lambda node, weights, x: x.mean((1, 2), keepdims=True),
    "flatten": lambda node, weights, x: x.reshape(-1),
    "softmax": _softmax,
    "matmul": lambda node, weights, a, b: a @ b,
    "layernorm": _layernorm,
    "quantize": lambda node, weights, x: x,
}
