"""The `.edge` file: `write(plan)` gives its bytes, `read(bytes)` the plan back. Layout: csrc/formats/edge.h.

Sizes are small beside the weights: 24 bytes a tensor, 56 an instruction, 12 a data section, names once each.
"""

import json
import struct
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.runtime.plan import ACTIVATIONS, EPILOGUES, OPS, ArtifactError, Instruction, Metadata, Plan, Requant, Tensor
from nas.runtime.verify import MAX_TABLE, verify

MAGIC = b"EDGENAS\n"
VERSION = 2
MAX_NAME = 255
NO_DATA = 0xFFFFFFFF
RUN = 64                                    # the longest run of equal table entries that one byte holds
SINGLES = 6                                 # sections before the data: tensors, instructions, operands, interface, names, metadata
HEADER = struct.Struct("<8s6I")
SECTION = struct.Struct("<3I")
TENSOR = struct.Struct("<IHBB4HfI")
INSTRUCTION = struct.Struct("<4BIHHI4i4I4H")

# Integer attributes of an operator, in the order of the record's attrs.
ATTRS: dict[str, tuple[str, ...]] = {
    "conv2d": ("kernel", "stride", "padding", "groups"), "add": ("multiplier_a", "multiplier_b"), "slice": ("start", "stop"),
    "upsample": ("factor",), "maxpool": ("kernel", "stride", "padding"), "softmax": ("axis",), "layernorm": ("axis",),
    "matmul": ("transpose_b",), "decode": ("bins", "classes"),
}  # fmt: skip
# Arrays of an epilogue, in the order of the record's data slots 1..3, with their types in the file.
EPILOGUE_ARRAYS: dict[str, tuple[tuple[str, str], ...]] = {
    "linear": (("multiplier", "<i4"), ("bias", "<i8")),
    "table": (("multiplier", "<i4"), ("bias", "<i8"), ("table", "|u1")),
    "threshold": (("thresholds", "<i4"), ("sign", "|i1")),
    "float": (("scale", "<f4"), ("offset", "<f4")),
}
# Roles of params that lie in data slots 0 and 1.
ROLES: dict[str, tuple[str, ...]] = {"layernorm": ("gamma", "beta"), "requantize": ("table",)}
WEIGHTED = ("conv2d", "conv_transpose2d", "linear")


def row_bytes(codes: int, bits: int) -> int:
    """Bytes of one packed row of weights."""
    return (codes * bits + 7) // 8


def pack_weights(codes: NDArray[np.int8], bits: int) -> bytes:
    """Signed codes (C_out, ...) as the file holds them: a row per output channel, first code in the lowest bits.

    Bits below 8 are stored as u = w + 2^(bits-1), 1 bit as (w + 1) / 2; a row ends at a byte. 8 bits are stored as int8.
    """
    rows = codes.reshape(len(codes), -1)
    if bits == 8:
        return rows.astype(np.int8).tobytes()
    unsigned = (rows.astype(np.int16) + 1) // 2 if bits == 1 else rows.astype(np.int16) + (1 << (bits - 1))
    planes = (unsigned[:, :, None] >> np.arange(bits)) & 1                       # (C_out, codes, bits)
    return np.packbits(planes.reshape(len(rows), -1).astype(np.uint8), axis=1, bitorder="little").tobytes()


def unpack_weights(packed: bytes, shape: tuple[int, ...], bits: int) -> NDArray[np.int8]:
    """The inverse of pack_weights for codes of the given shape."""
    codes = int(np.prod(shape[1:]))
    rows = np.frombuffer(packed, np.uint8).reshape(shape[0], row_bytes(codes, bits))
    if bits == 8:
        return rows.view(np.int8).reshape(shape).copy()
    planes = np.unpackbits(rows, axis=1, bitorder="little", count=codes * bits).reshape(shape[0], codes, bits)
    unsigned = (planes.astype(np.int16) << np.arange(bits, dtype=np.int16)).sum(axis=2)
    signed = 2 * unsigned - 1 if bits == 1 else unsigned - (1 << (bits - 1))
    return signed.astype(np.int8).reshape(shape)


def pack_table(table: NDArray[np.generic]) -> bytes:
    """A table as runs of equal entries, since a curve moves by one code at a time: a SiLU's 4096 entries take about 400 bytes.

    A byte is (kind << 6 | length - 1); kind 0 repeats the entry before (0 at first), 1 is one more, 2 one less, 3 takes the next byte.
    """
    starts = np.flatnonzero(np.append(True, table[1:] != table[:-1]))
    packed, before = bytearray(), 0
    for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(table)]):
        value = int(table[start])
        kind = {0: 0, 1: 1, -1: 2}.get(value - before, 3)
        while start < stop:
            length = min(stop - start, RUN)
            packed.append(kind << 6 | length - 1)
            packed += bytes([value]) if kind == 3 else b""
            start, kind = start + length, 0
        before = value
    return bytes(packed)


def unpack_table(packed: bytes) -> NDArray[np.uint8]:
    """The inverse of pack_table; raises ArtifactError for bytes that are none."""
    table, value, rest = bytearray(), 0, iter(packed)
    for byte in rest:
        kind = byte >> 6
        value = next(rest, -1) if kind == 3 else value + (0, 1, -1)[kind]
        if not 0 <= value <= 255 or len(table) > MAX_TABLE:
            raise ArtifactError("artifact: a table's runs leave 0 .. 255, end early or pass its limit")
        table += bytes([value]) * ((byte & RUN - 1) + 1)
    return np.frombuffer(bytes(table), np.uint8)


class _Pool:
    """Byte strings stored once each, addressed by number (data) or offset (names)."""

    def __init__(self) -> None:
        self.blobs: list[bytes] = []
        self.numbers: dict[bytes, int] = {}
        self.names = bytearray()
        self.offsets: dict[bytes, int] = {}

    def data(self, blob: bytes) -> int:
        if blob not in self.numbers:
            self.numbers[blob] = len(self.blobs)
            self.blobs.append(blob)
        return self.numbers[blob]

    def name(self, text: str) -> tuple[int, int]:
        raw = text.encode()
        if not text.isascii() or not text.isprintable() or len(raw) > MAX_NAME:
            raise ArtifactError(f"name {text!r}: a file holds printable ASCII of at most {MAX_NAME} characters")
        if raw not in self.offsets:
            self.offsets[raw] = len(self.names)
            self.names += raw
        return self.offsets[raw], len(raw)


def write(plan: Plan) -> bytes:
    """The bytes of a `.edge` file. Verifies the plan first; raises ArtifactError."""
    verify(plan)
    pool, operands = _Pool(), bytearray()
    tensors = b"".join(_tensor_record(t, pool) for t in plan.tensors)
    instructions = b"".join(_instruction_record(plan, i, pool, operands) for i in plan.instructions)
    interface = np.array([len(plan.inputs), len(plan.outputs), *plan.inputs, *plan.outputs], "<u4").tobytes()
    metadata = json.dumps(asdict(plan.metadata), separators=(",", ":"), default=dict).encode()
    singles = [tensors, instructions, bytes(operands), interface, bytes(pool.names), metadata]
    table, body = bytearray(), bytearray()
    start = HEADER.size + SECTION.size * (SINGLES + len(pool.blobs))
    for number, blob in enumerate([*singles, *pool.blobs]):
        body += bytes(-(start + len(body)) % 8)
        table += SECTION.pack(min(number, SINGLES) + 1, start + len(body), len(blob))
        body += blob
    tail = struct.pack("<4I", start + len(body), plan.arena_bytes, SINGLES + len(pool.blobs), 0)
    return seal(MAGIC + struct.pack("<2I", VERSION, 0) + tail + bytes(table) + bytes(body))


def seal(file: bytes) -> bytes:
    """The file with the checksum that its bytes call for."""
    return file[:12] + struct.pack("<I", zlib.crc32(file[16:])) + file[16:]


def save(plan: Plan, path: Path | str) -> int:
    """Writes the plan to a file; returns its size in bytes."""
    return Path(path).write_bytes(write(plan))


def load(path: Path | str) -> Plan:
    """Reads a plan from a file; raises ArtifactError naming the file."""
    try:
        return read(Path(path).read_bytes())
    except OSError as error:
        raise ArtifactError(f"{path}: {error.strerror}") from error
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}") from error


def _tensor_record(t: Tensor, pool: _Pool) -> bytes:
    return TENSOR.pack(*pool.name(t.name), int(t.dtype == "f32"), t.bits, *t.shape, t.zero_point, t.scale, t.offset)


def _instruction_record(plan: Plan, i: Instruction, pool: _Pool, operands: bytearray) -> bytes:
    start = len(operands) // 4
    operands += np.array([*i.inputs, *i.outputs], "<u4").tobytes()
    attrs = [int(i.attrs.get(name, 0)) for name in ATTRS.get(i.op, ())]  # type: ignore[arg-type]
    if i.op == "layernorm":
        attrs.append(struct.unpack("<i", struct.pack("<f", i.attrs["eps"]))[0])
    quantized = plan.tensors[i.inputs[0]].dtype == "u8"
    data = _data(plan, i, pool, quantized)
    r = i.requant
    epilogue = 0 if r is None else 1 + EPILOGUES.index(r.kind)
    activation = i.attrs.get("kind" if i.op == "activation" else "activation", "none")
    wbits = i.attrs["wbits"] if i.op in WEIGHTED and quantized else 0
    clip = (r.shift, r.lo, r.hi) if r is not None and r.kind in ("linear", "table") else (0, 0, 0)
    return INSTRUCTION.pack(
        OPS.index(i.op), epilogue, ACTIVATIONS.index(str(activation)), wbits, *pool.name(i.name), len(i.inputs), start,
        *attrs, *[0] * (4 - len(attrs)), *data, *clip, 0,
    )  # fmt: skip


def _data(plan: Plan, i: Instruction, pool: _Pool, quantized: bool) -> list[int]:
    data = [NO_DATA] * 4
    if i.op in WEIGHTED and quantized:
        bits = i.attrs["wbits"]
        assert isinstance(bits, int)
        data[0] = pool.data(pack_weights(plan.weights[i.params["weight"]], bits))  # type: ignore[arg-type]
    elif i.op == "decode":
        data[0] = pool.data(np.array(i.attrs["strides"], "<u4").tobytes())
    else:
        for slot, role in enumerate(ROLES.get(i.op, ("weight", "bias") if i.op in WEIGHTED else ())):
            if role in i.params:
                array = plan.weights[i.params[role]]
                data[slot] = pool.data(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes())
    if i.requant is not None:
        for slot, (name, dtype) in enumerate(EPILOGUE_ARRAYS[i.requant.kind], start=1):
            array = np.ascontiguousarray(getattr(i.requant, name), dtype)
            data[slot] = pool.data(pack_table(array) if name == "table" else array.tobytes())
    return data


def read(file: bytes) -> Plan:
    """The plan in a file's bytes, verified. Raises ArtifactError for anything that is not one."""
    try:
        return _read(file)
    except ArtifactError:
        raise
    except (ValueError, KeyError, IndexError, TypeError, struct.error) as error:
        raise ArtifactError(f"artifact: malformed: {error}") from error


def _read(file: bytes) -> Plan:
    parts = _sections(file)
    tensors, instructions, operands, interface, names, metadata = parts[:SINGLES]
    ids = np.frombuffer(operands, "<u4").tolist()
    ends = np.frombuffer(interface, "<u4").tolist()
    all_tensors = tuple(_tensor(record, names) for record in TENSOR.iter_unpack(tensors))
    weights: dict[str, NDArray[np.generic]] = {}
    steps = tuple(_instruction(r, names, ids, parts[SINGLES:], all_tensors, weights) for r in INSTRUCTION.iter_unpack(instructions))
    inputs, outputs = ends[2 : 2 + ends[0]], ends[2 + ends[0] :]
    if len(outputs) != ends[1]:
        raise ArtifactError("artifact: the interface section does not hold the inputs and outputs it counts")
    arena = struct.unpack_from("<I", file, 20)[0]
    plan = Plan(all_tensors, steps, weights, tuple(inputs), tuple(outputs), arena, metadata_of(metadata))
    verify(plan)
    return plan


def _sections(file: bytes) -> list[bytes]:
    if len(file) < HEADER.size:
        raise ArtifactError(f"artifact: {len(file)} bytes are too few for a header of {HEADER.size}")
    magic, version, checksum, size, _, count, _ = HEADER.unpack_from(file)
    if magic != MAGIC or version != VERSION:
        raise ArtifactError(f"artifact: it does not start as a .edge file of version {VERSION}")
    if size != len(file) or checksum != zlib.crc32(file[16:]):
        raise ArtifactError("artifact: size or checksum do not match; the file is truncated or damaged")
    if count < SINGLES or HEADER.size + count * SECTION.size > size:
        raise ArtifactError(f"artifact: a table of {count} sections does not fit the file")
    table = [SECTION.unpack_from(file, HEADER.size + SECTION.size * k) for k in range(count)]
    if any(offset + length > size for _, offset, length in table):
        raise ArtifactError("artifact: a section ends past the file")
    return [file[offset : offset + length] for _, offset, length in table]


def metadata_of(raw: bytes) -> Metadata:
    """Metadata from the file's JSON."""
    try:
        fields = json.loads(raw)
        sized: dict[str, Any] = {name: tuple(fields.pop(name)) for name in ("classes", "input_size", "strides")}
        return Metadata(**sized, **fields)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"artifact: its metadata is not the JSON of a Metadata: {error}") from error


def _name(names: bytes, offset: int, size: int) -> str:
    text = names[offset : offset + size].decode()
    if len(text) != size or size > MAX_NAME or not text.isascii() or (text and not text.isprintable()):
        raise ArtifactError(f"artifact: a name of {size} characters lies outside the names section or is not printable ASCII")
    return text


def _tensor(record: tuple, names: bytes) -> Tensor:
    name, size, dtype, bits, c, h, w, zero_point, scale, offset = record
    return Tensor(_name(names, name, size), ("u8", "f32")[dtype], (c, h, w), offset, bits, scale, zero_point)


def _instruction(
    record: tuple, names: bytes, ids: list[int], data: list[bytes], tensors: tuple[Tensor, ...], weights: dict[str, NDArray[np.generic]]
) -> Instruction:
    op, epilogue, activation, wbits, name, name_size, inputs, start = record[:8]
    numbers, slots, (shift, lo, hi, reserved) = record[8:12], record[12:16], record[16:20]
    if reserved != 0:
        raise ArtifactError("artifact: a reserved field of an instruction is not zero")
    kind, act = OPS[op], ACTIVATIONS[activation]
    x, y = tensors[ids[start]], tensors[ids[start + inputs]]
    attrs: dict[str, int | float | str | tuple[int, ...]] = dict(zip(ATTRS.get(kind, ()), numbers))
    blobs = [data[s] if s != NO_DATA else b"" for s in slots]
    params: dict[str, str] = {}
    if kind in WEIGHTED and x.dtype == "u8":
        attrs["wbits"] = wbits
        params["weight"] = f"data{slots[0]}.w{wbits}.{kind}"
        weights[params["weight"]] = unpack_weights(blobs[0], _weight_shape(kind, attrs, x, y), wbits)
    elif kind == "decode":
        attrs["strides"] = tuple(np.frombuffer(blobs[0], "<u4").tolist())
    else:
        for slot, role in enumerate(ROLES.get(kind, ("weight", "bias") if kind in WEIGHTED else ())):
            if slots[slot] != NO_DATA:
                params[role] = f"data{slots[slot]}.{role}.{kind}"
                array = np.frombuffer(blobs[slot], "|u1" if role == "table" else "<f4")
                weights[params[role]] = array.reshape(_weight_shape(kind, attrs, x, y)) if role == "weight" else array
    if kind in WEIGHTED and x.dtype == "f32":
        attrs["activation"] = act
    elif kind == "activation":
        attrs["kind"] = act
    elif kind == "layernorm":
        attrs["eps"] = struct.unpack("<f", struct.pack("<i", numbers[1]))[0]
    requant = _requant(EPILOGUES[epilogue - 1], blobs, (shift, lo, hi), y) if epilogue else None
    operands = tuple(ids[start : start + inputs + 1])
    return Instruction(kind, _name(names, name, name_size), operands[:-1], operands[-1:], attrs, params, requant)


def _weight_shape(kind: str, attrs: dict, x: Tensor, y: Tensor) -> tuple[int, ...]:
    if kind == "conv2d":
        return (y.shape[0], x.shape[0] // max(attrs["groups"], 1), attrs["kernel"], attrs["kernel"])
    return (y.shape[0], x.shape[0], 2, 2) if kind == "conv_transpose2d" else (y.shape[0], int(np.prod(x.shape)))


def _requant(kind: str, blobs: list[bytes], clip: tuple[int, int, int], y: Tensor) -> Requant:
    arrays: dict[str, Any] = {
        name: unpack_table(blob) if name == "table" else np.frombuffer(blob, dtype)
        for (name, dtype), blob in zip(EPILOGUE_ARRAYS[kind], blobs[1:])
    }
    if kind == "threshold":
        arrays["thresholds"] = arrays["thresholds"].reshape(-1, 2**y.bits - 1)
    return Requant(kind, *(clip if kind in ("linear", "table") else (0, 0, 255)), **arrays)
