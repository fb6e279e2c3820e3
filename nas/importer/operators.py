"""OPERATORS: how each operator of aten becomes nodes of a Graph.  One row an operator; both the spellings of a module as it is written
(conv2d, batch_norm, silu) and those of core aten after run_decompositions (convolution, _native_batch_norm_legit_no_training) are there.

A row takes (conversion, call) and returns the results of the call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nas.importer.conversion import Conversion, Operand
from nas.importer.errors import ImporterError
from nas.importer.trace import Array, Call, Value
from nas.runtime.verify import MAX_STRIDE
from searchspaces.graph import Ref
from searchspaces.ops import LEAKY_SLOPE

Row = Callable[[Conversion, Call], list[Operand]]


def _refused(call: Call, found: str, works: str) -> ImporterError:
    return ImporterError(f"{call.where} has {found}; {works}")


def _square(call: Call, role: str, default: Any, name: str = "") -> int:
    """One number out of a pair of equal ones; an empty list or None is the default."""
    value = call.args.get(role)
    value = default if value is None or value == [] else value
    numbers = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if len(set(numbers)) != 1:
        raise _refused(call, f"{name or role} {numbers}", "equal numbers for height and width work")
    return int(numbers[0])


def _weight(c: Conversion, call: Call, role: str, ndim: int) -> Array:
    w = c.constant(call, role)
    if w is None or w.ndim != ndim:
        raise _refused(call, f"a weight of shape {None if w is None else w.shape}", f"{ndim} axes work")
    return w


def _conv(c: Conversion, call: Call) -> list[Operand]:
    if call.args.get("transposed"):
        return _conv_transpose(c, call)
    w, bias = _weight(c, call, "weight", 4), c.constant(call, "bias")
    if w.shape[2] != w.shape[3]:
        raise _refused(call, f"a kernel of {w.shape[2]}x{w.shape[3]}", "square kernels work")
    if _square(call, "dilation", 1) != 1:
        raise _refused(call, f"dilation {call.args['dilation']}", "dilation 1 works")
    kernel, stride, padding = w.shape[2], _square(call, "stride", 1), call.args.get("padding", 0)
    if padding == "same" and (stride != 1 or kernel % 2 == 0):
        raise _refused(call, f"padding 'same' with kernel {kernel} at stride {stride}", "an odd kernel at stride 1 works, or a number")
    around = {"same": kernel // 2, "valid": 0}[padding] if isinstance(padding, str) else _square(call, "padding", 0)
    if stride > MAX_STRIDE:
        raise _refused(call, f"stride {stride}", f"strides up to {MAX_STRIDE} work")
    arrays = {"weight": w} | ({} if bias is None else {"bias": bias})
    groups = call.args.get("groups", 1)
    return [c.add(call, "conv2d", c.ref(call, "input"), arrays=arrays, channels=len(w), kernel=kernel, stride=stride, padding=around,
                  groups=groups, bias=bias is not None)]


def _conv_transpose(c: Conversion, call: Call) -> list[Operand]:
    w, bias = _weight(c, call, "weight", 4), c.constant(call, "bias")
    shape = w.shape[2], w.shape[3], _square(call, "stride", 1)
    plain = call.args.get("groups", 1) == 1 and _square(call, "padding", 0) == _square(call, "output_padding", 0) == 0
    if shape != (2, 2, 2) or not plain or _square(call, "dilation", 1) != 1:
        raise _refused(call, f"kernel {shape[0]}x{shape[1]} at stride {shape[2]}", "kernel 2 at stride 2 without padding or groups works")
    arrays = {"weight": w, "bias": np.zeros(w.shape[1]) if bias is None else bias}
    return [c.add(call, "conv_transpose2d", c.ref(call, "input"), arrays=arrays, channels=w.shape[1], kernel=2, stride=2, bias=True)]


def _linear(c: Conversion, call: Call) -> list[Operand]:
    """linear(input, weight, bias); addmm(self, mat1, mat2) and mm(self, mat2) with the weight transposed."""
    role = {"linear": "input", "addmm": "mat1", "mm": "self"}[call.op]
    w = _weight(c, call, "weight" if call.op == "linear" else "mat2", 2)
    w = w if call.op == "linear" else w.T
    bias = c.constant(call, "self" if call.op == "addmm" else "bias") if call.op != "mm" else None
    x = c.ref(call, role)
    if len(c.shape(x)) != 1:
        raise _refused(call, f"an input of shape {c.shape(x)} without batch", "one vector an image works: flatten it, or use a 1x1 conv")
    arrays = {"weight": w} | ({} if bias is None else {"bias": np.broadcast_to(bias, len(w))})
    return [c.add(call, "linear", x, arrays=arrays, features=len(w), bias=bias is not None)]


def _batch_norm(c: Conversion, call: Call) -> list[Operand]:
    if call.args.get("training"):
        raise _refused(call, "statistics of the batch (training mode)", "export the net after .eval()")
    x, mean, var = c.ref(call, "input"), c.constant(call, "running_mean"), c.constant(call, "running_var")
    if mean is None or var is None:
        raise _refused(call, "no running statistics", "a batch-norm with track_running_stats works")
    gamma, beta = c.constant(call, "weight"), c.constant(call, "bias")
    arrays = {
        "gamma": np.ones_like(mean) if gamma is None else gamma,
        "beta": np.zeros_like(mean) if beta is None else beta,
        "mean": mean,
        "var": var,
    }
    y = c.add(call, "batchnorm", x, arrays=arrays, eps=float(call.args["eps"]))
    return [y, *[np.zeros(0, np.float32)] * (len(call.results) - 1)]  # core aten returns statistics too, which nobody reads


def _activation(kind: str) -> Row:
    return lambda c, call: [c.add(call, "activation", c.ref(call, "self"), kind=kind)]


def _clipped(c: Conversion, call: Call) -> list[Operand]:
    """hardtanh, clamp, clamp_min, clamp_max: ReLU and ReLU6 under other names, or in two steps."""
    names, defaults = (("min_val", "max_val"), (-1.0, 1.0)) if call.op == "hardtanh" else (("min", "max"), (None, None))
    low, high = (call.args.get(name, default) for name, default in zip(names, defaults))
    kind = {(0.0, None): "relu", (0.0, 6.0): "relu6"}.get((low, high))
    x = c.node(c.ref(call, "self"))
    if (low, high) == (None, 6.0) and x.get("kind") == "relu":
        return [c.add(call, "activation", *x.inputs, kind="relu6")]
    if kind is None:
        raise _refused(call, f"limits {low} and {high}", "0 and 6 work (ReLU6), and 0 alone (ReLU)")
    return [c.add(call, "activation", x.name, kind=kind)]


def _leaky_relu(c: Conversion, call: Call) -> list[Operand]:
    slope = call.args.get("negative_slope", 0.01)
    if not np.isclose(slope, LEAKY_SLOPE):
        raise _refused(call, f"slope {slope}", f"{LEAKY_SLOPE} works, and ReLU, ReLU6, Hardswish, SiLU and GELU")
    return _activation("leaky_relu")(c, call)


def _gelu(c: Conversion, call: Call) -> list[Operand]:
    if (found := call.args.get("approximate", "none")) != "none":
        raise _refused(call, f"approximate='{found}'", "approximate='none' works")
    return _activation("gelu")(c, call)


def _hardsigmoid(c: Conversion, call: Call) -> list[Operand]:
    """relu6(x + 3) / 6."""
    x = c.ref(call, "self")
    y = c.add(call, "activation", c.affine(call, x, *_constants(c, x, 1.0, 3.0)), kind="relu6")
    return [c.affine(call, y, *_constants(c, x, 1 / 6, 0.0))]


def _arithmetic(c: Conversion, call: Call) -> list[Operand]:
    """add, sub, mul and div of two maps, or of a map and a constant for each channel."""
    a, b = (c.values[arg] if isinstance(arg := call.args[role], Value) else np.array(arg) for role in ("self", "other"))
    alpha = call.args.get("alpha", 1)
    if isinstance(a, str) and isinstance(b, str):
        return [_of_two(c, call, a, b, alpha)]
    if not isinstance(a, str):
        if call.op == "div":
            raise _refused(call, "a tensor as its divisor", "a constant divisor works")
        assert isinstance(b, str)
        k, (ones, zeros) = _by_channel(c, call, a, b), _constants(c, b, 1.0, 0.0)
        gain, shift = {"add": (alpha * ones, k), "sub": (-alpha * ones, k), "mul": (k, zeros)}[call.op]
        return [c.affine(call, b, gain, shift)]
    k, (ones, zeros) = _by_channel(c, call, b, a), _constants(c, a, 1.0, 0.0)
    gain, shift = {"add": (ones, alpha * k), "sub": (ones, -alpha * k), "mul": (k, zeros), "div": (1 / k, zeros)}[call.op]
    return [c.affine(call, a, gain, shift)]


def _of_two(c: Conversion, call: Call, a: Ref, b: Ref, alpha: float) -> Ref:
    if call.op == "div":
        raise _refused(call, "a tensor as its divisor", "a constant divisor works")
    if call.op == "mul":
        for x, gate in ((a, b), (b, a)):
            if (found := _gated(c, x, gate)) is not None:
                kind, factor = found
                y = c.add(call, "activation", x, kind=kind)
                return y if factor == 1 else c.affine(call, y, *_constants(c, y, factor, 0.0))
        return c.add(call, "mul", *((b, a) if c.shape(a)[1:] == (1, 1) else (a, b)))
    factor = -alpha if call.op == "sub" else alpha
    if factor != 1:
        b = c.affine(call, b, *_constants(c, b, factor, 0.0))
    return c.add(call, "add", a, b)


def _gated(c: Conversion, x: Ref, gate: Ref) -> tuple[str, float] | None:
    """(activation, factor) where x * gate is an activation of x: x * sigmoid(x), x * relu6(x + 3), x * (relu6(x + 3) / 6)."""
    node, factor = c.node(gate), 1.0
    if node.get("kind") == "sigmoid" and node.inputs == (x,):
        return "silu", factor
    if gate in c.affines and np.allclose(c.arrays[f"{gate}.weight"], 1 / 6) and not c.arrays[f"{gate}.bias"].any():
        node, factor = c.node(node.inputs[0]), 1 / 6
    if node.get("kind") != "relu6" or (shifted := node.inputs[0]) not in c.affines or c.node(shifted).inputs != (x,):
        return None
    exact = (c.arrays[f"{shifted}.weight"] == 1).all() and (c.arrays[f"{shifted}.bias"] == 3).all()
    return ("hardswish", 6 * factor) if exact else None


def _constants(c: Conversion, x: Ref, *values: float) -> list[Array]:
    """Each value once for every channel of x."""
    return [np.full(c.shape(x)[0], value) for value in values]


def _by_channel(c: Conversion, call: Call, value: Operand, x: Ref) -> Array:
    """A constant that broadcasts against (N, C, ..) as one number for each channel, float64."""
    constant, shape = np.asarray(value, np.float64), c.shape(x)
    axes = (1,) * (1 + len(shape) - constant.ndim) + constant.shape
    if constant.ndim > 1 + len(shape) or any(size != 1 for axis, size in enumerate(axes) if axis != 1):
        raise _refused(call, f"a constant of shape {constant.shape} beside a map of {shape}", "one number works, or one for each channel")
    return np.broadcast_to(constant.reshape(-1), (shape[0],))


def _axis(call: Call, role: str, ndim: int, default: int = 0) -> int:
    """The axis an argument names, counted from the batch."""
    return int(call.args.get(role, default)) % ndim


def _cat(c: Conversion, call: Call) -> list[Operand]:
    values = [c.values[name] for name in call.args["tensors"]]
    refs = [value for value in values if isinstance(value, str)]
    if len(refs) < len(values):
        raise _refused(call, "a constant among its inputs", "maps that depend on the image work")
    if _axis(call, "dim", 1 + len(c.shape(refs[0]))) != 1:
        raise _refused(call, f"dim {call.args.get('dim', 0)}", f"channels (dim 1) work; {RAW_MAPS}")
    return [refs[0] if len(refs) == 1 else c.add(call, "concat", *refs)]


def _pieces(c: Conversion, call: Call) -> list[Operand]:
    """chunk, split and split_with_sizes: a slice for each result, whose widths are those that torch saw."""
    x = c.ref(call, "self")
    if _axis(call, "dim", 1 + len(c.shape(x))) != 1:
        raise _refused(call, f"dim {call.args.get('dim', 0)}", "channels (dim 1) work")
    results: list[Operand] = []
    start = 0
    for name in call.results:
        stop = start + c.trace.shapes[name][1]
        results.append(_part(c, call, x, start, stop))
        start = stop
    return results


def _part(c: Conversion, call: Call, x: Ref, start: int, stop: int) -> Ref:
    return x if (start, stop) == (0, c.shape(x)[0]) else c.add(call, "slice", x, start=start, stop=stop)


def _slice(c: Conversion, call: Call) -> list[Operand]:
    x = c.ref(call, "self")
    size = (c.trace.shapes[call.args["self"]])[axis := _axis(call, "dim", 1 + len(c.shape(x)))]
    start, stop, step = slice(call.args.get("start"), call.args.get("end"), call.args.get("step", 1)).indices(size)
    if step == 1 and (start, stop) == (0, size):
        return [x]
    if axis != 1 or step != 1:
        works = "slices of channels at step 1 work; a Focus stem is a 6x6 conv at stride 2 and padding 2 with its weights rearranged"
        raise _refused(call, f"start {start}, end {stop}, step {step} on axis {axis}", works)
    return [_part(c, call, x, start, stop)]


def _upsample(c: Conversion, call: Call) -> list[Operand]:
    x = c.ref(call, "input" if "input" in call.args else "self")
    (_, h, w), (_, _, tall, wide) = c.shape(x), c.trace.shapes[call.results[0]]
    factor = tall // h
    if (factor * h, factor * w) != (tall, wide):
        raise _refused(call, f"{h}x{w} to {tall}x{wide}", "a whole factor, the same for height and width, works")
    return [x if factor == 1 else c.add(call, "upsample", x, factor=factor)]


def _max_pool(c: Conversion, call: Call) -> list[Operand]:
    kernel, padding = _square(call, "kernel_size", None), _square(call, "padding", 0)
    if _square(call, "dilation", 1) != 1:
        raise _refused(call, f"dilation {call.args['dilation']}", "dilation 1 works")
    y = c.add(call, "maxpool", c.ref(call, "self"), kernel=kernel, stride=_square(call, "stride", kernel), padding=padding)
    return [y, *[np.zeros(0, np.float32)] * (len(call.results) - 1)]  # the indices, which nobody may read


def _average(c: Conversion, call: Call, x: Ref, kernel: int, stride: int, padding: int) -> Ref:
    """Mean over windows as a depthwise conv of equal weights."""
    if stride > MAX_STRIDE:
        raise _refused(call, f"stride {stride}", f"strides up to {MAX_STRIDE} work, and the mean over the whole map")
    channels = c.shape(x)[0]
    weight = np.full((channels, 1, kernel, kernel), 1 / kernel**2)
    return c.add(call, "conv2d", x, arrays={"weight": weight}, channels=channels, kernel=kernel, stride=stride, padding=padding,
                 groups=channels, bias=False)


def _avg_pool(c: Conversion, call: Call) -> list[Operand]:
    kernel, padding = _square(call, "kernel_size", None), _square(call, "padding", 0)
    if call.args.get("divisor_override") is not None or (padding and not call.args.get("count_include_pad", True)):
        raise _refused(call, "a divisor of its own at the border", "count_include_pad=True without divisor_override works")
    return [_average(c, call, c.ref(call, "self"), kernel, _square(call, "stride", kernel), padding)]


def _adaptive_avg_pool(c: Conversion, call: Call) -> list[Operand]:
    x = c.ref(call, "self")
    (_, h, w), (_, _, rows, columns) = c.shape(x), c.trace.shapes[call.results[0]]
    if (rows, columns) == (h, w):
        return [x]
    if (rows, columns) == (1, 1):
        return [c.add(call, "global_avgpool", x)]
    if (h // rows, 0, 0) != (w // columns, h % rows, w % columns):
        raise _refused(call, f"{h}x{w} to {rows}x{columns}", "a size that divides height and width by one number works, and 1")
    return [_average(c, call, x, h // rows, h // rows, 0)]


def _mean(c: Conversion, call: Call) -> list[Operand]:
    x = c.ref(call, "self")
    axes = {axis % (1 + len(c.shape(x))) for axis in call.args.get("dim") or ()}
    if len(c.shape(x)) != 3 or axes != {2, 3}:
        raise _refused(call, f"axes {call.args.get('dim')}", "the mean over height and width works")
    y = c.add(call, "global_avgpool", x)
    return [y if call.args.get("keepdim") else c.add(call, "flatten", y)]


def _reshaped(c: Conversion, call: Call) -> list[Operand]:
    """view, reshape, flatten, squeeze: nothing, or a map as one vector."""
    x = c.ref(call, "self")
    (batch, *before), (_, *after) = c.trace.shapes[call.args["self"]], c.trace.shapes[call.results[0]]
    if c.trace.shapes[call.results[0]][0] != batch or (after != before and (len(after) != 1 or len(before) != 3)):
        raise _refused(call, f"{tuple(before)} to {tuple(after)}", f"a map as one vector works; {RAW_MAPS}")
    return [x if after == before else c.add(call, "flatten", x)]


def _softmax(c: Conversion, call: Call) -> list[Operand]:
    x = c.ref(call, "self")
    ndim = 1 + len(c.shape(x))
    return [c.add(call, "softmax", x, axis=_axis(call, "dim", ndim) - ndim)]


def _same(c: Conversion, call: Call) -> list[Operand]:
    """Copies, and what does nothing once training is over."""
    if call.args.get("train") or call.args.get("training"):
        raise _refused(call, "training mode", "export the net after .eval()")
    if call.args.get("dtype", 7) not in (7, None):
        raise _refused(call, "another type than float32", "a net that stays in float32 works")
    return [c.values[next(iter(call.args.values()))]]


RAW_MAPS = "a detector's own decoding stays outside: return the head's raw maps (N, C, H, W) and give their strides as `decode`"

OPERATORS: dict[str, Row] = {
    "conv2d": _conv, "convolution": _conv, "conv_transpose2d": _conv_transpose, "linear": _linear, "addmm": _linear, "mm": _linear,
    "batch_norm": _batch_norm, "_native_batch_norm_legit_no_training": _batch_norm,
    "relu": _activation("relu"), "relu6": _activation("relu6"), "silu": _activation("silu"), "hardswish": _activation("hardswish"),
    "sigmoid": _activation("sigmoid"), "hardtanh": _clipped, "clamp": _clipped, "clamp_min": _clipped, "clamp_max": _clipped,
    "leaky_relu": _leaky_relu,
    "gelu": _gelu, "hardsigmoid": _hardsigmoid,
    "add": _arithmetic, "sub": _arithmetic, "mul": _arithmetic, "div": _arithmetic,
    "cat": _cat, "chunk": _pieces, "split": _pieces, "split_with_sizes": _pieces, "slice": _slice,
    "upsample_nearest2d": _upsample, "max_pool2d": _max_pool, "max_pool2d_with_indices": _max_pool, "avg_pool2d": _avg_pool,
    "adaptive_avg_pool2d": _adaptive_avg_pool, "_adaptive_avg_pool2d": _adaptive_avg_pool, "mean": _mean,
    "flatten": _reshaped, "view": _reshaped, "reshape": _reshaped, "squeeze": _reshaped,
    "softmax": _softmax, "_softmax": _softmax,
    "dropout": _same, "feature_dropout": _same, "clone": _same, "contiguous": _same, "detach": _same, "alias": _same, "to": _same,
    "_to_copy": _same, "lift_fresh_copy": _same,
}  # fmt: skip

HINTS = {
    "upsample_bilinear2d": "upsample_nearest2d by a whole factor works",
    "upsample_bicubic2d": "upsample_nearest2d by a whole factor works",
    "pad": "give the conv or pooling behind it the padding, the same on all sides",
    "constant_pad_nd": "give the conv or pooling behind it the padding, the same on all sides",
    "mish": "relu, relu6, leaky_relu, hardswish, silu and gelu work",
    "elu": "relu, relu6, leaky_relu, hardswish, silu and gelu work",
    "prelu": f"leaky_relu of slope {LEAKY_SLOPE} works, as do relu, relu6, hardswish, silu and gelu",
    "permute": RAW_MAPS,
    "transpose": RAW_MAPS,
    "unsqueeze": f"maps keep their four axes (a 1x1 conv stands in for a linear between maps); {RAW_MAPS}",
}
