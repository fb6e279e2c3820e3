"""verify(plan): every rule that `csrc/runtime/validate.cpp` holds a file to, on the plan before it is written."""

from collections.abc import Callable

import numpy as np

from nas.runtime.plan import ACTIVATIONS, EPILOGUES, OPS, ArtifactError, Instruction, Plan, Tensor

MAX_TENSORS = MAX_INSTRUCTIONS = 4096
MAX_INPUTS = 64
MAX_DIM = 65535
MAX_BYTES = 1 << 28                 # of one tensor, of the arena, of a file
MAX_TABLE = 4096
MAX_TERMS = 65536                   # products in one accumulator
MAX_STRIDE = 2                      # of a conv2d
WEIGHT_BITS = (1, 2, 3, 4, 8)
IN_PLACE = ("add", "mul", "requantize", "activation")           # may write over an input that nobody reads later


def verify(plan: Plan) -> None:
    """Raises ArtifactError naming the first instruction or tensor that breaks a rule of plan.py; else returns None."""
    _require(len(plan.tensors) <= MAX_TENSORS, f"plan: {len(plan.tensors)} tensors, at most {MAX_TENSORS}")
    _require(len(plan.instructions) <= MAX_INSTRUCTIONS, f"plan: {len(plan.instructions)} instructions, at most {MAX_INSTRUCTIONS}")
    _require(0 <= plan.arena_bytes <= MAX_BYTES, f"plan: arena of {plan.arena_bytes} bytes, at most {MAX_BYTES}")
    _require(bool(plan.inputs) and bool(plan.outputs), "plan: it needs an input and an output")
    for tensor in plan.tensors:
        _tensor(tensor, plan.arena_bytes)
    for instruction in plan.instructions:
        where = f"{instruction.op} '{instruction.name}'"
        try:
            _instruction(plan, instruction, where)
        except (KeyError, IndexError, TypeError) as error:
            raise ArtifactError(f"{where}: missing or malformed {error}") from error
    _dataflow(plan)


def _require(ok: bool, message: str) -> None:
    if not ok:
        raise ArtifactError(message)


def _tensor(t: Tensor, arena_bytes: int) -> None:
    where = f"tensor '{t.name}'"
    _require(t.dtype in ("u8", "f32"), f"{where}: dtype '{t.dtype}' is neither u8 nor f32")
    _require(len(t.shape) == 3 and all(1 <= d <= MAX_DIM for d in t.shape), f"{where}: shape {t.shape} is not 3 numbers in 1..{MAX_DIM}")
    _require(t.nbytes <= MAX_BYTES, f"{where}: {t.nbytes} bytes, at most {MAX_BYTES}")
    bits_ok = 1 <= t.bits <= 8 and 0 <= t.zero_point < 2**t.bits if t.dtype == "u8" else t.bits == 32 and t.zero_point == 0
    _require(bits_ok, f"{where}: bits {t.bits} with zero point {t.zero_point} do not suit {t.dtype}")
    _require(0 < float(np.float32(t.scale)) < float("inf"), f"{where}: scale {t.scale} is not a positive float32")
    _require(t.offset >= 0 and t.offset % 4 == 0, f"{where}: offset {t.offset} is not a multiple of 4")
    _require(t.offset + t.nbytes <= arena_bytes, f"{where}: bytes {t.offset}..{t.offset + t.nbytes} pass the arena of {arena_bytes}")


def _instruction(plan: Plan, i: Instruction, where: str) -> None:
    _require(i.op in OPS, f"{where}: unknown operator; known are {', '.join(OPS)}")
    for t in (*i.inputs, *i.outputs):
        _require(0 <= t < len(plan.tensors), f"{where}: tensor {t} of {len(plan.tensors)}")
    _require(1 <= len(i.inputs) <= MAX_INPUTS and len(i.outputs) == 1, f"{where}: {len(i.inputs)} inputs, {len(i.outputs)} outputs")
    x, y = [plan.tensors[t] for t in i.inputs], plan.tensors[i.outputs[0]]
    arity = {"add": 2, "mul": 2, "matmul": 2}.get(i.op, len(x) if i.op in ("concat", "decode") else 1)
    _require(len(x) == arity, f"{where}: {len(x)} inputs, not {arity}")
    CHECKS[i.op](plan, i, x, y, where)


def _expect(y: Tensor, shape: tuple[int, ...], where: str) -> None:
    _require(y.shape == shape, f"{where}: output '{y.name}' has shape {y.shape}, the operator gives {shape}")


def _int(i: Instruction, name: str, low: int, high: int, where: str) -> int:
    value = i.attrs[name]
    _require(isinstance(value, (int, np.integer)) and low <= int(value) <= high, f"{where}: {name}={value!r} is outside {low}..{high}")
    return int(value)  # type: ignore[arg-type]


def _array(a: object, dtype: str, shapes: tuple[tuple[int, ...], ...], what: str) -> np.ndarray:
    _require(isinstance(a, np.ndarray), f"{what} is missing")
    assert isinstance(a, np.ndarray)
    _require(a.dtype == np.dtype(dtype), f"{what} is {a.dtype}, not {dtype}")
    _require(a.shape in shapes, f"{what} has shape {a.shape}, not {' or '.join(map(str, shapes))}")
    if a.dtype.kind == "f":
        _require(bool(np.isfinite(a).all()), f"{what} holds values that are not finite")
    return a


def _requant(i: Instruction, y: Tensor, channels: int, broadcast: bool, where: str) -> None:
    r = i.requant
    _require(r is not None and r.kind in EPILOGUES, f"{where}: it needs a requant of kind {', '.join(EPILOGUES)}")
    assert r is not None
    _require((r.kind == "float") == (y.dtype == "f32"), f"{where}: requant '{r.kind}' cannot write the {y.dtype} tensor '{y.name}'")
    per_channel = ((channels,), (1,)) if broadcast else ((channels,),)
    if r.kind in ("linear", "table"):
        multiplier = _array(r.multiplier, "int32", per_channel, f"{where}: multiplier")
        bias = _array(r.bias, "int64", (multiplier.shape,), f"{where}: bias")
        _require(bool((np.abs(bias) < 2**62).all()), f"{where}: a bias reaches 2^62")
        _require(0 <= r.shift <= 62, f"{where}: shift {r.shift} is outside 0..62")
    if r.kind == "linear":
        _require(0 <= r.lo <= r.hi < 2**y.bits, f"{where}: clip {r.lo}..{r.hi} does not fit {y.bits} bits")
    elif r.kind == "table":
        size = 0 if r.table is None else r.table.size
        _require(1 <= size <= MAX_TABLE and size & (size - 1) == 0, f"{where}: a table of {size} entries; a power of two up to {MAX_TABLE}")
        table = _array(r.table, "uint8", ((size,),), f"{where}: table")
        _require(int(table.max()) < 2**y.bits, f"{where}: a table entry does not fit {y.bits} bits")
    elif r.kind == "threshold":
        _require(y.bits <= 4, f"{where}: thresholds give at most 4 bits, '{y.name}' has {y.bits}")
        levels = 2**y.bits
        shapes = tuple((*c, levels - 1) for c in per_channel)
        thresholds = _array(r.thresholds, "int32", shapes, f"{where}: thresholds")
        _require(bool((thresholds[:, 1:] >= thresholds[:, :-1]).all()), f"{where}: thresholds are not ascending")
        sign = _array(r.sign, "int8", per_channel, f"{where}: sign")
        _require(bool((np.abs(sign) == 1).all()), f"{where}: a sign is neither -1 nor +1")
        _require(len(sign) == len(thresholds), f"{where}: {len(sign)} signs for {len(thresholds)} rows of thresholds")
    else:
        scale = _array(r.scale, "float32", per_channel, f"{where}: scale")
        _array(r.offset, "float32", (scale.shape,), f"{where}: offset")


def _weighted(plan: Plan, i: Instruction, x: Tensor, y: Tensor, shape: tuple[int, ...], where: str) -> None:
    """Weights and epilogue of an integer (u8 input) or float (f32 input) conv2d, conv_transpose2d or linear."""
    w = plan.weights[i.params["weight"]]
    if x.dtype == "f32":
        _require(y.dtype == "f32" and i.requant is None, f"{where}: an f32 input gives an f32 output without requant")
        _array(w, "float32", (shape,), f"{where}: weight")
        if "bias" in i.params:
            _array(plan.weights[i.params["bias"]], "float32", ((shape[0],),), f"{where}: bias")
        _require(i.attrs.get("activation", "none") in ACTIVATIONS, f"{where}: activation {i.attrs.get('activation')!r} is unknown")
        return
    bits = _int(i, "wbits", 1, 8, where)
    _require(bits in WEIGHT_BITS, f"{where}: wbits={bits}; 1, 2, 3, 4 and 8 are packed")
    w = _array(w, "int8", (shape,), f"{where}: weight")
    low, high = {1: (-1, 1), 8: (-127, 127)}.get(bits, (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1))
    fits = low <= int(w.min()) and int(w.max()) <= high and (bits > 1 or bool((w != 0).all()))
    _require(fits, f"{where}: a weight does not fit {bits} bits")
    terms = int(np.prod(shape[1:])) if i.op != "conv_transpose2d" else shape[1]
    reach = terms * 2 ** (bits - 1) * (2**x.bits - 1)
    _require(terms <= MAX_TERMS and reach < 2**31, f"{where}: an accumulator of {terms} products can reach {reach}, past int32")
    _requant(i, y, shape[0], False, where)


def _conv2d(plan: Plan, i: Instruction, x: list[Tensor], y: Tensor, where: str) -> None:
    c, h, w = x[0].shape
    kernel, stride = _int(i, "kernel", 1, 31, where), _int(i, "stride", 1, MAX_STRIDE, where)
    padding, groups = _int(i, "padding", 0, kernel - 1, where), _int(i, "groups", 1, MAX_DIM, where)
    _require(c % groups == 0 and y.shape[0] % groups == 0, f"{where}: {groups} groups do not divide {c} and {y.shape[0]} channels")
    _require(h + 2 * padding >= kernel and w + 2 * padding >= kernel, f"{where}: kernel {kernel} is larger than the padded input")
    _expect(y, (y.shape[0], (h + 2 * padding - kernel) // stride + 1, (w + 2 * padding - kernel) // stride + 1), where)
    _weighted(plan, i, x[0], y, (y.shape[0], c // groups, kernel, kernel), where)


def _conv_transpose2d(plan: Plan, i: Instruction, x: list[Tensor], y: Tensor, where: str) -> None:
    c, h, w = x[0].shape
    _expect(y, (y.shape[0], 2 * h, 2 * w), where)
    _weighted(plan, i, x[0], y, (y.shape[0], c, 2, 2), where)


def _linear(plan: Plan, i: Instruction, x: list[Tensor], y: Tensor, where: str) -> None:
    _expect(y, (y.shape[0], 1, 1), where)
    _weighted(plan, i, x[0], y, (y.shape[0], int(np.prod(x[0].shape))), where)


def _pair(plan: Plan, i: Instruction, x: list[Tensor], y: Tensor, where: str) -> None:
    a, b = x
    _expect(y, a.shape, where)
    _require(b.shape in (a.shape, (a.shape[0], 1, 1)), f"{where}: shapes {a.shape} and {b.shape} do not pair")
    _require(a.dtype == b.dtype, f"{where}: a {a.dtype} and a {b.dtype} input")
    if a.dtype == "f32":
        _require(y.dtype == "f32" and i.requant is None, f"{where}: f32 inputs give an f32 output without requant")
        return
    if i.op == "add":
        _int(i, "multiplier_a", -(2**22) + 1, 2**22 - 1, where)
        _int(i, "multiplier_b", -(2**22) + 1, 2**22 - 1, where)
    _requant(i, y, y.shape[0], True, where)


def _same_codes(x: list[Tensor], y: Tensor, where: str) -> None:
    for t in x:
        same = (t.dtype, t.bits, t.zero_point) == (y.dtype, y.bits, y.zero_point) and np.float32(t.scale) == np.float32(y.scale)
        _require(same, f"{where}: '{t.name}' and '{y.name}' differ in dtype, bits, scale or zero point; requantize first")


def _concat(plan: Plan, i: Instruction, x: list[Tensor], y: Tensor, where: str) -> None:
    _same_codes(x, y, where)
    for t in x:
        _require(t.shape[1:] == y.shape[1:], f"{where}: '{t.name}' is {t.shape}, the output {y.shape}")
    _expect(y, (sum(t.shape[0] for t in x), *y.shape[1:]), where)


def _slice(plan: Plan, i: Instruction, x: list[Tensor], y: Tensor, where: str) -> None:
    _same_codes(x, y, where)
    start = _int(i, "start", 0, x[0].shape[0] - 1, where)
    stop = _int(i, "stop", start + 1, x[0].shape[0], where)
    _expect(y, (stop - start, *x[0].shape[1:]), where)


def _upsample(plan: Plan, i: Instruction, x: list[Tensor], y: Tensor, where: str) -> None:
    _same_codes(x, y, where)
    factor = _int(i, "factor", 1, 16, where)
    c, h, w = x[0].shape
    _expect(y, (c, h * factor, w * factor), where)


def _maxpool(plan: Plan, i: Instruction, x: list[Tensor], y: Tensor, where: str) -> None:
    _same_codes(x, y, where)
    kernel, stride = _int(i, "kernel", 1, 31, where), _int(i, "stride", 1, 16, where)
    padding = _int(i, "padding", 0, kernel // 2, where)
    c, h, w = x[0].shape
    _require(h + 2 * padding >= kernel and w + 2 * padding >= kernel, f"{where}: kernel {kernel} is larger than the padded input")
    _expect(y, (c, (h + 2 * padding - kernel) // stride + 1, (w + 2 * padding - kernel) // stride + 1), where)


def _global_avgpool(plan: Plan, i: Instruction, x: list[Tensor], y: Tensor, where: str) -> None:
    c, h, w = x[0].shape
    _expect(y, (c, 1, 1), where)
    if x[0].dtype == "f32":
        _require(y.dtype == "f32" and i.requant is None, f"{where}: an f32 input gives an f32 output without requant")
        return
    _require(h * w * 255 < 2**31, f"{where}: {h} x {w} codes can pass int32")
    _requant(i, y, c, True, where)


def _requantize(plan: Plan, i: Instruction, x: list[Tensor], y: Tensor, where: str) -> None:
    _expect(y, x[0].shape, where)
    _require(x[0].dtype == "u8", f"{where}: its input is {x[0].dtype}, not codes")
    if i.requant is not None:
        _requant(i, y, y.shape[0], True, where)
        return
    _require(y.dtype == "u8", f"{where}: a table gives codes, '{y.name}' is {y.dtype}")
    table = _array(plan.weights[i.params["table"]], "uint8", ((256,),), f"{where}: table")
    _require(int(table.max()) < 2**y.bits, f"{where}: a table entry does not fit {y.bits} bits")


def _convert(plan: Plan, i: Instruction, x: list[Tensor], y: Tensor, where: str) -> None:
    _expect(y, x[0].shape, where)
    wanted = ("f32", "u8") if i.op == "quantize" else ("u8", "f32")
    _require((x[0].dtype, y.dtype) == wanted, f"{where}: from {x[0].dtype} to {y.dtype}, not {wanted[0]} to {wanted[1]}")


def _floats(x: list[Tensor], y: Tensor, where: str) -> None:
    _require(all(t.dtype == "f32" for t in (*x, y)), f"{where}: inputs and output must be f32")


def _activation(plan: Plan, i: Instruction, x: list[Tensor], y: Tensor, where: str) -> None:
    _floats(x, y, where)
    _expect(y, x[0].shape, where)
    if i.op == "activation":
        _require(i.attrs["kind"] in ACTIVATIONS, f"{where}: kind {i.attrs['kind']!r}; known are {', '.join(ACTIVATIONS)}")
    else:
        axis = _int(i, "axis", 0, 2, where)
    if i.op == "layernorm":
        eps = i.attrs["eps"]
        _require(isinstance(eps, float) and 0 < eps < 1, f"{where}: eps={eps!r} is outside 0..1")
        for role in ("gamma", "beta"):
            _array(plan.weights[i.params[role]], "float32", ((y.shape[axis],),), f"{where}: {role}")


def _matmul(plan: Plan, i: Instruction, x: list[Tensor], y: Tensor, where: str) -> None:
    _floats(x, y, where)
    (c, m, k), b = x[0].shape, x[1].shape
    transposed = _int(i, "transpose_b", 0, 1, where)
    n = b[1] if transposed else b[2]
    wanted = (c, n, k) if transposed else (c, k, n)
    _require(b == wanted, f"{where}: {x[0].shape} by {b} does not multiply")
    _expect(y, (c, m, n), where)


def _decode(plan: Plan, i: Instruction, x: list[Tensor], y: Tensor, where: str) -> None:
    _floats(x, y, where)
    bins, classes = _int(i, "bins", 1, 64, where), _int(i, "classes", 1, 4096, where)
    strides = i.attrs["strides"]
    _require(isinstance(strides, tuple) and 2 * len(strides) == len(x), f"{where}: {len(x)} maps for strides {strides!r}")
    assert isinstance(strides, tuple)
    _require(all(1 <= s <= 1024 for s in strides), f"{where}: strides {strides} are outside 1..1024")
    for box, cls in zip(x[::2], x[1::2]):
        _require(box.shape[0] == 4 * bins and cls.shape[0] == classes, f"{where}: {box.shape[0]} box and {cls.shape[0]} class channels")
        _require(box.shape[1:] == cls.shape[1:], f"{where}: '{box.name}' is {box.shape}, '{cls.name}' {cls.shape}")
    _expect(y, (4 + classes, sum(t.shape[1] * t.shape[2] for t in x[::2]), 1), where)


Check = Callable[[Plan, Instruction, list[Tensor], Tensor, str], None]
CHECKS: dict[str, Check] = {
    "conv2d": _conv2d, "conv_transpose2d": _conv_transpose2d, "linear": _linear, "add": _pair, "mul": _pair,
    "concat": _concat, "slice": _slice, "upsample": _upsample, "maxpool": _maxpool, "global_avgpool": _global_avgpool,
    "requantize": _requantize, "quantize": _convert, "dequantize": _convert, "activation": _activation,
    "softmax": _activation, "layernorm": _activation, "matmul": _matmul, "decode": _decode,
}  # fmt: skip


def writes(plan: Plan, i: Instruction) -> list[tuple[int, int]]:
    """Byte ranges of the arena that the instruction writes; a concat or slice in place writes nothing there."""
    y = plan.tensors[i.outputs[0]]
    if i.op == "slice":
        x = plan.tensors[i.inputs[0]]
        start = i.attrs["start"]
        assert isinstance(start, int)
        return [] if y.offset == alias_offset(x, start) else [(y.offset, y.offset + y.nbytes)]
    if i.op != "concat":
        return [(y.offset, y.offset + y.nbytes)]
    copied, channel = [], 0
    for x in (plan.tensors[t] for t in i.inputs):
        if x.offset != alias_offset(y, channel):
            copied.append(channel_range(y, channel, channel + x.shape[0]))
        channel += x.shape[0]
    return copied


def alias_offset(whole: Tensor, channel: int) -> int | None:
    """Arena offset at which channels from `channel` on start inside `whole`; None where a group of four is cut."""
    _, h, w = whole.shape
    if whole.dtype == "f32":
        return whole.offset + 4 * channel * h * w
    return whole.offset + channel * h * w if channel % 4 == 0 else None


def channel_range(whole: Tensor, start: int, stop: int) -> tuple[int, int]:
    """Byte range of the arena that holds channels start..stop of `whole`, groups of four taken whole."""
    _, h, w = whole.shape
    if whole.dtype == "f32":
        return whole.offset + 4 * start * h * w, whole.offset + 4 * stop * h * w
    return whole.offset + start // 4 * 4 * h * w, whole.offset + -(-stop // 4) * 4 * h * w


def _dataflow(plan: Plan) -> None:
    """Every tensor is produced once before it is read, and no write destroys a value that is still to be read."""
    end = len(plan.instructions)
    born: dict[int, int] = {}
    for t in plan.inputs:
        _require(0 <= t < len(plan.tensors) and t not in born, f"plan: input {t} is not a tensor or named twice")
        born[t] = -1
    last: dict[int, int] = {}
    for step, i in enumerate(plan.instructions):
        _require(i.op != "decode" or step == end - 1, f"decode '{i.name}': it is not the last instruction")
        for t in i.inputs:
            _require(t in born, f"{i.op} '{i.name}': reads '{plan.tensors[t].name}', which nothing has produced")
            last[t] = step
        t = i.outputs[0]
        _require(t not in born, f"{i.op} '{i.name}': writes '{plan.tensors[t].name}' a second time")
        born[t] = step
    for t in plan.outputs:
        _require(t in born, f"plan: output {t} is produced by nothing")
        raw = born[t] < 0 or plan.instructions[born[t]].op != "decode"
        _require(raw, "plan: its outputs are the raw maps, not what a decode makes of them")
        last[t] = end
    for t in range(len(plan.tensors)):
        _require(t in born, f"tensor '{plan.tensors[t].name}' is produced by nothing")
    for a in plan.inputs:
        for b in plan.inputs:
            x, y = plan.tensors[a], plan.tensors[b]
            apart = a == b or x.offset + x.nbytes <= y.offset or y.offset + y.nbytes <= x.offset
            _require(apart, f"plan: inputs '{x.name}' and '{y.name}' overlap")
    for step, i in enumerate(plan.instructions):
        _writes_are_safe(plan, step, i, born, last)


def _writes_are_safe(plan: Plan, step: int, i: Instruction, born: dict[int, int], last: dict[int, int]) -> None:
    out = plan.tensors[i.outputs[0]]
    for start, stop in writes(plan, i):
        for t, first in born.items():
            tensor = plan.tensors[t]
            if not first < step <= last.get(t, first) or tensor.offset + tensor.nbytes <= start or stop <= tensor.offset:
                continue
            same = tensor.offset == out.offset and tensor.shape == out.shape and tensor.dtype == out.dtype
            in_place = i.op in IN_PLACE and t in i.inputs and last[t] == step and same
            _require(in_place, f"{i.op} '{i.name}': writing '{out.name}' destroys '{tensor.name}', which is read later")
