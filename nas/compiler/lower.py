"""lower(graph, weights) -> Plan: from the deploy form to instructions, integer epilogues and arena offsets.

Every node gives one tensor, at the offset that hwmodels.memory plans, and one instruction.  A detector's outputs are the raw maps that its
decode reads, the last instruction; an nms runs on the host; a flatten gives nothing, for a linear reads a map in the order of its channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hwmodels.layout import ON_HOST
from hwmodels.memory import arena
from nas.compiler.errors import CompilerError
from nas.compiler.grids import Grid, grids_of
from nas.compiler.passes import affine_as_conv, out_axis
from nas.compiler.requant import ADD_LIMIT, LINEAR, code_table, requant, sum_linear, to_float
from nas.runtime.plan import Instruction, Metadata, Plan, Requant, Tensor
from nas.runtime.verify import verify
from searchspaces.graph import Graph, Node, Ref
from searchspaces.ops import FLOAT_BITS, Shape
from searchspaces.weights import Weights


class _Lowering:
    """A plan while it grows: tensors by node name, instructions and weights."""

    def __init__(self, graph: Graph, weights: Weights) -> None:
        self.graph, self.weights = graph, weights
        self.ids: dict[Ref, int] = {}
        self.tensors: list[Tensor] = []
        self.instructions: list[Instruction] = []
        self.arrays: dict[str, np.ndarray] = {}
        self.grids = grids_of(graph, weights)
        self.offsets: Mapping[Ref, int] = {}

    def tensor(self, node: Node) -> int:
        """A new tensor for a node's output."""
        grid, shape, offset = self.grids.get(node.name), _shape3(node.shape), self.offsets[node.name]
        if grid is None:
            return self._append(Tensor(node.name, "f32", shape, offset, FLOAT_BITS))
        return self._append(Tensor(node.name, "u8", shape, offset, grid.bits, grid.scale, grid.zero_point))

    def _append(self, tensor: Tensor) -> int:
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def is_float(self, node: Node) -> bool:
        """Whether a node reads floats."""
        return all(name not in self.grids for name in node.inputs)

    def source(self, node: Node, number: int = 0) -> Grid:
        """The grid of a node's input."""
        try:
            return self.grids[node.inputs[number]]
        except KeyError:
            raise CompilerError(f"node '{node.name}' ({node.op}) reads codes and floats: '{node.inputs[number]}' is float") from None

    def array(self, node: Node, role: str, value: np.ndarray) -> str:
        self.arrays[f"{node.name}.{role}"] = value
        return f"{node.name}.{role}"

    def emit(self, node: Node, op: str, attrs: Mapping[str, Any] | None = None, params: Mapping[str, str] | None = None,
             requant: Requant | None = None) -> None:
        inputs = tuple(self.ids[name] for name in node.inputs)
        self.ids[node.name] = self.tensor(node)
        self.instructions.append(Instruction(op, node.name, inputs, (self.ids[node.name],), attrs or {}, params or {}, requant))

    def emit_integer(self, node: Node, op: str, m: np.ndarray, b: np.ndarray, reach: int, attrs: Mapping[str, Any] | None = None,
                     params: Mapping[str, str] | None = None) -> None:
        """An instruction whose accumulator stands for acc * m + b, with the epilogue of the node's activation and output."""
        act, grid = node.get("act", "none"), self.grids.get(node.name)
        try:
            epilogue = to_float(m, b) if grid is None else requant(m, b, act, grid, reach)
        except CompilerError as fault:
            raise CompilerError(f"node '{node.name}': {fault}") from None
        self.emit(node, op, attrs, params, epilogue)
        if grid is None:
            self.activate(node)

    def activate(self, node: Node) -> None:
        """The activation of a float output, over its own memory: a tensor of the same place takes the node's name."""
        kind = node.get("act", "none")
        if kind == "none":
            return
        before = self.ids[node.name]
        self.ids[node.name] = self._append(self.tensors[before])
        self.tensors[before] = replace(self.tensors[before], name=f"{node.name}.linear")
        self.instructions.append(Instruction("activation", node.name, (before,), (self.ids[node.name],), {"kind": kind}))


def _shape3(shape: Shape) -> tuple[int, int, int]:
    """(C, H, W) of a map, (K, 1, 1) of a vector, (1, M, N) of a matrix."""
    if len(shape) == 3:
        return shape[0], shape[1], shape[2]
    return (shape[0], 1, 1) if len(shape) == 1 else (1, shape[0], shape[1])


def _weighted(low: _Lowering, node: Node) -> None:
    """conv2d, conv_transpose2d, linear: integer with an epilogue, or float with a fused activation."""
    attrs = {} if node.op != "conv2d" else {k: node.get(k, d) for k, d in (("kernel", 1), ("stride", 1), ("padding", 0), ("groups", 1))}
    if len(node.shape) == 2:
        raise CompilerError(f"node '{node.name}': a linear over rows {node.shape} cannot run; it takes one vector")
    if node.op == "conv_transpose2d" and (node["kernel"], node["stride"]) != (2, 2):
        found = f"kernel {node['kernel']}, stride {node['stride']}"
        raise CompilerError(f"node '{node.name}': a transposed conv of {found} cannot run; it takes kernel 2, stride 2")
    w = np.ascontiguousarray(np.swapaxes(low.weights[node, "weight"], 0, out_axis(node)))
    bias = low.weights.get(node, "bias")
    if low.is_float(node):
        if node.name in low.grids or w.dtype == np.int8:
            raise CompilerError(f"node '{node.name}' reads floats and has integer weights or outputs: its input needs a quantizer")
        params = {"weight": low.array(node, "weight", w.astype(np.float32))}
        if bias is not None:
            params["bias"] = low.array(node, "bias", bias.astype(np.float32))
        low.emit(node, node.op, {**attrs, "activation": node.get("act", "none")}, params)
        return
    x = low.source(node)
    if w.dtype != np.int8:
        raise CompilerError(f"node '{node.name}' reads {x.bits}-bit codes and has float weights: give it wbits")
    m = x.scale * low.weights[node, "weight_scale"].astype(np.float64)
    b = np.zeros_like(m) if bias is None else bias.astype(np.float64)
    reach = int(np.abs(w.astype(np.int64)).reshape(len(w), -1).sum(1).max()) * max(x.zero_point, x.highest - x.zero_point)
    low.emit_integer(node, node.op, m, b, reach, {**attrs, "wbits": node["wbits"]}, {"weight": low.array(node, "weight", w)})


def _add(low: _Lowering, node: Node) -> None:
    """Two tensors of different scales meet as multiples of an output step, or of the larger scale where a curve follows."""
    if len(node.inputs) != 2:
        raise CompilerError(f"node '{node.name}' adds {len(node.inputs)} tensors; a sum takes two")
    if low.is_float(node):
        low.emit(node, "add")
        low.activate(node)
        return
    a, b, grid, act = low.source(node, 0), low.source(node, 1), low.grids.get(node.name), node.get("act", "none")
    if grid is not None and act in LINEAR:
        multiplier_a, multiplier_b, epilogue = sum_linear(a, b, act, grid)
        low.emit(node, "add", {"multiplier_a": multiplier_a, "multiplier_b": multiplier_b}, requant=epilogue)
        return
    unit = 2.0 * max(a.scale, b.scale) / ADD_LIMIT
    factors = {"multiplier_a": round(a.scale / unit), "multiplier_b": round(b.scale / unit)}
    reach = factors["multiplier_a"] * a.highest + factors["multiplier_b"] * b.highest
    low.emit_integer(node, "add", np.array([unit]), np.zeros(1), reach, factors)


def _mul(low: _Lowering, node: Node) -> None:
    if low.is_float(node):
        low.emit(node, "mul")
        low.activate(node)
        return
    a, b = low.source(node, 0), low.source(node, 1)
    low.emit_integer(node, "mul", np.array([a.scale * b.scale]), np.zeros(1), a.highest * b.highest)


def _global_avgpool(low: _Lowering, node: Node) -> None:
    if low.is_float(node):
        low.emit(node, "global_avgpool")
        low.activate(node)
        return
    x, pixels = low.source(node), int(np.prod(low.graph.in_shapes(node)[0][1:]))
    low.emit_integer(node, "global_avgpool", np.array([x.scale / pixels]), np.zeros(1), pixels * x.highest)


def _pointwise(low: _Lowering, node: Node) -> None:
    """activation and quantize that stand alone: codes to codes by a table of 256, floats by the function itself."""
    kind, target = node.get("kind", "none"), low.grids.get(node.name)
    if not low.is_float(node) and target is not None:
        low.emit(node, "requantize", {}, {"table": low.array(node, "table", code_table(low.source(node), target, kind))})
    elif low.is_float(node) and node.op == "activation" and target is None:
        low.emit(node, "activation", {"kind": kind})
    elif low.is_float(node) and node.op == "quantize":
        low.emit(node, "quantize")
    else:
        raise CompilerError(f"node '{node.name}' ({node.op}) turns {'floats into codes' if target else 'codes into floats'}: split it")


def _float_only(low: _Lowering, node: Node) -> None:
    if not low.is_float(node):
        raise CompilerError(f"node '{node.name}' ({node.op}) runs in float only, and '{node.inputs[0]}' is codes")
    rank = len(node.shape)
    first = 0 if rank != 2 else 1                                               # where the graph's axis 0 lies in (C, H, W)
    if node.op == "matmul":
        low.emit(node, "matmul", {"transpose_b": 0})
    elif node.op == "softmax":
        low.emit(node, "softmax", {"axis": first + node.get("axis", -1) % rank})
    else:
        params = {role: low.array(node, role, low.weights[node, role].astype(np.float32)) for role in ("gamma", "beta")}
        low.emit(node, "layernorm", {"axis": first + rank - 1, "eps": float(node["eps"])}, params)


def _structural(low: _Lowering, node: Node) -> None:
    """concat, slice, upsample, maxpool: codes and floats alike."""
    names = {"slice": ("start", "stop"), "upsample": ("factor",), "maxpool": ("kernel", "stride", "padding")}.get(node.op, ())
    defaults = {"stride": 1, "padding": 0}
    low.emit(node, node.op, {name: node.get(name, defaults.get(name)) for name in names})


def _input(low: _Lowering, node: Node) -> None:
    low.ids[node.name] = low.tensor(node)


def _flatten(low: _Lowering, node: Node) -> None:
    low.ids[node.name] = low.ids[node.inputs[0]]


def _decode(low: _Lowering, node: Node) -> None:
    low.emit(node, "decode", {"bins": node["bins"], "classes": node["classes"], "strides": tuple(node["strides"])})


LOWER: dict[str, Callable[[_Lowering, Node], None]] = {
    "input": _input, "conv2d": _weighted, "conv_transpose2d": _weighted, "linear": _weighted,
    "add": _add, "mul": _mul, "global_avgpool": _global_avgpool, "activation": _pointwise, "quantize": _pointwise,
    "concat": _structural, "slice": _structural, "upsample": _structural, "maxpool": _structural, "flatten": _flatten,
    "dfl_decode": _decode, "softmax": _float_only, "matmul": _float_only, "layernorm": _float_only,
}  # fmt: skip


def lower(graph: Graph, weights: Weights, *, classes: Sequence[str] = (), provenance: Mapping[str, object] | None = None) -> Plan:
    """The Plan of a graph in deploy form, verified; raises CompilerError naming the node that cannot run."""
    graph, weights = affine_as_conv(graph, weights)
    low = _Lowering(graph, weights)
    memory = arena(graph)
    low.offsets = memory.offsets
    for node in graph:
        if node.op in ON_HOST:
            continue
        if node.op not in LOWER:
            raise CompilerError(f"node '{node.name}' ({node.op}) cannot run on the device; what can: {', '.join(LOWER)}")
        LOWER[node.op](low, node)
    decode = graph.of("dfl_decode")
    outputs = decode[0].inputs if decode else graph.outputs
    inputs = graph.of("input")
    metadata = Metadata(
        classes=tuple(classes),
        input_size=(inputs[0].shape[1], inputs[0].shape[2]) if len(inputs[0].shape) == 3 else (0, 0),
        strides=tuple(decode[0]["strides"]) if decode else (),
        bins=decode[0]["bins"] if decode else Metadata.bins,
        provenance=dict(provenance or {}),
    )
    plan = Plan(
        tensors=tuple(low.tensors), instructions=tuple(low.instructions), weights=low.arrays,
        inputs=tuple(low.ids[node.name] for node in inputs), outputs=tuple(low.ids[name] for name in outputs),
        arena_bytes=memory.peak_bytes, metadata=metadata,
    )
    verify(plan)
    return plan
