"""Repeated convolutions as ONNX models, for the engines that read ONNX."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from nas.bench.layers import X_SCALE, Y_SCALE, ZERO_POINT, Layer, Repeated, float_weights, int8_weights

OPSET, IR_VERSION = 17, 8


class _Model:
    """Nodes and constants of a growing model; value 0 is named x0."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, name: str, value: np.ndarray | np.generic) -> str:
        if all(known.name != name for known in self.constants):
            self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(self, op: str, inputs: list[str], output: str, domain: str = "", **attrs: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], domain=domain, **attrs))
        return output

    def bytes(self, graph: Repeated, kind: int, channels_last: bool = False) -> bytes:
        layer = graph.layer

        def value(name: str, channels: int, size: int) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, kind, [1, size, size, channels] if channels_last else [1, channels, size, size])

        outputs = [value(f"x{k}", layer.c_out, layer.out_size) for k in graph.outputs]
        body = helper.make_graph(self.nodes, "layers", [value("x0", layer.c_in, layer.size)], outputs, self.constants)
        domains = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(body, opset_imports=domains, ir_version=IR_VERSION).SerializeToString()


def _attrs(layer: Layer) -> dict[str, Any]:
    return {"kernel_shape": [layer.kernel] * 2, "strides": [layer.stride] * 2, "pads": [layer.kernel // 2] * 4}


def float_model(graph: Repeated) -> bytes:
    """Conv after Conv, NCHW."""
    m = _Model()
    for x, y in graph.wiring:
        w, b = float_weights(graph.layer, y)
        m.add("Conv", [f"x{x}", m.constant(f"w{y}", w), m.constant(f"b{y}", b)], f"x{y}", **_attrs(graph.layer))
    return m.bytes(graph, TensorProto.FLOAT)


def qdq_model(graph: Repeated) -> bytes:
    """uint8 in and out, NCHW; int8 weights of a scale per channel; quantize and dequantize nodes around every Conv."""
    m = _Model()
    x_at = [m.constant("x_scale", np.float32(X_SCALE)), m.constant("zero_point", np.uint8(ZERO_POINT))]
    y_at = [m.constant("y_scale", np.float32(Y_SCALE)), "zero_point"]
    for x, y in graph.wiring:
        q = int8_weights(graph.layer, y)
        zeros = m.constant("zeros8", np.zeros(len(q.w), np.int8)), m.constant("zeros32", np.zeros(len(q.w), np.int32))
        weight = [m.constant(f"w{y}", q.w), m.constant(f"ws{y}", q.scale), zeros[0]]
        bias = [m.constant(f"b{y}", q.bias), m.constant(f"bs{y}", (q.scale * np.float32(X_SCALE)).astype(np.float32)), zeros[1]]
        real = [m.add("DequantizeLinear", [f"x{x}", *x_at], f"x{x}.for{y}"), m.add("DequantizeLinear", weight, f"w{y}.real", axis=0),
                m.add("DequantizeLinear", bias, f"b{y}.real", axis=0)]  # fmt: skip
        m.add("QuantizeLinear", [m.add("Conv", real, f"c{y}", **_attrs(graph.layer)), *y_at], f"x{y}")
    return m.bytes(graph, TensorProto.UINT8)


def qlinear_model(graph: Repeated) -> bytes:
    """onnxruntime's own integer convolution on NHWC, which its optimizer makes of a QDQ model: no transpose at either end."""
    m = _Model()
    zero, scale = m.constant("zero_point", np.uint8(ZERO_POINT)), m.constant("scale", np.float32(X_SCALE))
    for x, y in graph.wiring:
        q = int8_weights(graph.layer, y)
        weight = [m.constant(f"w{y}", q.w), m.constant(f"ws{y}", q.scale), m.constant("zeros8", np.zeros(len(q.w), np.int8))]
        inputs = [f"x{x}", scale, zero, *weight, m.constant("y_scale", np.float32(Y_SCALE)), zero, m.constant(f"b{y}", q.bias)]
        m.add("QLinearConv", inputs, f"x{y}", "com.microsoft", channels_last=1, **_attrs(graph.layer))
    return m.bytes(graph, TensorProto.UINT8, channels_last=True)
