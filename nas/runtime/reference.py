"""The definition of every instruction: a plan in plain numpy, codes in int64 and exact. Slow, and easy to check by eye.

Integer results are what the executor gives bit for bit; float operators (f32 conv, softmax, ..) agree to rounding, since
they are computed here in float64 and in any order there.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.runtime.detect import decode
from nas.runtime.plan import ArtifactError, Instruction, Plan, Requant, Tensor

Array = NDArray[Any]
Codes = NDArray[np.int64]
Doubles = NDArray[np.float64]


def run(plan: Plan, inputs: Sequence[Array]) -> list[Array]:
    """The plan's outputs (C, H, W) for its inputs (C, H, W): uint8 codes or float32."""
    values = trace(plan, inputs)
    return [values[t] for t in plan.outputs]


def trace(plan: Plan, inputs: Sequence[Array]) -> dict[int, Array]:
    """Every tensor of a run by its id: uint8 codes or float32, (C, H, W)."""
    if len(inputs) != len(plan.inputs):
        raise ArtifactError(f"plan: it takes {len(plan.inputs)} inputs, not {len(inputs)}")
    values: dict[int, Array] = {}
    for t, value in zip(plan.inputs, inputs):
        tensor = plan.tensors[t]
        if value.shape != tensor.shape or (tensor.dtype == "u8" and int(value.max()) >= 2**tensor.bits):
            raise ArtifactError(f"input '{tensor.name}': shape {value.shape} is not {tensor.shape}, or a code passes {tensor.bits} bits")
        values[t] = _typed(value, tensor)
    for i in plan.instructions:
        values[i.outputs[0]] = step(plan, i, [values[t] for t in i.inputs])
    return values


def step(plan: Plan, i: Instruction, x: list[Array]) -> Array:
    """The output of one instruction for the values of its inputs."""
    y = plan.tensors[i.outputs[0]]
    return _typed(RUN[i.op](plan, i, x, [plan.tensors[t] for t in i.inputs], y), y)


def requantize(r: Requant, acc: Codes) -> Array:
    """The epilogue of accumulators (C, H, W): codes, or float32 for kind 'float'."""
    if r.kind == "float":
        return acc.astype(np.float32) * _column(r.scale) + _column(r.offset)
    if r.kind == "threshold":
        assert r.thresholds is not None
        signed = acc * _column(r.sign).astype(np.int64)
        return sum((signed >= _column(r.thresholds[:, k]) for k in range(r.thresholds.shape[1])), np.zeros(acc.shape, np.int64))
    scaled = (acc * _column(r.multiplier).astype(np.int64) + _column(r.bias)) >> r.shift
    if r.kind == "linear":
        return np.clip(scaled, r.lo, r.hi)
    assert r.table is not None
    return r.table[np.clip(scaled, 0, len(r.table) - 1)]


def convolve(x: NDArray, w: NDArray, stride: int, padding: int, groups: int) -> NDArray:
    """Zero-padded convolution of (C_in, H, W) by (C_out, C_in / groups, k, k) in the type of x; no flip."""
    c_out, per_group, k, _ = w.shape
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (k, k), axis=(1, 2))[:, ::stride, ::stride]    # (C_in, H', W', k, k)
    out = [
        np.einsum("chwij,ocij->ohw", windows[g * per_group : (g + 1) * per_group], w[g * c_out // groups : (g + 1) * c_out // groups])
        for g in range(groups)
    ]
    return np.concatenate(out)


def _typed(value: Array, tensor: Tensor) -> Array:
    return value.astype(np.uint8 if tensor.dtype == "u8" else np.float32)


def _column(a: Array | None) -> NDArray:
    assert a is not None
    return a[:, None, None]


def _real_codes(x: Array, t: Tensor) -> Codes:
    return x.astype(np.int64) - t.zero_point


def _activate(kind: object, x: Doubles) -> Doubles:
    with np.errstate(over="ignore"):
        sigmoid = 1 / (1 + np.exp(-x))
    return {
        "none": lambda: x, "relu": lambda: np.maximum(x, 0), "relu6": lambda: np.clip(x, 0, 6),
        "leaky_relu": lambda: np.where(x > 0, x, 0.1 * x), "hardswish": lambda: x * np.clip(x + 3, 0, 6) / 6,
        "silu": lambda: x * sigmoid, "sigmoid": lambda: sigmoid,
        "gelu": lambda: 0.5 * x * (1 + np.vectorize(math.erf, otypes=[np.float64])(x / math.sqrt(2))),
    }[str(kind)]()  # fmt: skip


def _weighted(plan: Plan, i: Instruction, x: list[Array], t: list[Tensor], y: Tensor) -> Array:
    """conv2d, conv_transpose2d, linear: the sum, then the epilogue of codes or the bias and activation of floats."""
    integer = t[0].dtype == "u8"
    value: NDArray = _real_codes(x[0], t[0]) if integer else x[0].astype(np.float64)
    w: NDArray = plan.weights[i.params["weight"]].astype(value.dtype)
    if i.op == "conv2d":
        acc = convolve(value, w, *(i.attrs[name] for name in ("stride", "padding", "groups")))  # type: ignore[arg-type]
    elif i.op == "linear":
        acc = (w @ value.reshape(-1))[:, None, None]
    else:
        acc = np.einsum("chw,ocij->ohiwj", value, w).reshape(y.shape)
    if integer:
        assert i.requant is not None
        return requantize(i.requant, acc)
    bias = plan.weights[i.params["bias"]].astype(np.float64)[:, None, None] if "bias" in i.params else 0.0
    return _activate(i.attrs.get("activation", "none"), acc + bias)


def _add(plan: Plan, i: Instruction, x: list[Array], t: list[Tensor], y: Tensor) -> Array:
    if i.requant is None:
        return x[0] + x[1]
    ma, mb = (np.int64(i.attrs[name]) for name in ("multiplier_a", "multiplier_b"))  # type: ignore[arg-type]
    return requantize(i.requant, ma * _real_codes(x[0], t[0]) + mb * _real_codes(x[1], t[1]))


def _mul(plan: Plan, i: Instruction, x: list[Array], t: list[Tensor], y: Tensor) -> Array:
    if i.requant is None:
        return x[0] * x[1]
    return requantize(i.requant, _real_codes(x[0], t[0]) * _real_codes(x[1], t[1]))


def _concat(plan: Plan, i: Instruction, x: list[Array], t: list[Tensor], y: Tensor) -> Array:
    return np.concatenate(x)


def _slice(plan: Plan, i: Instruction, x: list[Array], t: list[Tensor], y: Tensor) -> Array:
    return x[0][i.attrs["start"] : i.attrs["stop"]]


def _upsample(plan: Plan, i: Instruction, x: list[Array], t: list[Tensor], y: Tensor) -> Array:
    factor = i.attrs["factor"]
    return x[0].repeat(factor, axis=1).repeat(factor, axis=2)  # type: ignore[arg-type]


def _maxpool(plan: Plan, i: Instruction, x: list[Array], t: list[Tensor], y: Tensor) -> Array:
    kernel, stride, p = (int(i.attrs[name]) for name in ("kernel", "stride", "padding"))  # type: ignore[arg-type]
    lowest = 0 if t[0].dtype == "u8" else -np.inf
    padded = np.pad(x[0], ((0, 0), (p, p), (p, p)), constant_values=lowest)
    return np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), axis=(1, 2))[:, ::stride, ::stride].max(axis=(3, 4))


def _global_avgpool(plan: Plan, i: Instruction, x: list[Array], t: list[Tensor], y: Tensor) -> Array:
    if i.requant is None:
        return x[0].astype(np.float64).mean(axis=(1, 2), keepdims=True)
    return requantize(i.requant, _real_codes(x[0], t[0]).sum(axis=(1, 2), keepdims=True))


def _requantize(plan: Plan, i: Instruction, x: list[Array], t: list[Tensor], y: Tensor) -> Array:
    if i.requant is not None:
        return requantize(i.requant, _real_codes(x[0], t[0]))
    return plan.weights[i.params["table"]][x[0].astype(np.int64)]


def _quantize(plan: Plan, i: Instruction, x: list[Array], t: list[Tensor], y: Tensor) -> Array:
    q = np.rint(x[0] / np.float32(y.scale)) + np.float32(y.zero_point)
    return np.clip(np.nan_to_num(q, nan=0.0, posinf=np.inf, neginf=-np.inf), 0, 2**y.bits - 1)


def _dequantize(plan: Plan, i: Instruction, x: list[Array], t: list[Tensor], y: Tensor) -> Array:
    return _real_codes(x[0], t[0]).astype(np.float32) * np.float32(t[0].scale)


def _activation(plan: Plan, i: Instruction, x: list[Array], t: list[Tensor], y: Tensor) -> Array:
    return _activate(i.attrs["kind"], x[0].astype(np.float64))


def _softmax(plan: Plan, i: Instruction, x: list[Array], t: list[Tensor], y: Tensor) -> Array:
    axis = int(i.attrs["axis"])  # type: ignore[arg-type]
    e = np.exp(x[0].astype(np.float64) - x[0].max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def _layernorm(plan: Plan, i: Instruction, x: list[Array], t: list[Tensor], y: Tensor) -> Array:
    axis = int(i.attrs["axis"])  # type: ignore[arg-type]
    v = x[0].astype(np.float64)
    shape = [1, 1, 1]
    shape[axis] = -1
    gamma, beta = (plan.weights[i.params[role]].astype(np.float64).reshape(shape) for role in ("gamma", "beta"))
    eps = np.float64(i.attrs["eps"])  # type: ignore[arg-type]
    return (v - v.mean(axis=axis, keepdims=True)) / np.sqrt(v.var(axis=axis, keepdims=True) + eps) * gamma + beta


def _matmul(plan: Plan, i: Instruction, x: list[Array], t: list[Tensor], y: Tensor) -> Array:
    a, b = (v.astype(np.float64) for v in x)
    return a @ (b.swapaxes(1, 2) if i.attrs["transpose_b"] else b)


def _decode(plan: Plan, i: Instruction, x: list[Array], t: list[Tensor], y: Tensor) -> Array:
    boxes, scores = decode(x, i.attrs["strides"], i.attrs["bins"], i.attrs["classes"])  # type: ignore[arg-type]
    return np.concatenate([boxes, scores], axis=1).T[:, :, None]


RUN: dict[str, Callable[[Plan, Instruction, list[Array], list[Tensor], Tensor], Array]] = {
    "conv2d": _weighted, "conv_transpose2d": _weighted, "linear": _weighted, "add": _add, "mul": _mul, "concat": _concat,
    "slice": _slice, "upsample": _upsample, "maxpool": _maxpool, "global_avgpool": _global_avgpool, "requantize": _requantize,
    "quantize": _quantize, "dequantize": _dequantize, "activation": _activation, "softmax": _softmax, "layernorm": _layernorm,
    "matmul": _matmul, "decode": _decode,
}  # fmt: skip
