"""read(data) -> Trace: a .pt2 file of torch.export.save, with neither torch nor an unpickler.

A .pt2 is a zip.  models/NAME.json holds the graph, data/weights and data/constants hold the bytes of tensors and a JSON table of which
tensor lies where.  Such a file may come from anywhere, and torch's own loader is made for trusted ones only: it unpickles the sample
inputs and every tensor or object that the file says is pickled, and evaluates expressions of symbolic sizes.  Here JSON and the bytes of
plain tensors are all that is read: a member that would have to be unpickled is refused where the net needs it and left alone where it
does not, sizes are numbers, and every offset is checked.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from nas.importer.errors import ImporterError
from nas.importer.trace import Array, Call, Trace, Value

SCHEMA = 8  # major version of torch.export's JSON
MAX_JSON = 1 << 27  # bytes
MAX_ELEMENTS = 1 << 28  # of one tensor
# torch's serialized scalar types; what else there is (complex numbers, bfloat16, 8-bit floats) is refused
DTYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 6: "<f2", 7: "<f4", 8: "<f8", 12: "?"}
_ATEN = "torch.ops.aten."


def read(data: bytes, name: str) -> Trace:
    """The one model of an archive; `name` is what errors call it."""
    try:
        return _read(_Members(zipfile.ZipFile(io.BytesIO(data)), name), name)
    except ImporterError:
        raise
    except (zipfile.BadZipFile, ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError) as fault:
        raise ImporterError(f"{name} is no .pt2 file that torch.export.save wrote: {type(fault).__name__}: {fault}") from None


class _Members:
    """The members of the archive, without the folder that all of them lie in."""

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        self.archive, self.name = archive, name
        infos = archive.infolist()
        root = infos[0].filename.partition("/")[0] + "/" if infos else ""
        self.infos = {info.filename.removeprefix(root): info for info in infos}
        if packed := [info.filename for info in infos if info.compress_type != zipfile.ZIP_STORED]:
            raise ImporterError(f"{name}: member '{packed[0]}' is compressed; torch.export.save stores members as they are")

    def bytes(self, member: str) -> bytes:
        if member not in self.infos:
            raise ImporterError(f"{self.name} has no member '{member}'")
        return self.archive.read(self.infos[member])

    def json(self, member: str) -> Any:
        data = self.bytes(member)
        if len(data) > MAX_JSON:
            raise ImporterError(f"{self.name}: member '{member}' has {len(data)} bytes; a graph stays below {MAX_JSON}")
        return json.loads(data)


def _read(members: _Members, name: str) -> Trace:
    models = [member for member in members.infos if member.startswith("models/") and member.endswith(".json")]
    if len(models) != 1:
        old = "; files of torch 2.7 and older have another layout: save it again with torch 2.8 or newer" if not models else ""
        raise ImporterError(f"{name} holds {len(models)} models, not one{old}")
    program = members.json(models[0])
    major = program["schema_version"]["major"]
    if major != SCHEMA:
        raise ImporterError(f"{name} has version {major} of torch.export's format; {SCHEMA} is read here, which torch 2.8 to 2.13 write")
    graph, signature = program["graph_module"]["graph"], program["graph_module"]["signature"]
    stem = models[0].removeprefix("models/").removesuffix(".json")
    tensors = {kind: _Tensors(members, f"data/{kind}", f"{stem}_{kind}_config.json") for kind in ("weights", "constants")}
    shapes = {tensor: _shape(meta["sizes"], f"tensor '{tensor}'") for tensor, meta in graph["tensor_values"].items()}
    images, constants = _inputs(signature["input_specs"], tensors)
    return Trace(
        images=images,
        shapes=shapes | {key: array.shape for key, array in constants.items()},
        constants=constants,
        calls=tuple(_call(node) for node in graph["nodes"]),
        outputs=tuple(_output(spec) for spec in signature["output_specs"]),
    )


def _inputs(specs: list[Any], tensors: Mapping[str, _Tensors]) -> tuple[Value, dict[str, Array]]:
    """The image's name and every parameter, buffer and constant."""
    images: list[Value] = []
    constants: dict[str, Array] = {}
    for spec in specs:
        ((kind, body),) = spec.items()
        if kind == "user_input":
            images.append(_argument(body["arg"]))
        elif kind == "parameter":
            constants[body["arg"]["name"]] = tensors["weights"][body["parameter_name"]]
        elif kind == "buffer":
            constants[body["arg"]["name"]] = tensors["weights" if body["persistent"] else "constants"][body["buffer_name"]]
        elif kind == "tensor_constant":
            constants[body["arg"]["name"]] = tensors["constants"][body["tensor_constant_name"]]
        else:
            raise ImporterError(f"the net takes a {kind}; parameters, buffers, constants and one batch of images work")
    if len(images) != 1 or not isinstance(images[0], Value):
        raise ImporterError(f"the net takes {len(images)} inputs; one batch of images (N, C, H, W) works")
    return images[0], constants


def _output(spec: Any) -> Value:
    ((kind, body),) = spec.items()
    if kind != "user_output":
        raise ImporterError(f"the net changes its own state ({kind.replace('_', ' ')}): export it after .eval()")
    value = _argument(body["arg"])
    if not isinstance(value, Value):
        raise ImporterError(f"an output of the net is {value!r}, which is no tensor")
    return value


def _call(node: Any) -> Call:
    target = node["target"]
    op = target.removeprefix(_ATEN).partition(".")[0] if target.startswith(_ATEN) else target
    results: list[Value] = []
    for output in node["outputs"]:
        value = _argument(output)
        results += value if isinstance(value, list) else [value]
    path, kind = _module(node["metadata"].get("nn_module_stack", ""))
    args = {row["name"]: _argument(row["arg"]) for row in node["inputs"]}
    overwrites = op.endswith("_") and not op.startswith("_")
    return Call(op.rstrip("_") if overwrites else op, args, tuple(results), overwrites, path, kind)


def _module(stack: str) -> tuple[str, str]:
    """(path, type) of the innermost module of a stack 'key,path,type;key,path,type'; a second call of a module has '@1' behind it."""
    if not stack:
        return "", ""
    _, path, kind = (stack.rpartition(";")[2].split(",") + ["", ""])[:3]
    return path.partition("@")[0], kind


def _argument(argument: Any) -> Any:
    """A serialized argument {'as_int': 3} as Python's own."""
    ((kind, value),) = argument.items()
    match kind:
        case "as_none":
            return None
        case "as_tensor":
            return Value(value["name"])
        case "as_tensors":
            return [Value(tensor["name"]) for tensor in value]
        case "as_float":
            return float(value)
        case "as_floats":
            return [float(number) for number in value]
        case "as_optional_tensor" | "as_optional_tensors":
            return [_argument(entry) for entry in value] if isinstance(value, list) else _argument(value)
        case "as_int" | "as_ints" | "as_bool" | "as_bools" | "as_string" | "as_scalar_type":
            return value
        case "as_sym_int" | "as_sym_ints":
            raise ImporterError("the net was exported with dynamic shapes; export it with an example of one size and no dynamic_shapes")
    return kind  # devices, layouts and memory formats, which change no value


def _shape(sizes: list[Any], what: str) -> tuple[int, ...]:
    shape = [size.get("as_int") for size in sizes]
    numbers = tuple(size for size in shape if isinstance(size, int) and size >= 0)
    if len(numbers) != len(shape):
        raise ImporterError(f"{what} has a dynamic shape; export the net with an example of one size and no dynamic_shapes")
    return numbers


class _Tensors:
    """The tensors of one folder of the archive by their names in the module."""

    def __init__(self, members: _Members, folder: str, table: str) -> None:
        self.members, self.folder = members, folder
        member = f"{folder}/{table}"
        old = f"{folder}/{table.replace('_' + folder.rpartition('/')[2] + '_config.json', '.pt')}"
        if old in members.infos:
            raise ImporterError(f"{members.name}: '{old}' is a pickle, which is never read here: save it again with torch 2.9 or newer")
        self.table = members.json(member)["config"]

    def __getitem__(self, name: str) -> Array:
        """A copy of the tensor, C order; float16 and float64 become float32."""
        if name not in self.table:
            raise ImporterError(f"{self.members.name}: {self.folder} holds no tensor '{name}'")
        row, what = self.table[name], f"{self.members.name}: tensor '{name}'"
        if row["use_pickle"]:
            raise ImporterError(f"{what} is pickled, and reading that could run anybody's code: save it as a plain torch.Tensor")
        meta = row["tensor_meta"]
        if meta["dtype"] not in DTYPES:
            raise ImporterError(f"{what} has a type that is not read here ({meta['dtype']}): convert the net with .float()")
        dtype, shape = np.dtype(DTYPES[meta["dtype"]]), _shape(meta["sizes"], what)
        strides, offset = _shape(meta["strides"], what), _argument(meta["storage_offset"])
        data = self.members.bytes(f"{self.folder}/{row['path_name']}")
        last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides))
        fits = offset >= 0 and (last + 1) * dtype.itemsize <= len(data) and prod(shape) <= MAX_ELEMENTS
        if len(strides) != len(shape) or not (fits or prod(shape) == 0):
            raise ImporterError(f"{what} of shape {shape} passes the {len(data)} bytes that the file has for it")
        flat = np.frombuffer(data[: len(data) // dtype.itemsize * dtype.itemsize], dtype)[offset:]
        array = np.lib.stride_tricks.as_strided(flat, shape, tuple(stride * dtype.itemsize for stride in strides)).copy()
        return array.astype(np.float32) if dtype.kind == "f" else array
