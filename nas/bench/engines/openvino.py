"""OpenVINO's CPU plugin; convolutions are oneDNN's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from nas.bench.engines.core import Call
from nas.bench.engines.onnx_layers import float_model, qdq_model
from nas.bench.layers import Repeated


def int8_layer(graph: Repeated, threads: int) -> Call:
    layer = graph.layer
    x = np.random.default_rng(0).integers(0, 256, (1, layer.size, layer.size, layer.c_in)).astype(np.uint8)
    return _call(qdq_model(graph), x, threads)


def fp32_layer(graph: Repeated, threads: int) -> Call:
    layer = graph.layer
    x = np.random.default_rng(0).normal(size=(1, layer.size, layer.size, layer.c_in)).astype(np.float32)
    return _call(float_model(graph), x, threads)


def network(path: Path, image: np.ndarray, threads: int) -> Call:
    """A run of an exported net on an image (H, W, 3) uint8."""
    import openvino as ov

    x = image.transpose(2, 0, 1)[None].astype(np.float32) / 255
    model = ov.Core().read_model(path)
    model.reshape(list(x.shape))
    return _run(model, x, threads)


def settings(threads: int) -> dict[str, Any]:
    """float32 sums in float32, not bfloat16; the process is pinned by the benchmark."""
    return {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32", "ENABLE_CPU_PINNING": False}


def _call(model: bytes, x: np.ndarray, threads: int) -> Call:
    import openvino as ov
    from openvino.preprocess import PrePostProcessor

    network = ov.Core().read_model(model)
    ends = PrePostProcessor(network)                    # NHWC, the layout its kernels work in, at both ends
    ends.input().tensor().set_layout(ov.Layout("NHWC"))
    ends.input().model().set_layout(ov.Layout("NCHW"))
    for k in range(len(network.outputs)):
        ends.output(k).model().set_layout(ov.Layout("NCHW"))
        ends.output(k).tensor().set_layout(ov.Layout("NHWC"))
    return _run(ends.build(), x, threads)


def _run(model: Any, x: np.ndarray, threads: int) -> Call:
    import openvino as ov

    request = ov.Core().compile_model(model, "CPU", settings(threads)).create_infer_request()
    request.set_input_tensor(ov.Tensor(x))
    return lambda: request.infer(share_outputs=True)
