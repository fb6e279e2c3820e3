"""Plans with random weights for given shapes and bits: what tests, micro-benchmarks and the fuzz corpus run.

A Sampler grows a plan one instruction at a time; each method adds an instruction and returns the id of its output.
Epilogues are scaled so that outputs use their whole range, as a calibrated network's do.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from nas.runtime.plan import ALIGNMENT, Instruction, Metadata, Plan, Requant, Tensor


class Sampler:
    """Grows a plan; `rng` draws weights, scales and zero points. No memory is reused, so every tensor may be an output."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.tensors: list[Tensor] = []
        self.instructions: list[Instruction] = []
        self.weights: dict[str, NDArray[np.generic]] = {}
        self.inputs: list[int] = []
        self.arena_bytes = 0

    def plan(self, outputs: Sequence[int], metadata: Metadata | None = None) -> Plan:
        """The plan so far, with these outputs."""
        return Plan(
            tuple(self.tensors), tuple(self.instructions), dict(self.weights), tuple(self.inputs), tuple(outputs), self.arena_bytes,
            metadata or Metadata(),
        )  # fmt: skip

    def values(self, highest: bool = False) -> list[NDArray[np.generic]]:
        """Random inputs (C, H, W), or the highest code everywhere."""
        return [self._value(self.tensors[t], highest) for t in self.inputs]

    def input(self, shape: tuple[int, int, int], bits: int = 8, zero_point: int = 0) -> int:
        """An input of codes, or of floats where bits is 32."""
        t = self._tensor("input", shape, bits, zero_point)
        self.inputs.append(t)
        return t

    def conv2d(
        self, x: int, channels: int, kernel: int = 3, stride: int = 1, padding: int | None = None, groups: int = 1, wbits: int = 8,
        bits: int = 8, epilogue: str = "linear", activation: str = "none",
    ) -> int:  # fmt: skip
        """A convolution; padding defaults to kernel // 2. On an f32 input wbits, bits and epilogue do not count."""
        c, h, w = self.tensors[x].shape
        p = kernel // 2 if padding is None else padding
        attrs = {"kernel": kernel, "stride": stride, "padding": p, "groups": groups}
        shape = (channels, (h + 2 * p - kernel) // stride + 1, (w + 2 * p - kernel) // stride + 1)
        return self._weighted("conv2d", x, shape, (channels, c // groups, kernel, kernel), attrs, wbits, bits, epilogue, activation)

    def conv_transpose2d(
        self, x: int, channels: int, wbits: int = 8, bits: int = 8, epilogue: str = "linear", activation: str = "none"
    ) -> int:
        """A transposed convolution with kernel 2 and stride 2."""
        c, h, w = self.tensors[x].shape
        shape = (channels, 2 * h, 2 * w)
        return self._weighted("conv_transpose2d", x, shape, (channels, c, 2, 2), {}, wbits, bits, epilogue, activation)

    def linear(self, x: int, features: int, wbits: int = 8, bits: int = 8, epilogue: str = "linear", activation: str = "none") -> int:
        """A fully connected layer over the whole tensor."""
        terms = int(np.prod(self.tensors[x].shape))
        return self._weighted("linear", x, (features, 1, 1), (features, terms), {}, wbits, bits, epilogue, activation)

    def add(self, a: int, b: int, bits: int = 8, epilogue: str = "linear") -> int:
        """a + b; the multiplier of a linear epilogue is 1, as the compiler makes it."""
        if self.tensors[a].dtype == "f32":
            return self._step("add", [a, b], self.tensors[a].shape, 32)
        ma, mb = (int(m) for m in self.rng.integers(2**11, 2**14, 2) * self.rng.choice([-1, 1], 2))
        y = self._step("add", [a, b], self.tensors[a].shape, 32 if epilogue == "float" else bits, {"multiplier_a": ma, "multiplier_b": mb})
        return self._epilogue(y, epilogue, 1, 70.0 * float(np.hypot(ma, mb)), unit=epilogue == "linear")

    def mul(self, a: int, b: int, bits: int = 8, epilogue: str = "linear") -> int:
        """a * b."""
        shape = self.tensors[a].shape
        if self.tensors[a].dtype == "f32":
            return self._step("mul", [a, b], shape, 32)
        return self._epilogue(self._step("mul", [a, b], shape, 32 if epilogue == "float" else bits), epilogue, shape[0], 70.0**2)

    def requantize(self, x: int, bits: int = 8, epilogue: str = "lookup") -> int:
        """Codes to codes, by a 256-entry table ('lookup') or by an epilogue per channel."""
        shape = self.tensors[x].shape
        if epilogue != "lookup":
            return self._epilogue(self._step("requantize", [x], shape, 32 if epilogue == "float" else bits), epilogue, shape[0], 70.0)
        name = f"table{len(self.weights)}"
        self.weights[name] = self.rng.integers(0, 2**bits, 256).astype(np.uint8)
        return self._step("requantize", [x], shape, bits, params={"table": name})

    def global_avgpool(self, x: int, bits: int = 8, epilogue: str = "linear") -> int:
        """The mean of each channel."""
        c, h, w = self.tensors[x].shape
        if self.tensors[x].dtype == "f32":
            return self._step("global_avgpool", [x], (c, 1, 1), 32)
        y = self._step("global_avgpool", [x], (c, 1, 1), 32 if epilogue == "float" else bits)
        return self._epilogue(y, epilogue, c, 70.0 * h * w)

    def concat(self, *inputs: int) -> int:
        """Channels one after another, copied."""
        _, h, w = self.tensors[inputs[0]].shape
        return self._step("concat", inputs, (sum(self.tensors[t].shape[0] for t in inputs), h, w), like=inputs[0])

    def slice(self, x: int, start: int, stop: int) -> int:
        """Channels start..stop, copied."""
        _, h, w = self.tensors[x].shape
        return self._step("slice", [x], (stop - start, h, w), like=x, attrs={"start": start, "stop": stop})

    def upsample(self, x: int, factor: int = 2) -> int:
        """Nearest neighbour."""
        c, h, w = self.tensors[x].shape
        return self._step("upsample", [x], (c, h * factor, w * factor), like=x, attrs={"factor": factor})

    def maxpool(self, x: int, kernel: int = 5, stride: int = 1, padding: int | None = None) -> int:
        """Padding defaults to kernel // 2."""
        c, h, w = self.tensors[x].shape
        p = kernel // 2 if padding is None else padding
        attrs = {"kernel": kernel, "stride": stride, "padding": p}
        return self._step("maxpool", [x], (c, (h + 2 * p - kernel) // stride + 1, (w + 2 * p - kernel) // stride + 1), like=x, attrs=attrs)

    def quantize(self, x: int, bits: int = 8) -> int:
        """f32 to codes."""
        return self._step("quantize", [x], self.tensors[x].shape, bits, scale=8.0 / 2**bits)

    def dequantize(self, x: int) -> int:
        """Codes to f32."""
        return self._step("dequantize", [x], self.tensors[x].shape, 32)

    def activation(self, x: int, kind: str) -> int:
        """An f32 activation."""
        return self._step("activation", [x], self.tensors[x].shape, 32, {"kind": kind})

    def softmax(self, x: int, axis: int) -> int:
        """f32."""
        return self._step("softmax", [x], self.tensors[x].shape, 32, {"axis": axis})

    def layernorm(self, x: int, axis: int) -> int:
        """f32."""
        names = {role: f"{role}{len(self.weights)}" for role in ("gamma", "beta")}
        for name in names.values():
            self.weights[name] = self.rng.normal(size=self.tensors[x].shape[axis]).astype(np.float32)
        return self._step("layernorm", [x], self.tensors[x].shape, 32, {"axis": axis, "eps": 1e-5}, params=names)

    def matmul(self, a: int, b: int, transpose_b: bool = False) -> int:
        """f32."""
        c, m, _ = self.tensors[a].shape
        n = self.tensors[b].shape[1 if transpose_b else 2]
        return self._step("matmul", [a, b], (c, m, n), 32, {"transpose_b": int(transpose_b)})

    def decode(self, maps: Sequence[int], strides: tuple[int, ...], bins: int = 16) -> int:
        """Raw maps box, cls, box, cls, .. to boxes and scores."""
        classes = self.tensors[maps[1]].shape[0]
        anchors = sum(int(np.prod(self.tensors[t].shape[1:])) for t in maps[::2])
        return self._step("decode", maps, (4 + classes, anchors, 1), 32, {"bins": bins, "classes": classes, "strides": strides})

    def _value(self, t: Tensor, highest: bool) -> NDArray[np.generic]:
        if t.dtype == "f32":
            return self.rng.normal(size=t.shape).astype(np.float32)
        return np.full(t.shape, 2**t.bits - 1, np.uint8) if highest else self.rng.integers(0, 2**t.bits, t.shape).astype(np.uint8)

    def _tensor(self, name: str, shape: tuple[int, int, int], bits: int, zero_point: int = 0, scale: float = 1 / 255) -> int:
        dtype = "f32" if bits == 32 else "u8"
        t = Tensor(f"{name}.{len(self.tensors)}", dtype, shape, self.arena_bytes, bits, 1.0 if bits == 32 else scale, zero_point)
        self.tensors.append(t)
        self.arena_bytes += -(-t.nbytes // ALIGNMENT) * ALIGNMENT
        return len(self.tensors) - 1

    def _step(
        self, op: str, inputs: Sequence[int], shape: tuple[int, int, int], bits: int = 8, attrs: Mapping | None = None,
        params: Mapping[str, str] | None = None, like: int | None = None, scale: float = 1 / 255,
    ) -> int:  # fmt: skip
        if like is None:
            y = self._tensor(op, shape, bits, int(self.rng.integers(0, 2**bits)) if bits <= 8 else 0, scale)
        else:
            t = self.tensors[like]
            y = self._tensor(op, shape, t.bits, t.zero_point, t.scale)
        self.instructions.append(Instruction(op, self.tensors[y].name, tuple(inputs), (y,), dict(attrs or {}), dict(params or {})))
        return y

    def _weighted(
        self, op: str, x: int, shape: tuple[int, int, int], w_shape: tuple[int, ...], attrs: Mapping, wbits: int, bits: int, epilogue: str,
        activation: str,
    ) -> int:  # fmt: skip
        name, terms = f"weight{len(self.weights)}", int(np.prod(w_shape[1:]))
        if self.tensors[x].dtype == "f32":
            self.weights[name] = (self.rng.normal(size=w_shape) / np.sqrt(terms)).astype(np.float32)
            self.weights[name + ".bias"] = self.rng.normal(size=w_shape[0]).astype(np.float32)
            return self._step(op, [x], shape, 32, {**attrs, "activation": activation}, {"weight": name, "bias": name + ".bias"})
        top = 2 ** (wbits - 1)
        if wbits == 1:
            codes = self.rng.choice([-1, 1], w_shape)
        else:
            codes = self.rng.integers(1 - top if wbits == 8 else -top, top, w_shape)
        self.weights[name] = codes.astype(np.int8)
        y = self._step(op, [x], shape, 32 if epilogue == "float" else bits, {**attrs, "wbits": wbits}, {"weight": name})
        deviation = np.sqrt(terms) * max(top / 1.7, 1.0) * 2 ** self.tensors[x].bits / 2
        return self._epilogue(y, epilogue, shape[0], float(deviation))

    def _epilogue(self, y: int, kind: str, channels: int, deviation: float, unit: bool = False) -> int:
        """Gives the last instruction a requant for accumulators of about this standard deviation."""
        last = self.instructions.pop()
        requant = random_requant(self.rng, kind, channels, deviation, self.tensors[y], unit)
        self.instructions.append(Instruction(last.op, last.name, last.inputs, last.outputs, last.attrs, last.params, requant))
        return y


def random_requant(rng: np.random.Generator, kind: str, channels: int, deviation: float, y: Tensor, unit: bool = False) -> Requant:
    """An epilogue that maps about -2 .. 2 deviations onto the output's range; multipliers of either sign, or all 1."""
    if kind == "float":
        scale, offset = rng.normal(size=(2, channels)).astype(np.float32)
        return Requant(kind, scale=scale / np.float32(deviation), offset=offset)
    sign = rng.choice(np.array([-1, 1], np.int8), channels)
    if kind == "threshold":
        steps = np.sort(rng.normal(size=(channels, 2**y.bits - 1)) * deviation, axis=1)
        return Requant(kind, thresholds=np.rint(steps).astype(np.int32), sign=sign)
    size = 1024 if kind == "table" else 2**y.bits
    multiplier = np.ones(channels, np.int32) if unit else (rng.integers(2**14, 2**16, channels) * sign).astype(np.int32)
    shift = max(int(np.log2(4 * deviation * float(np.abs(multiplier).mean()) / size)), 0)
    middle = np.full(channels, size / 2) if unit else size / 2 + rng.normal(size=channels) * size / 8
    bias = (middle * 2.0**shift).astype(np.int64)
    if kind == "linear":
        return Requant(kind, shift, int(rng.integers(0, 2 if y.bits > 1 else 1)), 2**y.bits - 1, multiplier, bias)
    return Requant(kind, shift, multiplier=multiplier, bias=bias, table=rng.integers(0, 2**y.bits, size).astype(np.uint8))
