"""A Graph in deploy form as a TensorFlow Lite model, int8 where its nodes hold codes and float32 elsewhere; NHWC.

Unsigned codes become signed ones: everything moves by 128.  A curve such as SiLU is a convolution's 8-bit argument, LOGISTIC and MUL.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from nas.bench.engines.core import BenchError
from nas.bench.engines.tflite import Writer
from nas.compiler.grids import Grid, grids_of
from nas.compiler.onnx import without_decode
from nas.compiler.pipeline import prepared
from nas.compiler.requant import preactivation_grid
from searchspaces.graph import Graph, Node, Ref
from searchspaces.weights import Weights

FUSED = {"none": "NONE", "relu": "RELU", "relu6": "RELU6"}
LOGISTIC = Grid(8, 1 / 256, 0)          # the only grid that LOGISTIC's int8 output may have
INT8_BITS = 8


Ranges = Mapping[Ref, tuple[float, float]]


def to_tflite(graph: Graph, weights: Weights, classes: Sequence[str] = (), ranges: Ranges | None = None) -> bytes:
    """The model of a trained net without box decode.  ranges: least and greatest value of each float output of an int8 convolution."""
    graph, weights = prepared(graph, weights, classes)
    writer = _Network(without_decode(graph), weights, ranges or {})
    for node in writer.graph:
        if node.op not in EMIT:
            raise BenchError(f"node '{node.name}' ({node.op}) has no TensorFlow Lite form here; what has: {', '.join(EMIT)}")
        EMIT[node.op](writer, node)
    inputs = [writer.values[node.name] for node in writer.graph.of("input")]
    return writer.model.bytes(inputs, [writer.values[name] for name in writer.graph.outputs])


class _Network:
    """A model while it grows; `values` is the tensor of each node."""

    def __init__(self, graph: Graph, weights: Weights, ranges: Ranges) -> None:
        self.graph, self.weights, self.ranges = graph, weights, ranges
        self.grids = grids_of(graph, weights)
        self.model = Writer()
        self.values: dict[Ref, int] = {}
        for name, grid in self.grids.items():
            if grid.bits != INT8_BITS:
                raise BenchError(f"node '{name}' holds {grid.bits}-bit codes; TensorFlow Lite's are of 8 bits")

    def tensor(self, name: str, node: Node, grid: Grid | None) -> int:
        c, h, w = node.shape
        kind, scale = ("FLOAT32", None) if grid is None else ("INT8", grid.scale)
        return self.model.tensor(name, (1, h, w, c), kind, scale, grid.zero_point - 128 if grid else 0)

    def output(self, node: Node) -> int:
        self.values[node.name] = self.tensor(node.name, node, self.grids.get(node.name))
        return self.values[node.name]

    def constant(self, name: str, values: Sequence[int]) -> int:
        return self.model.tensor(name, (len(values),), "INT32", data=np.array(values, np.int32))

    def inputs(self, node: Node) -> list[int]:
        return [self.values[name] for name in node.inputs]

    def before_curve(self, node: Node) -> int:
        """Where an operator puts the argument of its activation: the output itself where that is fused."""
        act = node.get("act", "none")
        if act in FUSED:
            return self.output(node)
        if act != "silu":
            raise BenchError(f"node '{node.name}' has activation {act}; with a TensorFlow Lite form here: {', '.join([*FUSED, 'silu'])}")
        grid = self.grids.get(node.name)
        return self.tensor(f"{node.name}.before", node, grid and preactivation_grid(act, grid))

    def curve(self, node: Node, x: int) -> None:
        if node.get("act", "none") in FUSED:
            return
        gate = self.tensor(f"{node.name}.gate", node, LOGISTIC if node.name in self.grids else None)
        self.model.operator("LOGISTIC", [x], [gate], version=2 if node.name in self.grids else 1)
        self.model.operator("MUL", [x, gate], [self.output(node)], "MulOptions", version=2 if node.name in self.grids else 1)


def _input(w: _Network, node: Node) -> None:
    w.output(node)


def _conv2d(w: _Network, node: Node) -> None:
    """A float output of an int8 convolution is int8 over its range, dequantized."""
    (x,), int8 = w.inputs(node), node.inputs[0] in w.grids
    weight, bias = (_int8_parameters if int8 else _float_parameters)(w, node)
    real = int8 and node.name not in w.grids
    if real:
        low, high = w.ranges.get(node.name, (-8.0, 8.0))
        scale = (max(high, 0.0) - min(low, 0.0)) / 255
        y = w.tensor(f"{node.name}.codes", node, Grid(INT8_BITS, scale, round(-min(low, 0.0) / scale)))
    else:
        y = w.before_curve(node)
    w.model.conv2d(x, weight, bias, y, node.get("stride", 1), node.get("padding", 0), FUSED.get(node.get("act", "none"), "NONE"))
    if real:
        w.model.operator("DEQUANTIZE", [y], [w.output(node)], "DequantizeOptions", version=2)
    else:
        w.curve(node, y)


def _int8_parameters(w: _Network, node: Node) -> tuple[int, int]:
    """Codes flip where a negative gamma made a channel's scale negative."""
    codes, scale = w.weights[node, "weight"].astype(np.int64), w.weights[node, "weight_scale"].astype(np.float64)
    codes = codes * np.where(scale < 0, -1, 1).reshape(-1, 1, 1, 1)
    scale = np.maximum(np.abs(scale), 1e-20)
    bias = np.asarray(w.weights.get(node, "bias", np.zeros(len(codes))), dtype=np.float64)
    step = scale * w.grids[node.inputs[0]].scale
    whole = np.clip(np.rint(bias / step), np.iinfo(np.int32).min, np.iinfo(np.int32).max).astype(np.int32)
    ohwi = codes.astype(np.int8).transpose(0, 2, 3, 1)
    weight = w.model.tensor(f"{node.name}.weight", ohwi.shape, "INT8", scale, data=ohwi)
    return weight, w.model.tensor(f"{node.name}.bias", whole.shape, "INT32", step, data=whole)


def _float_parameters(w: _Network, node: Node) -> tuple[int, int]:
    ohwi = w.weights[node, "weight"].astype(np.float32).transpose(0, 2, 3, 1)
    bias = np.asarray(w.weights.get(node, "bias", np.zeros(len(ohwi))), dtype=np.float32)
    weight = w.model.tensor(f"{node.name}.weight", ohwi.shape, "FLOAT32", data=ohwi)
    return weight, w.model.tensor(f"{node.name}.bias", bias.shape, "FLOAT32", data=bias)


def _add(w: _Network, node: Node) -> None:
    inputs, y = w.inputs(node), w.before_curve(node)
    fused = getattr(w.model.schema.ActivationFunctionType, FUSED.get(node.get("act", "none"), "NONE"))
    w.model.operator("ADD", inputs, [y], "AddOptions", version=2 if node.name in w.grids else 1, fusedActivationFunction=fused)
    w.curve(node, y)


def _concat(w: _Network, node: Node) -> None:
    inputs = w.inputs(node)
    w.model.operator("CONCATENATION", inputs, [w.output(node)], "ConcatenationOptions", version=2 if node.name in w.grids else 1, axis=3)


def _slice(w: _Network, node: Node) -> None:
    (x,), (c, height, width) = w.inputs(node), node.shape
    begin, size = w.constant(f"{node.name}.begin", (0, 0, 0, node["start"])), w.constant(f"{node.name}.size", (1, height, width, c))
    w.model.operator("SLICE", [x, begin, size], [w.output(node)], "SliceOptions", version=2 if node.name in w.grids else 1)


def _upsample(w: _Network, node: Node) -> None:
    inputs = [*w.inputs(node), w.constant(f"{node.name}.size", node.shape[1:])]
    w.model.operator("RESIZE_NEAREST_NEIGHBOR", inputs, [w.output(node)], "ResizeNearestNeighborOptions",
                     version=2 if node.name in w.grids else 1)  # fmt: skip


def _maxpool(w: _Network, node: Node) -> None:
    """Padding where SAME would not be symmetric is with zeros, which is right behind a ReLU alone."""
    (x,), kernel, stride, pad = w.inputs(node), node["kernel"], node.get("stride", 1), node.get("padding", 0)
    schema = w.model.schema
    same = schema.Padding.SAME if pad else schema.Padding.VALID
    if pad and stride > 1:
        x, same = w.model.padded(x, f"{node.name}.padded", pad), schema.Padding.VALID
    w.model.operator("MAX_POOL_2D", [x], [w.output(node)], "Pool2DOptions", version=2 if node.name in w.grids else 1, padding=same,
                     strideH=stride, strideW=stride, filterHeight=kernel, filterWidth=kernel)  # fmt: skip


def _global_avgpool(w: _Network, node: Node) -> None:
    inputs = [*w.inputs(node), w.constant(f"{node.name}.axes", (1, 2))]
    w.model.operator("MEAN", inputs, [w.output(node)], "ReducerOptions", version=2 if node.name in w.grids else 1, keepDims=True)


def _quantize(w: _Network, node: Node) -> None:
    w.model.operator("QUANTIZE", w.inputs(node), [w.output(node)], "QuantizeOptions", version=2)


EMIT: dict[str, Callable[[_Network, Node], None]] = {
    "input": _input, "conv2d": _conv2d, "add": _add, "concat": _concat, "slice": _slice, "upsample": _upsample, "maxpool": _maxpool,
    "global_avgpool": _global_avgpool, "quantize": _quantize,
}  # fmt: skip
