"""The engines that ours is measured beside.  Each is optional: one that is not installed is left out and said so.

`pip install 'edgenas[peers]'` brings them.
"""

from nas.bench.engines import litert, ncnn, onnxruntime, openvino, torch
from nas.bench.engines.core import BenchError, Call, Peer

PEERS: tuple[Peer, ...] = (
    Peer("litert", "ai-edge-litert", "int8", litert.int8_layer, note="XNNPACK, s8 activations"),
    Peer("openvino", "openvino", "int8", openvino.int8_layer),
    Peer("onnxruntime", "onnxruntime", "int8", onnxruntime.int8_layer, note="QLinearConv u8s8, channels last"),
    Peer("ncnn", "ncnn", "int8", ncnn.int8_layer(winograd=True), winograd=True),
    Peer("ncnn-gemm", "ncnn", "int8", ncnn.int8_layer(winograd=False), note="Winograd off"),
    Peer("torch-onednn", "torch", "int8", torch.int8_layer("onednn"), avx2=True, note="a call costs 15 us"),
    Peer("torch-x86", "torch", "int8", torch.int8_layer("x86"), avx2=True, note="the same"),
    Peer("torch-qnnpack", "torch", "int8", torch.int8_layer("qnnpack"), avx2=True, note="the baseline of the DeepGEMM paper"),
    Peer("litert-fp32", "ai-edge-litert", "fp32", litert.fp32_layer),
    Peer("openvino-fp32", "openvino", "fp32", openvino.fp32_layer),
    Peer("onnxruntime-fp32", "onnxruntime", "fp32", onnxruntime.fp32_layer),
    Peer("ncnn-fp32", "ncnn", "fp32", ncnn.fp32_layer, winograd=True),
)

__all__ = ["PEERS", "BenchError", "Call", "Peer"]
