"""ONNX export: the deploy form of a net, built node by node from the Graph, with the decoding of a detector inside.

Torch's exporter is not used: the Graph is the one description of a net, so what is exported is what is compiled, batch-norms folded
and branches merged, and no torch is needed.  Opset 17.

  input    images (N, 3, H, W) float32 RGB in 0..1
  outputs  a detector: boxes (N, A, 4) x1 y1 x2 y2 in pixels of the input, and scores (N, A, classes); apart, so that a later
           per-tensor quantization of one scale cannot destroy the scores.  Any other net: its outputs under their own names.

A net with quantizers becomes a QDQ model with its own scales and zero points: a tensor of codes is a QuantizeLinear / DequantizeLinear
pair, and a Conv that reads one has int8 weights per channel and, where it is fine enough, an int32 bias.  Below 8 bits activations are
uint8 behind a Clip to the real range of their 2^bits codes, and weights are int8: the net's codes times a power of two up to -64 .. 64,
their scale divided by it, which is the same real weight: an int32 bias counts in steps of both scales, and products of two such numbers
never saturate int16.  Decoding stays float.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from nas.compiler.errors import CompilerError
from nas.compiler.grids import Grid, grids_of
from nas.compiler.passes import code_range, per_channel
from nas.compiler.pipeline import prepared
from nas.compiler.requant import preactivation_grid
from nas.model import write_whole
from nas.runtime.plan import PREPROCESSING
from searchspaces.graph import Graph, Node, Ref
from searchspaces.ops import LEAKY_SLOPE
from searchspaces.quantizers import floated
from searchspaces.weights import Weights

OPSET = 17
IR_VERSION = 8          # the one that goes with opset 17
BIAS_STEP = 1 / 16      # of an output step: the coarsest int32 bias; one that would count in larger steps is float32


def export(graph: Graph, weights: Weights, path: Path, *, classes: Sequence[str] = (), quantized: bool = False,
           decode: bool = True, provenance: Mapping[str, object] | None = None, quantize_before_curves: bool = True) -> Path:
    """Write the ONNX model of a net that holds bit-widths: QDQ where `quantized`, else the float net it was before.  Returns `path`."""
    net = graph if quantized else floated(graph)
    model = to_onnx(net, weights, classes=classes, decode=decode, provenance=provenance, quantize_before_curves=quantize_before_curves)
    write_whole(path, model.SerializeToString())
    return path


def to_onnx(graph: Graph, weights: Weights, *, classes: Sequence[str] = (), decode: bool = True,
            provenance: Mapping[str, object] | None = None, quantize_before_curves: bool = True) -> onnx.ModelProto:
    """The checked ONNX model of a trained net, fp32 or QDQ as its graph says; arguments as those of `compile`.  Without `decode`, a
    detector's outputs are its raw maps.

    onnxruntime runs a Conv in int8 only where a QuantizeLinear follows it or its ReLU.  With `quantize_before_curves`, the arguments of
    SiLU, Hardswish, LeakyReLU and GELU get one too, 8 bits over the range in which the curve still matters: a SiLU net is then 1.6 times as
    fast as in fp32 there, and a little less exact than what was trained.  Without, it is exact, and slower than fp32.  At 8-bit weights,
    onnxruntime's products saturate on x86 without VNNI: two of them can pass int16.
    """
    graph, weights = prepared(graph, weights, classes)
    strides = [stride for node in graph.of("dfl_decode") for stride in node["strides"]]
    if not decode:
        graph = without_decode(graph)
    writer = _Writer(graph, weights, quantize_before_curves)
    for node in graph:
        if node.op not in EMIT:
            raise CompilerError(f"node '{node.name}' ({node.op}) has no ONNX form here; what has: {', '.join(EMIT)}")
        EMIT[node.op](writer, node)
    model = writer.model(classes, strides, provenance or {})
    onnx.checker.check_model(model, full_check=True)
    return model


def without_decode(graph: Graph) -> Graph:
    """A detector that ends at its raw maps box, cls, box, cls, .."""
    maps = tuple(name for node in graph.of("dfl_decode") for name in node.inputs)
    return Graph(tuple(node for node in graph if node.op != "dfl_decode"), maps or graph.outputs)


class _Writer:
    """An ONNX graph while it grows.  `values` is the tensor that holds each node's real output."""

    def __init__(self, graph: Graph, weights: Weights, quantize_before_curves: bool) -> None:
        self.graph, self.weights, self.quantize_before_curves = graph, weights, quantize_before_curves
        self.grids = grids_of(graph, weights)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self.values: dict[Ref, str] = {}
        self.outputs: list[onnx.ValueInfoProto] = []

    def add(self, op: str, inputs: Sequence[str], name: str, **attrs: Any) -> str:
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attrs))
        return name

    def constant(self, name: str, value: np.ndarray | np.generic) -> str:
        self.initializers[name] = numpy_helper.from_array(np.asarray(value, order="C"), name)
        return name

    def inputs(self, node: Node) -> list[str]:
        return [self.values[name] for name in node.inputs]

    def finish(self, node: Node, value: str) -> None:
        """The activation and quantizer of a node whose operator gave `value`."""
        act, grid = node.get("act", "none"), self.grids.get(node.name)
        if grid is not None and self.quantize_before_curves and act in ("silu", "hardswish", "leaky_relu", "gelu"):
            value = self.through(value, preactivation_grid(act, grid), f"{node.name}.before")
        value = self.activate(act, value, node.name)
        self.values[node.name] = value if grid is None else self.through(value, grid, node.name)

    def activate(self, kind: str, x: str, name: str) -> str:
        if kind == "none":
            return x
        y = f"{name}.{kind}"
        match kind:
            case "relu" | "sigmoid":
                return self.add(kind.capitalize(), [x], y)
            case "relu6":
                return self.add("Clip", [x, self.scalar(0.0), self.scalar(6.0)], y)
            case "leaky_relu":
                return self.add("LeakyRelu", [x], y, alpha=LEAKY_SLOPE)
            case "hardswish":
                return self.add("HardSwish", [x], y)
            case "silu":
                return self.add("Mul", [x, self.add("Sigmoid", [x], f"{name}.sigmoid")], y)
        half = self.add("Mul", [x, self.scalar(0.5)], f"{name}.half")
        erf = self.add("Erf", [self.add("Mul", [x, self.scalar(0.5**0.5)], f"{name}.scaled")], f"{name}.erf")
        return self.add("Mul", [half, self.add("Add", [erf, self.scalar(1.0)], f"{name}.cdf")], y)

    def scalar(self, value: float) -> str:
        return self.constant(f"scalar.{value!r}", np.float32(value))

    def through(self, x: str, grid: Grid, name: str) -> str:
        """QuantizeLinear and DequantizeLinear on a grid, behind a Clip where its codes are fewer than uint8 has."""
        if grid.bits < 8:
            low, high = (self.scalar(float(np.float32(grid.reals()[k]))) for k in (0, -1))
            x = self.add("Clip", [x, low, high], f"{name}.clip")
        at = [self.constant(f"{name}.scale", np.float32(grid.scale)), self.constant(f"{name}.zero_point", np.uint8(grid.zero_point))]
        return self.add("DequantizeLinear", [self.add("QuantizeLinear", [x, *at], f"{name}.codes"), *at], f"{name}.real")

    def dequantized(self, name: str, codes: np.ndarray, scale: np.ndarray) -> str:
        """DequantizeLinear of constant codes with a scale per row and zero points of 0."""
        zero_point = self.constant(f"{name}.zero_point", np.zeros(len(codes), codes.dtype))
        at = [self.constant(f"{name}.codes", codes), self.constant(f"{name}.scale", scale.astype(np.float32)), zero_point]
        return self.add("DequantizeLinear", at, name, axis=0)

    def model(self, classes: Sequence[str], strides: Sequence[int], provenance: Mapping[str, object]) -> onnx.ModelProto:
        if not self.graph.of("dfl_decode"):
            for name in self.graph.outputs:
                self.output(self.add("Identity", [self.values[name]], name), self.graph[name].shape)
        image = self.graph.of("input")[0]
        inputs = [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", *image.shape])]
        body = helper.make_graph(self.nodes, "edgenas", inputs, self.outputs, list(self.initializers.values()))
        model = helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="edgenas")
        properties = {"classes": list(classes), "strides": list(strides), "input_size": list(image.shape[1:]),
                      "preprocessing": dict(PREPROCESSING), "provenance": dict(provenance)}
        helper.set_model_props(model, {key: json.dumps(value) for key, value in properties.items()})
        return model

    def output(self, name: str, shape: Sequence[int]) -> None:
        self.outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shape]))


def _input(w: _Writer, node: Node) -> None:
    w.finish(node, "images")


def _conv2d(w: _Writer, node: Node) -> None:
    codes = node.inputs[0] in w.grids
    parameters = _int8_parameters(w, node) if codes else _float_parameters(w, node)
    k, p, s = node["kernel"], node.get("padding", 0), node.get("stride", 1)
    w.finish(node, w.add("Conv", [*w.inputs(node), *parameters], f"{node.name}.conv", kernel_shape=[k, k], pads=[p] * 4, strides=[s, s],
                         group=node.get("groups", 1)))


def _int8_parameters(w: _Writer, node: Node) -> list[str]:
    """Weights behind a DequantizeLinear of positive scales (codes flip where a negative gamma made one negative), and the bias."""
    weight, scale = w.weights[node, "weight"].astype(np.int64), w.weights[node, "weight_scale"].astype(np.float64)
    bias = np.asarray(w.weights.get(node, "bias", np.zeros(len(weight))), dtype=np.float64)
    factor = 64 // max(map(abs, code_range(node["wbits"]))) if node["wbits"] < 8 else 1
    flipped = weight * factor * np.where(scale < 0, -1, 1).reshape(-1, 1, 1, 1)
    step = np.maximum(np.abs(scale) / factor, 1e-20)
    bias_step, output = step * w.grids[node.inputs[0]].scale, w.grids.get(node.name)
    names = [w.dequantized(f"{node.name}.weight", flipped.astype(np.int8), step)]
    whole = np.rint(bias / bias_step)
    if output is None or bias_step.max() > BIAS_STEP * output.scale or np.abs(whole).max() > np.iinfo(np.int32).max:
        return [*names, w.constant(f"{node.name}.bias", bias.astype(np.float32))]
    return [*names, w.dequantized(f"{node.name}.bias", whole.astype(np.int32), bias_step)]


def _float_parameters(w: _Writer, node: Node) -> list[str]:
    """Real weights, float32, and bias of a node that is exported in float."""
    weight = w.weights[node, "weight"].astype(np.float64)
    if (node, "weight_scale") in w.weights:
        weight = weight * per_channel(node, w.weights[node, "weight_scale"].astype(np.float64), weight.ndim)
    names = [w.constant(f"{node.name}.weight", weight.astype(np.float32))]
    if (bias := w.weights.get(node, "bias")) is not None:
        names.append(w.constant(f"{node.name}.bias", bias.astype(np.float32)))
    return names


def _conv_transpose2d(w: _Writer, node: Node) -> None:
    k, s = node["kernel"], node["stride"]
    inputs = [*w.inputs(node), *_float_parameters(w, node)]
    w.finish(node, w.add("ConvTranspose", inputs, f"{node.name}.conv", kernel_shape=[k, k], strides=[s, s]))


def _linear(w: _Writer, node: Node) -> None:
    if len(node.shape) != 1:
        raise CompilerError(f"node '{node.name}': a linear over rows {node.shape} has no ONNX form here; it takes one vector")
    w.finish(node, w.add("Gemm", [*w.inputs(node), *_float_parameters(w, node)], f"{node.name}.gemm", transB=1))


def _plain(op: str, attrs: Callable[[Node], dict[str, Any]] = lambda node: {}) -> Callable[[_Writer, Node], None]:
    def emit(w: _Writer, node: Node) -> None:
        w.finish(node, w.add(op, w.inputs(node), f"{node.name}.{op.lower()}", **attrs(node)))

    return emit


def _slice(w: _Writer, node: Node) -> None:
    bounds = [w.constant(f"{node.name}.{role}", np.array([value])) for role, value in (("start", node["start"]), ("stop", node["stop"]))]
    w.finish(node, w.add("Slice", [*w.inputs(node), *bounds, w.constant("axis.1", np.array([1]))], f"{node.name}.slice"))


def _upsample(w: _Writer, node: Node) -> None:
    scales = w.constant(f"{node.name}.scales", np.array([1, 1, node["factor"], node["factor"]], np.float32))
    w.finish(node, w.add("Resize", [*w.inputs(node), "", scales], f"{node.name}.resize", mode="nearest",
                         coordinate_transformation_mode="asymmetric", nearest_mode="floor"))


def _pool(node: Node) -> dict[str, Any]:
    k, p, s = node["kernel"], node.get("padding", 0), node.get("stride", 1)
    return {"kernel_shape": [k, k], "pads": [p] * 4, "strides": [s, s]}


def _activation(w: _Writer, node: Node) -> None:
    w.finish(node, w.activate(node["kind"], w.inputs(node)[0], node.name))


def _quantize(w: _Writer, node: Node) -> None:
    w.finish(node, w.inputs(node)[0])


def _decode(w: _Writer, node: Node) -> None:
    """Sides by the expectation of a softmax over the bins, boxes from the centres of the cells, scores by sigmoid."""
    bins, classes, strides = node["bins"], node["classes"], node["strides"]
    maps = w.inputs(node)
    cells = [w.graph[name].shape[1:] for name in node.inputs[::2]]
    expected = w.constant("bins", np.arange(bins, dtype=np.float32).reshape(1, 1, bins, 1))
    sides, logits = [], []
    for k, (box, cls) in enumerate(zip(maps[::2], maps[1::2])):
        rows = w.add("Reshape", [box, w.constant("box_shape", np.array([0, 4, bins, -1]))], f"level{k}.bins")
        weighted = w.add("Mul", [w.add("Softmax", [rows], f"level{k}.softmax", axis=2), expected], f"level{k}.weighted")
        sides.append(w.add("ReduceSum", [weighted, w.constant("axis.2", np.array([2]))], f"level{k}.sides", keepdims=0))
        logits.append(w.add("Reshape", [cls, w.constant("score_shape", np.array([0, classes, -1]))], f"level{k}.logits"))
    x, y, step = (np.concatenate(parts) for parts in zip(*(_cells(h, v, s) for (h, v), s in zip(cells, strides))))
    centre, stride = w.constant("centre", np.stack([x, y])[None]), w.constant("stride", step[None, None])
    every = w.add("Concat", sides, "sides", axis=2)
    w.nodes.append(helper.make_node("Split", [every], ["left_top", "right_bottom"], name="split", axis=1))
    corners = [w.add("Sub", [centre, "left_top"], "corner1"), w.add("Add", [centre, "right_bottom"], "corner2")]
    pixels = w.add("Mul", [w.add("Concat", corners, "corners", axis=1), stride], "pixels")
    scores = w.add("Sigmoid", [w.add("Concat", logits, "logits", axis=2)], "sigmoid")
    w.output(w.add("Transpose", [pixels], "boxes", perm=[0, 2, 1]), [len(x), 4])
    w.output(w.add("Transpose", [scores], "scores", perm=[0, 2, 1]), [len(x), classes])


def _cells(h: int, w: int, stride: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centres x, y of the cells of one level in cells, row by row, and their stride."""
    y, x = np.mgrid[:h, :w].reshape(2, -1).astype(np.float32) + np.float32(0.5)
    return x, y, np.full(h * w, stride, np.float32)


EMIT: dict[str, Callable[[_Writer, Node], None]] = {
    "input": _input, "conv2d": _conv2d, "conv_transpose2d": _conv_transpose2d, "linear": _linear,
    "activation": _activation, "quantize": _quantize, "slice": _slice, "upsample": _upsample, "dfl_decode": _decode,
    "add": _plain("Add"), "mul": _plain("Mul"), "concat": _plain("Concat", lambda node: {"axis": 1}),
    "maxpool": _plain("MaxPool", _pool), "global_avgpool": _plain("GlobalAveragePool"), "flatten": _plain("Flatten"),
}  # fmt: skip
