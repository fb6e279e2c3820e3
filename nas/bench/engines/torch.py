"""torch's quantized convolutions, channels last, by the engine behind them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nas.bench.engines.core import Call
from nas.bench.layers import X_SCALE, Y_SCALE, ZERO_POINT, Repeated, int8_weights


def int8_layer(engine: str) -> Callable[[Repeated, int], Call]:
    """The maker of calls for 'onednn', 'x86' or 'qnnpack'.  qnnpack is given one scale for all channels, the form it is known by."""

    def layer(graph: Repeated, threads: int) -> Call:
        import torch

        torch.set_num_threads(threads)
        torch.backends.quantized.engine = engine        # read when weights are packed, not when they are used
        packed = [_packed(graph, y, per_channel=engine != "qnnpack") for _, y in graph.wiring]
        image = torch.randn(1, graph.layer.c_in, graph.layer.size, graph.layer.size).to(memory_format=torch.channels_last)
        x = torch.quantize_per_tensor(image, X_SCALE, ZERO_POINT, torch.quint8)
        conv = torch.ops.quantized.conv2d.new

        def call() -> Any:
            y = x
            for (source, _), weights in zip(graph.wiring, packed):          # a copy reads the input or the copy before it
                y = conv(y if source else x, weights, Y_SCALE, ZERO_POINT)
            return y

        return call

    return layer


def _packed(graph: Repeated, copy: int, per_channel: bool) -> Any:
    import torch

    q, layer = int8_weights(graph.layer, copy), graph.layer
    real, scale = torch.from_numpy(q.w * q.scale[:, None, None, None]), torch.from_numpy(q.scale).double()
    if per_channel:
        weight = torch.quantize_per_channel(real, scale, torch.zeros(layer.c_out, dtype=torch.long), 0, torch.qint8)
    else:
        weight = torch.quantize_per_tensor(real, float(q.scale.max()), 0, torch.qint8)
    bias, pad = torch.from_numpy(q.bias * q.scale * X_SCALE).float(), layer.kernel // 2
    return torch.ops.quantized.conv2d_prepack(weight, bias, [layer.stride] * 2, [pad] * 2, [1, 1], 1)
