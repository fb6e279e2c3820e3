"""ONNX Runtime's CPU provider: u8s8, since s8s8 is several times slower on x86 with VNNI."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nas.bench.engines.core import Call
from nas.bench.engines.onnx_layers import float_model, qlinear_model
from nas.bench.layers import Repeated


def int8_layer(graph: Repeated, threads: int) -> Call:
    layer = graph.layer
    x = np.random.default_rng(0).integers(0, 256, (1, layer.size, layer.size, layer.c_in)).astype(np.uint8)
    return _call(qlinear_model(graph), x, threads)


def fp32_layer(graph: Repeated, threads: int) -> Call:
    layer = graph.layer
    x = np.random.default_rng(0).normal(size=(1, layer.c_in, layer.size, layer.size)).astype(np.float32)
    return _call(float_model(graph), x, threads)


def network(path: Path, image: np.ndarray, threads: int) -> Call:
    """A run of an exported net on an image (H, W, 3) uint8."""
    return _call(path.read_bytes(), image.transpose(2, 0, 1)[None].astype(np.float32) / 255, threads)


def _call(model: bytes, x: np.ndarray, threads: int) -> Call:
    """Input and outputs stay where they are."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    bound = session.io_binding()
    (source,) = session.get_inputs()
    bound.bind_ortvalue_input(source.name, ort.OrtValue.ortvalue_from_numpy(x))
    names = [output.name for output in session.get_outputs()]
    for name, y in zip(names, session.run(names, {source.name: x})):
        bound.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(y))
    return lambda: session.run_with_iobinding(bound)
