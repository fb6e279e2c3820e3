"""LiteRT (TensorFlow Lite) with its XNNPACK delegate; int8 activations are signed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nas.bench.engines.core import Call
from nas.bench.engines.tflite import Writer
from nas.bench.layers import X_SCALE, Y_SCALE, ZERO_POINT, Repeated, float_weights, int8_weights

SIGNED_ZERO_POINT = ZERO_POINT - 128


def int8_layer(graph: Repeated, threads: int) -> Call:
    layer = graph.layer
    x = np.random.default_rng(0).integers(-128, 128, (1, layer.size, layer.size, layer.c_in)).astype(np.int8)
    return call(int8_model(graph), x, threads)


def fp32_layer(graph: Repeated, threads: int) -> Call:
    layer = graph.layer
    x = np.random.default_rng(0).normal(size=(1, layer.size, layer.size, layer.c_in)).astype(np.float32)
    return call(float_model(graph), x, threads)


def network(path: Path, image: np.ndarray, threads: int) -> Call:
    """A run of an exported net on an image (H, W, 3) uint8."""
    return call(path.read_bytes(), image[None], threads)


def int8_model(graph: Repeated) -> bytes:
    m, layer = Writer(), graph.layer
    values = [m.tensor("x0", (1, layer.size, layer.size, layer.c_in), "INT8", X_SCALE, SIGNED_ZERO_POINT)]
    for x, y in graph.wiring:
        q = int8_weights(layer, y)
        weight = m.tensor(f"w{y}", (layer.c_out, layer.kernel, layer.kernel, layer.c_in), "INT8", q.scale, data=q.w.transpose(0, 2, 3, 1))
        bias = m.tensor(f"b{y}", (layer.c_out,), "INT32", q.scale * np.float32(X_SCALE), data=q.bias)
        values.append(m.tensor(f"x{y}", (1, layer.out_size, layer.out_size, layer.c_out), "INT8", Y_SCALE, SIGNED_ZERO_POINT))
        m.conv2d(values[x], weight, bias, values[y], layer.stride, layer.kernel // 2)
    return m.bytes(values[:1], [values[k] for k in graph.outputs])


def float_model(graph: Repeated) -> bytes:
    m, layer = Writer(), graph.layer
    values = [m.tensor("x0", (1, layer.size, layer.size, layer.c_in), "FLOAT32")]
    for x, y in graph.wiring:
        w, b = float_weights(layer, y)
        weight = m.tensor(f"w{y}", (layer.c_out, layer.kernel, layer.kernel, layer.c_in), "FLOAT32", data=w.transpose(0, 2, 3, 1))
        bias = m.tensor(f"b{y}", (layer.c_out,), "FLOAT32", data=b)
        values.append(m.tensor(f"x{y}", (1, layer.out_size, layer.out_size, layer.c_out), "FLOAT32"))
        m.conv2d(values[x], weight, bias, values[y], layer.stride, layer.kernel // 2)
    return m.bytes(values[:1], [values[k] for k in graph.outputs])


def call(model: bytes, x: np.ndarray, threads: int) -> Call:
    """One run of a model whose input is already in place; uint8 images become what the model reads."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=model, num_threads=threads)
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]
    if x.dtype == np.uint8:
        x = (x.astype(np.int16) - 128).astype(np.int8) if source["dtype"] == np.int8 else x.astype(np.float32) / 255
    interpreter.set_tensor(source["index"], x)
    return interpreter.invoke
