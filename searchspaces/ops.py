"""The operators of a Graph: one row each with its attributes, output shape, parameters and multiply-accumulates.

Shapes carry no batch: (C, H, W) for maps, (K,) for vectors.  A shape function raises GraphError with what it found.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

Shape = tuple[int, ...]
Attrs = Mapping[str, Any]

ACTIVATIONS = ("relu", "relu6", "leaky_relu", "hardswish", "silu", "sigmoid", "gelu")
NON_NEGATIVE = frozenset({"relu", "relu6", "sigmoid"})
DIPPING = frozenset({"hardswish", "silu", "gelu"})  # these fall a little below zero before they rise
LEAKY_SLOPE = 0.1
FLOAT_BITS = 32
NARROW_BITS = 4  # codes up to here are too few to spend one on a dip below zero
WEIGHT_BITS = (1, 2, 3, 4, 8)
ACTIVATION_BITS = (1, 2, 3, 4, 8)


class GraphError(ValueError):
    """A graph that no interpreter could run: names the node, what was found and what would work."""


def _nothing(shapes: list[Shape], attrs: Attrs, out: Shape) -> tuple[int, int]:
    return 0, 0


@dataclass(frozen=True, slots=True)
class Op:
    """One operator.  `required` and `optional` are attribute names; `shape` takes (input shapes, attrs), `counts` the output's shape too
    and gives (parameters, multiply-accumulates).
    """

    name: str
    shape: Callable[[list[Shape], Attrs], Shape]
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    inputs: tuple[int, int] = (1, 1)  # fewest and most inputs
    counts: Callable[[list[Shape], Attrs, Shape], tuple[int, int]] = _nothing


def _spatial(size: int, kernel: int, stride: int, padding: int) -> int:
    return (size + 2 * padding - kernel) // stride + 1


def _conv_shape(shapes: list[Shape], attrs: Attrs) -> Shape:
    c, h, w = shapes[0]
    kernel, stride, padding = attrs["kernel"], attrs.get("stride", 1), attrs.get("padding", 0)
    groups, channels = attrs.get("groups", 1), attrs["channels"]
    if c % groups or channels % groups:
        raise GraphError(f"{c} input and {channels} output channels do not divide into {groups} groups")
    h_out, w_out = (h + 2 * padding - kernel) // stride + 1, (w + 2 * padding - kernel) // stride + 1
    if channels < 1 or h_out < 1 or w_out < 1:
        raise GraphError(f"kernel {kernel} with padding {padding} does not fit a {h}x{w} map")
    return channels, h_out, w_out


def _conv_counts(shapes: list[Shape], attrs: Attrs, out: Shape) -> tuple[int, int]:
    row = shapes[0][0] // attrs.get("groups", 1) * attrs["kernel"] ** 2
    return out[0] * (row + bool(attrs.get("bias"))), out[0] * out[1] * out[2] * row


def _transposed_shape(shapes: list[Shape], attrs: Attrs) -> Shape:
    _, h, w = shapes[0]
    kernel, stride = attrs["kernel"], attrs["stride"]
    return attrs["channels"], (h - 1) * stride + kernel, (w - 1) * stride + kernel


def _transposed_counts(shapes: list[Shape], attrs: Attrs, out: Shape) -> tuple[int, int]:
    kernel = attrs["kernel"] ** 2
    return out[0] * (shapes[0][0] * kernel + bool(attrs.get("bias"))), prod(shapes[0]) * out[0] * kernel


def _same(shapes: list[Shape], attrs: Attrs) -> Shape:
    if len(shapes) > 1 and any(shape != shapes[0] for shape in shapes):
        raise GraphError(f"shapes differ: {', '.join(map(str, shapes))}")
    return shapes[0]


def _mul_shape(shapes: list[Shape], attrs: Attrs) -> Shape:
    """Two maps of one shape, or a map and one factor for each of its channels (C, 1, 1), as squeeze-and-excitation has it."""
    x, factor = shapes
    return x if len(x) == 3 and factor == (x[0], 1, 1) else _same(shapes, attrs)


def _concat_shape(shapes: list[Shape], attrs: Attrs) -> Shape:
    if any(shape[1:] != shapes[0][1:] for shape in shapes):
        raise GraphError(f"maps of different size: {', '.join(map(str, shapes))}")
    return (sum(shape[0] for shape in shapes), *shapes[0][1:])


def _slice_shape(shapes: list[Shape], attrs: Attrs) -> Shape:
    start, stop = attrs["start"], attrs["stop"]
    if not 0 <= start < stop <= shapes[0][0]:
        raise GraphError(f"channels {start}..{stop} of a map with {shapes[0][0]}")
    return (stop - start, *shapes[0][1:])


def _upsample_shape(shapes: list[Shape], attrs: Attrs) -> Shape:
    c, h, w = shapes[0]
    return c, h * attrs["factor"], w * attrs["factor"]


def _pool_shape(shapes: list[Shape], attrs: Attrs) -> Shape:
    c, h, w = shapes[0]
    geometry = attrs["kernel"], attrs.get("stride", 1), attrs.get("padding", 0)
    return c, _spatial(h, *geometry), _spatial(w, *geometry)


def _matmul_shape(shapes: list[Shape], attrs: Attrs) -> Shape:
    (*batch, m, k), (*_, k2, n) = shapes
    if k != k2:
        raise GraphError(f"inner sizes differ: {shapes[0]} by {shapes[1]}")
    return (*batch, m, n)


def _decode_shape(shapes: list[Shape], attrs: Attrs) -> Shape:
    if len(shapes) != 2 * len(attrs["strides"]):
        raise GraphError(f"{len(shapes)} maps for {len(attrs['strides'])} strides: two a stride are needed")
    return 4 + attrs["classes"], sum(h * w for _, h, w in shapes[::2]), 1


def _linear_counts(shapes: list[Shape], attrs: Attrs, out: Shape) -> tuple[int, int]:
    return out[-1] * (shapes[0][-1] + bool(attrs.get("bias"))), prod(shapes[0]) * out[-1]


def _norm_counts(shapes: list[Shape], attrs: Attrs, out: Shape) -> tuple[int, int]:
    return 2 * out[0], 0


_CONV = ("stride", "padding", "groups", "bias", "wbits", "abits", "act", "quant", "out_bits")
_FUSED = ("abits", "act", "quant", "out_bits")
_MANY = (2, 64)

OPS: dict[str, Op] = {
    op.name: op
    for op in (
        Op("input", lambda shapes, attrs: tuple(attrs["size"]), ("size",), _FUSED, inputs=(0, 0)),
        Op("conv2d", _conv_shape, ("channels", "kernel"), _CONV, counts=_conv_counts),
        Op("conv_transpose2d", _transposed_shape, ("channels", "kernel", "stride"), ("bias", "wbits", *_FUSED),
           counts=_transposed_counts),
        Op("linear", lambda shapes, attrs: (*shapes[0][:-1], attrs["features"]), ("features",), ("bias", "wbits", *_FUSED),
           counts=_linear_counts),
        Op("batchnorm", _same, ("eps",), _FUSED, counts=_norm_counts),
        Op("activation", _same, ("kind",), _FUSED),
        Op("add", _same, (), ("rep", *_FUSED), inputs=_MANY),
        Op("mul", _mul_shape, (), _FUSED, inputs=(2, 2)),
        Op("scale", _same, (), _FUSED, counts=lambda shapes, attrs, out: (1, 0)),
        Op("concat", _concat_shape, (), ("abits",), inputs=_MANY),
        Op("slice", _slice_shape, ("start", "stop"), ("abits",)),
        Op("upsample", _upsample_shape, ("factor",), ("abits",)),
        Op("maxpool", _pool_shape, ("kernel",), ("stride", "padding", "abits")),
        Op("global_avgpool", lambda shapes, attrs: (shapes[0][0], 1, 1), (), _FUSED),
        Op("flatten", lambda shapes, attrs: (prod(shapes[0]),), (), ("abits",)),
        Op("softmax", _same, (), ("axis", "abits")),
        Op("matmul", _matmul_shape, (), ("abits",), inputs=(2, 2)),
        Op("layernorm", _same, ("eps",), ("abits",), counts=lambda shapes, attrs, out: (2 * out[-1], 0)),
        Op("quantize", _same, ("bits", "group"), ("asymmetric", "scale", "abits", "out_bits")),
        # The frozen projection of DFL counts as `bins` weights, as published parameter counts do.
        Op("dfl_decode", _decode_shape, ("strides", "bins", "classes"), ("abits",), inputs=_MANY,
           counts=lambda shapes, attrs, out: (attrs["bins"], 0)),
        Op("nms", lambda shapes, attrs: (attrs["max_detections"], 6), ("max_detections", "score_threshold", "iou_threshold"), ("abits",)),
    )
}

PASS_THROUGH = frozenset({"concat", "slice", "upsample", "maxpool", "flatten"})  # these hand codes on unchanged
WEIGHTED = frozenset({"conv2d", "conv_transpose2d", "linear"})
COUNTED = frozenset(op.name for op in OPS.values() if op.counts is not _nothing)  # these have parameters or do MACs
