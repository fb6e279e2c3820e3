"""The 17 convolutions that kernels are compared on, and how a small one is repeated until a call's own cost vanishes beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WORK_MACS = 60_000_000  # of one timed call, 0.13 ms and more at the rates of int8 engines; their calls cost 1 to 10 us


@dataclass(frozen=True)
class Layer:
    """A square convolution with padding kernel // 2 on a (c_in, size, size) map."""

    name: str
    c_in: int
    c_out: int
    size: int
    kernel: int
    stride: int

    @property
    def out_size(self) -> int:
        return (self.size + 2 * (self.kernel // 2) - self.kernel) // self.stride + 1

    @property
    def macs(self) -> int:
        return self.c_in * self.c_out * self.kernel**2 * self.out_size**2

    @property
    def terms(self) -> int:
        """Products in one sum."""
        return self.c_in * self.kernel**2

    @property
    def shape(self) -> str:
        stride = f"s{self.stride}" if self.stride > 1 else ""
        return f"{self.c_in}-{self.c_out} k{self.kernel}{stride}@{self.size}"


LAYERS = (
    Layer("y1", 16, 16, 80, 3, 1), Layer("y2", 16, 32, 160, 3, 2), Layer("y3", 32, 64, 80, 3, 2), Layer("y4", 32, 32, 40, 3, 1),
    Layer("y5", 64, 64, 80, 3, 1), Layer("y6", 64, 64, 40, 1, 1), Layer("y7", 64, 128, 40, 3, 2), Layer("y8", 64, 64, 20, 3, 1),
    Layer("y9", 128, 128, 20, 1, 1), Layer("y10", 128, 256, 20, 3, 2), Layer("y11", 128, 128, 10, 3, 1),
    Layer("y12", 256, 256, 10, 1, 1), Layer("y13", 512, 256, 10, 1, 1),                                     # of small YOLOs
    Layer("r1", 64, 64, 56, 3, 1), Layer("r2", 128, 128, 28, 3, 1), Layer("r3", 256, 256, 14, 3, 1), Layer("r4", 512, 512, 7, 3, 1),
)  # fmt: skip


@dataclass(frozen=True)
class Repeated:
    """`copies` convolutions of one shape and different weights in one graph: two chains from one input where an output can be the next
    input, else branches that all read the input.  Every engine runs this same graph, so that none is charged for being called.

    Two chains rather than one, since OpenVINO computes the first convolution in float where nothing else reads its integer input.
    """

    layer: Layer
    copies: int

    @property
    def chained(self) -> bool:
        return self.layer.c_in == self.layer.c_out and self.layer.stride == 1

    @property
    def wiring(self) -> list[tuple[int, int]]:
        """(input, output) of each copy; value 0 is the graph's input."""
        starts = (0, self.copies // 2) if self.chained else range(self.copies)
        return [(0 if k in starts else k, k + 1) for k in range(self.copies)]

    @property
    def outputs(self) -> list[int]:
        return [self.copies // 2, self.copies] if self.chained else list(range(1, self.copies + 1))


def repeated(layer: Layer) -> Repeated:
    """As many copies as make a call last, and no more: their weights and outputs stay in the second-level cache, as one layer's would."""
    return Repeated(layer, max(-(-WORK_MACS // layer.macs), 2))


@dataclass(frozen=True)
class Int8Weights:
    """What the int8 engines get: w (c_out, c_in, k, k) int8, its scale of each output channel, bias int32 in steps of both scales."""

    w: np.ndarray
    scale: np.ndarray
    bias: np.ndarray


X_SCALE, Y_SCALE, ZERO_POINT = 0.02, 0.02, 0  # of unsigned activations behind a ReLU; a signed engine's zero point is 128 less


def int8_weights(layer: Layer, copy: int) -> Int8Weights:
    """Normal weights, scaled so that activations keep their range along a chain."""
    rng = np.random.default_rng([copy, layer.c_in, layer.c_out, layer.size, layer.kernel])
    w = rng.normal(size=(layer.c_out, layer.c_in, layer.kernel, layer.kernel)) / np.sqrt(layer.terms)
    scale = (np.abs(w).reshape(layer.c_out, -1).max(axis=1) / 127).astype(np.float32)
    codes = np.rint(w / scale[:, None, None, None]).astype(np.int8)
    bias = np.rint(rng.normal(size=layer.c_out) * 0.1 / (scale * X_SCALE)).astype(np.int32)
    return Int8Weights(codes, scale, bias)


def float_weights(layer: Layer, copy: int) -> tuple[np.ndarray, np.ndarray]:
    """The real weights and biases of the same convolutions, float32."""
    q = int8_weights(layer, copy)
    return q.w * q.scale[:, None, None, None], (q.bias * q.scale * np.float32(X_SCALE)).astype(np.float32)


def geometric_mean(values: Sequence[float]) -> float:
    return float(np.exp(np.mean(np.log(values)))) if len(values) else float("nan")
