"""Workload: what a Graph costs, operator by operator.  The one place where MACs, bytes and activation elements are counted.

Works on every form of a graph.  In the training form each batch-norm and activation is an operator of its own and moves bytes;
in `deployed(quantized(graph))` they are part of the conv and move none.  No torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod

import msgspec

from hwmodels.layout import sharing, weight_bytes
from searchspaces.graph import Graph, Node, Ref, precision_name
from searchspaces.ops import COUNTED, FLOAT_BITS, OPS, WEIGHTED, Shape


class OpCost(msgspec.Struct, frozen=True, gc=False):
    """One operator.  Bytes are as laid out in the arena (a byte a code, groups of four channels; 4 bytes a float).

    precision          'fp32', 'w4a8' with weights, 'a8' without
    bits_out           of the output's codes, 32 for floats
    activation         kind of the activation function at this operator's output, fused or its own; 'none' where a conv's or
                       linear's result is handed on without one; '' for everything else
    elements           of the output
    bytes_in, _out     of every input and of the output; bytes_weights are packed
    bytes_moved        what our runtime moves: in + out + weights, but a concat, slice or flatten only the pieces that it copies
    kernel .. groups   1 where the operator has none; c_in, c_out, h_out, w_out are 1 for axes that a tensor lacks
    """

    name: str
    op: str
    precision: str
    macs: int
    params: int
    bytes_in: int
    bytes_out: int
    bytes_weights: int
    bytes_moved: int
    bits_out: int
    activation: str
    elements: int
    kernel: int
    stride: int
    groups: int
    c_in: int
    c_out: int
    h_out: int
    w_out: int


@dataclass(frozen=True)
class Workload:
    """All operators in order, the input included; totals are sums over them."""

    ops: tuple[OpCost, ...]

    @cached_property
    def params(self) -> int:
        """Learned numbers, the 16 fixed weights of the DFL projection included, as published counts have it."""
        return sum(op.params for op in self.ops)

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates of conv2d, conv_transpose2d and linear."""
        return sum(op.macs for op in self.ops)

    @cached_property
    def bytes_moved(self) -> int:
        return sum(op.bytes_moved for op in self.ops)

    @cached_property
    def activation_elements(self) -> Mapping[str, int]:
        """Output elements by kind of activation, the same before and after deployment; 'none': weighted operators without one."""
        totals: dict[str, int] = {}
        for op in self.ops:
            if op.activation:
                totals[op.activation] = totals.get(op.activation, 0) + op.elements
        return totals


@lru_cache(maxsize=1)  # the workload and the flash of a candidate are asked for one after the other
def workload(graph: Graph) -> Workload:
    shared, bits = sharing(graph), graph.code_bits
    shapes = {node.name: node.shape for node in graph.nodes}
    return Workload(tuple([
        _cost(graph, node, [shapes[x] for x in node.inputs], bits, moved) for node, moved in zip(graph.nodes, shared.layout.traffic)
    ]))  # fmt: skip


def _cost(graph: Graph, node: Node, shapes: list[Shape], bits: Mapping[Ref, int], traffic: tuple[int, int, int]) -> OpCost:
    """`traffic`: bytes of the inputs, of the output, and those moved without weights."""
    name, op, inputs, attrs, shape = node.name, node.op, node.inputs, node.attrs, node.shape
    bytes_in, bytes_out, moved = traffic
    macs = params = bytes_weights = wbits = 0
    if op in COUNTED:
        params, macs = OPS[op].counts(shapes, attrs, shape)
    if op in WEIGHTED:
        wbits, bytes_weights = attrs.get("wbits", FLOAT_BITS), weight_bytes(node, shapes[0][-1 if op == "linear" else 0])
    c_out, h_out, w_out = shape if len(shape) == 3 else (*shape, 1, 1)[:3]
    activation = attrs.get("act") or (_activation(graph, node) if op in _ENDS_OR_IS_ACTIVATION else "")
    return OpCost(
        name, op, precision_name(wbits, bits[inputs[0] if inputs else name]), macs, params, bytes_in, bytes_out, bytes_weights,
        moved + bytes_weights, bits[name], activation, c_out * h_out * w_out, attrs.get("kernel", 1),
        attrs.get("stride", 1), attrs.get("groups", 1), shapes[0][0] if shapes else 1, c_out, h_out, w_out,
    )  # fmt: skip


@dataclass(frozen=True)
class Counts:
    """Totals as in Workload."""

    macs: int
    params: int
    activation_elements: Mapping[str, int]


def counts(graph: Graph) -> Counts:
    """The totals of `workload(graph)` that do not hang on the layout in memory, at a fifth of its time."""
    macs = params = 0
    elements: dict[str, int] = {}
    for node in graph.nodes:
        if node.op in COUNTED:
            found = OPS[node.op].counts(graph.in_shapes(node), node.attrs, node.shape)
            params, macs = params + found[0], macs + found[1]
        if act := node.attrs.get("act") or (_activation(graph, node) if node.op in _ENDS_OR_IS_ACTIVATION else ""):
            elements[act] = elements.get(act, 0) + prod(node.shape)
    return Counts(macs, params, elements)


_ENDS_OR_IS_ACTIVATION = frozenset({"activation", "batchnorm", "add", *WEIGHTED})


def _activation(graph: Graph, node: Node) -> str:
    """The activation at a node that has none fused into it."""
    op, attrs = node.op, node.attrs
    if op == "activation":
        return attrs["kind"]
    if op in WEIGHTED or op == "batchnorm" or "rep" in attrs:
        return "none" if _ends_bare(graph, node) else ""
    return ""


def _ends_bare(graph: Graph, node: Node) -> bool:
    """Does the result of a conv or linear leave through this node (itself, its batch-norm, the sum of its rep branches) unactivated?"""
    if node.name in graph.chained and len(graph.readers(node.name)) == 1:
        return False
    return node.op != "batchnorm" or graph[node.inputs[0]].op in WEIGHTED
