"""Workload: what a Graph costs, operator by operator.  The one place where MACs, bytes and activation elements are counted.

Works on every form of a graph.  In the training form each batch-norm and activation is an operator of its own and moves bytes;
in `deployed(quantized(graph))` they are part of the conv and move none.  No torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod

import msgspec

from hwmodels.layout import VIEWS, Sharing, sharing, tensor_bytes, weight_bytes
from searchspaces.graph import Graph, Node, Ref
from searchspaces.ops import COUNTED, OPS, WEIGHTED


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


def workload(graph: Graph) -> Workload:
    shared, bits = sharing(graph), graph.code_bits
    sizes = {node.name: tensor_bytes(node.shape, bits[node.name]) for node in graph.nodes}
    return Workload(tuple([_cost(graph, node, sizes, bits[node.name], shared) for node in graph.nodes]))


def _cost(graph: Graph, node: Node, sizes: Mapping[Ref, int], bits_out: int, shared: Sharing) -> OpCost:
    name, op, inputs, attrs, shape = node.name, node.op, node.inputs, node.attrs, node.shape
    shapes, spec = graph.in_shapes(node), OPS[op]
    bytes_in, bytes_out = sum([sizes[x] for x in inputs]), sizes[name]
    bytes_weights = weight_bytes(node, shapes[0][-1 if op == "linear" else 0]) if op in WEIGHTED else 0
    rearranges = op == "concat" or op in VIEWS
    moved = _copied(node, sizes, shared) if rearranges else bytes_in + bytes_out + bytes_weights
    c_out, h_out, w_out = shape if len(shape) == 3 else (*shape, 1, 1)[:3]
    return OpCost(
        name, op, graph.precision(node), spec.macs(shapes, attrs), spec.params(shapes, attrs), bytes_in, bytes_out, bytes_weights,
        moved, bits_out, _activation(graph, node), prod(shape), attrs.get("kernel", 1), attrs.get("stride", 1), attrs.get("groups", 1),
        shapes[0][0] if shapes else 1, c_out, h_out, w_out,
    )  # fmt: skip


def _copied(node: Node, sizes: Mapping[Ref, int], shared: Sharing) -> int:
    """Bytes read and written by an operator that only rearranges: none for inputs that share memory with its output."""
    copied = shared.copied(node)
    if node.op in VIEWS:
        return 2 * sizes[node.name] if copied else 0
    return 2 * sum([sizes[name] for name in copied])


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
            spec, shapes = OPS[node.op], graph.in_shapes(node)
            params += spec.params(shapes, node.attrs)
            macs += spec.macs(shapes, node.attrs)
        if act := _activation(graph, node):
            elements[act] = elements.get(act, 0) + prod(node.shape)
    return Counts(macs, params, elements)


def _activation(graph: Graph, node: Node) -> str:
    if node.op == "activation":
        return node.attrs["kind"]
    if act := node.attrs.get("act"):
        return act
    if node.op in WEIGHTED or node.op == "batchnorm" or "rep" in node.attrs:
        return "none" if _ends_bare(graph, node) else ""
    return ""


def _ends_bare(graph: Graph, node: Node) -> bool:
    """Does the result of a conv or linear leave through this node (itself, its batch-norm, the sum of its rep branches) unactivated?"""
    readers = graph.readers(node.name)
    if len(readers) == 1 and (readers[0].op in ("activation", "batchnorm") or "rep" in readers[0].attrs):
        return False
    return node.op != "batchnorm" or graph[node.inputs[0]].op in WEIGHTED
