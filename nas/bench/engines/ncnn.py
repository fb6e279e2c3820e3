"""ncnn: int8 with requantization in the convolution; 3x3 ones by Winograd unless told otherwise.

Its activations are signed and symmetric.  The first layer of a graph quantizes a float input, as in every ncnn network.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from nas.bench.engines.core import BenchError, Call
from nas.bench.layers import X_SCALE, Y_SCALE, Layer, Repeated, float_weights, int8_weights

MAGIC = "7767517"
INT8_TAG, REQUANTIZE = 0x000D4B38, 102                  # of ncnn's model file; int8_scale_term above 100 requantizes


def int8_layer(winograd: bool) -> Callable[[Repeated, int], Call]:
    def layer(graph: Repeated, threads: int) -> Call:
        return _call(graph, threads, f" 8={REQUANTIZE}", _int8_weights, winograd)

    return layer


def fp32_layer(graph: Repeated, threads: int) -> Call:
    return _call(graph, threads, "", _float_weights, winograd=True)


def _int8_weights(layer: Layer, copy: int) -> bytes:
    q = int8_weights(layer, copy)
    codes = q.w.tobytes()
    bias = (q.bias * q.scale * np.float32(X_SCALE)).astype(np.float32)
    scales = np.concatenate([1 / q.scale, [1 / X_SCALE], [1 / Y_SCALE]]).astype(np.float32)      # of weights, input and output
    return struct.pack("<I", INT8_TAG) + codes + bytes(-len(codes) % 4) + bias.tobytes() + scales.tobytes()


def _float_weights(layer: Layer, copy: int) -> bytes:
    w, b = float_weights(layer, copy)
    return struct.pack("<I", 0) + w.astype(np.float32).tobytes() + b.tobytes()


def _call(graph: Repeated, threads: int, options: str, weights: Callable[[Layer, int], bytes], winograd: bool) -> Call:
    import ncnn

    net, layer = ncnn.Net(), graph.layer
    net.opt.num_threads, net.opt.use_vulkan_compute = threads, False
    net.opt.use_winograd_convolution = winograd
    net.opt.use_bf16_storage = net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    allocator = ncnn.PoolAllocator()
    net.opt.blob_allocator = net.opt.workspace_allocator = allocator
    with tempfile.TemporaryDirectory() as folder:
        param, model = Path(folder) / "layers.param", Path(folder) / "layers.bin"
        param.write_text(_param(graph, options))
        model.write_bytes(b"".join(weights(layer, y) for _, y in graph.wiring))
        if net.load_param(str(param)) or net.load_model(str(model)):
            raise BenchError(f"ncnn does not read the model of layer {layer.name}")
    x = ncnn.Mat(np.random.default_rng(0).normal(size=(layer.c_in, layer.size, layer.size)).astype(np.float32)).clone()

    def call() -> Any:
        run = net.create_extractor()
        run.input("x0", x)
        return [run.extract(f"x{k}", 1)[1] for k in graph.outputs]           # 1: as it is, no conversion at the end

    held = (net, allocator, x)                          # the call's own: ncnn keeps no reference

    def checked(keep: Any = held) -> Any:
        return call()

    return checked


def _param(graph: Repeated, options: str) -> str:
    layer, copies = graph.layer, graph.copies
    size = layer.c_in * layer.c_out * layer.kernel**2
    rows = [f"Input in 0 1 x0 0={layer.size} 1={layer.size} 2={layer.c_in}"]
    sources = {y: x for x, y in graph.wiring}
    readers = [y for y, x in sources.items() if x == 0]          # a value that several read goes through a Split
    rows.append(f"Split split 1 {len(readers)} x0 " + " ".join(f"x0.{y}" for y in readers))
    for y, x in sources.items():
        rows.append(f"Convolution c{y} 1 1 {f'x{x}' if x else f'x0.{y}'} x{y} 0={layer.c_out} 1={layer.kernel} 3={layer.stride} "
                    f"4={layer.kernel // 2} 5=1 6={size}{options}")  # fmt: skip
    return "\n".join([MAGIC, f"{len(rows)} {1 + len(readers) + copies}", *rows]) + "\n"
