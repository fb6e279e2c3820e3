"""Graph: the one description of a network, from gene to kernel.  No torch, no weights.

A Graph is frozen.  Blocks add nodes to a Builder, which infers every shape on the way; passes return edited Graphs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from searchspaces.ops import (
    ACTIVATION_BITS,
    ACTIVATIONS,
    FLOAT_BITS,
    OPS,
    PASS_THROUGH,
    WEIGHT_BITS,
    WEIGHTED,
    GraphError,
    Shape,
)

Ref = str
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Node:
    """One operator of a Graph.  `shape` is its output without batch; `attrs` is never changed after construction."""

    name: str
    op: str
    inputs: tuple[Ref, ...]
    attrs: Mapping[str, Any]
    shape: Shape

    def __getitem__(self, attr: str) -> Any:
        try:
            return self.attrs[attr]
        except KeyError:
            raise GraphError(f"node '{self.name}' ({self.op}) has no attribute '{attr}': it has {', '.join(self.attrs)}") from None

    def get(self, attr: str, default: Any = None) -> Any:
        return self.attrs.get(attr, default)

    def __hash__(self) -> int:
        return hash(self.name)

    def having(self, **attrs: Any) -> Node:
        return replace(self, attrs={**self.attrs, **attrs})


@dataclass(frozen=True)
class Graph:
    """Nodes in topological order and the names of the outputs."""

    nodes: tuple[Node, ...]
    outputs: tuple[Ref, ...]

    @cached_property
    def _by_name(self) -> dict[Ref, Node]:
        return {node.name: node for node in self.nodes}

    @cached_property
    def _readers(self) -> dict[Ref, list[Node]]:
        readers: dict[Ref, list[Node]] = {node.name: [] for node in self.nodes}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                readers[name].append(node)
        return readers

    def __getitem__(self, name: Ref) -> Node:
        try:
            return self._by_name[name]
        except KeyError:
            raise GraphError(f"no node '{name}' in this graph of {len(self.nodes)} nodes") from None

    def __contains__(self, name: Ref) -> bool:
        return name in self._by_name

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def of(self, *ops: str) -> list[Node]:
        return [node for node in self.nodes if node.op in ops]

    def readers(self, name: Ref) -> list[Node]:
        """The nodes that read `name`, each once, in order."""
        return self._readers[name]

    def in_shapes(self, node: Node) -> list[Shape]:
        return [self._by_name[name].shape for name in node.inputs]

    def edited(self, changed: Mapping[Ref, Node] | None = None, gone: Mapping[Ref, Ref] | None = None) -> Graph:
        """One sweep of edits: `changed` nodes stand in for those of their name, readers of a `gone` node read its stand-in."""
        changed, gone = changed or {}, gone or {}

        def live(name: Ref) -> Ref:
            while name in gone:
                name = gone[name]
            return name

        nodes = []
        for old in self.nodes:
            if old.name in gone:
                continue
            node = changed.get(old.name, old)
            inputs = tuple(map(live, node.inputs))
            nodes.append(node if inputs == node.inputs else replace(node, inputs=inputs))
        return Graph(tuple(nodes), tuple(map(live, self.outputs)))

    @cached_property
    def code_bits(self) -> dict[Ref, int]:
        """Bits of each node's output: of the codes where it is quantized, 32 where it is float32."""
        bits: dict[Ref, int] = {}
        for node in self.nodes:
            if node.op == "quantize":
                bits[node.name] = node["bits"]
            elif node.op in PASS_THROUGH:
                bits[node.name] = max(bits[name] for name in node.inputs)
            else:
                bits[node.name] = node.get("out_bits", FLOAT_BITS)
        return bits

    def precision(self, node: Node) -> str:
        """The arithmetic of a node, as devices price it: 'fp32', or 'w4a8' for 4-bit weights on 8-bit codes; 'a8' without weights."""
        bits = self.code_bits[node.inputs[0]] if node.inputs else self.code_bits[node.name]
        if bits == FLOAT_BITS:
            return "fp32"
        return f"w{node.get('wbits', FLOAT_BITS)}a{bits}" if node.op in WEIGHTED else f"a{bits}"

    def to_json(self) -> str:
        rows = [[n.name, n.op, list(n.inputs), dict(n.attrs)] for n in self.nodes]
        return json.dumps({"edgenas_graph": FORMAT, "nodes": rows, "outputs": list(self.outputs)})

    @staticmethod
    def from_json(text: str) -> Graph:
        """Rebuilds every shape and verifies; raises GraphError for anything that is not a graph."""
        try:
            data = json.loads(text)
            if data["edgenas_graph"] != FORMAT:
                raise GraphError(f"graph format {data['edgenas_graph']} is not {FORMAT}, the one that is read here")
            rows, outputs = data["nodes"], tuple(data["outputs"])
            g = Builder()
            for name, op, inputs, attrs in rows:
                if name in g.shapes:
                    raise GraphError(f"two nodes are named '{name}'")
                node = Node(name, op, tuple(inputs), {k: tuple(v) if isinstance(v, list) else v for k, v in attrs.items()}, ())
                _verify_values(node, f"node '{name}'")
                g.append(name, op, node.inputs, dict(node.attrs))
            graph = g.graph(*outputs)
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as fault:
            raise GraphError(f"this is not an edgenas graph: {type(fault).__name__}: {fault}") from None
        verify(graph)
        return graph


class Builder:
    """Adds nodes to a growing Graph.  Blocks get it as `g`; every method returns the Ref of the node it added."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.shapes: dict[Ref, Shape] = {}
        self._scope = ""
        self._counts: dict[str, int] = {}
        self._bits: dict[str, int] = {}

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Node names inside begin with `name.`; scopes nest."""
        outer, self._scope = self._scope, f"{self._scope}{name}."
        yield
        self._scope = outer

    @contextmanager
    def precision(self, weights: int, activations: int) -> Iterator[None]:
        """Weighted nodes inside hold `weights`-bit weights and read `activations`-bit codes; 32 is float."""
        outer = self._bits
        self._bits = {"wbits": weights, "abits": activations} if weights < FLOAT_BITS else {}
        yield
        self._bits = outer

    def append(self, name: Ref, op: str, inputs: tuple[Ref, ...], attrs: dict[str, Any]) -> Ref:
        try:
            shapes = [self.shapes[x] for x in inputs]
            shape = OPS[op].shape(shapes, attrs)
        except KeyError as missing:
            known = f"attributes or inputs: {missing}" if op in OPS else f"operator '{op}'; operators: {', '.join(OPS)}"
            raise GraphError(f"node '{name}' ({op}) has unknown {known}") from None
        except (GraphError, ValueError, TypeError, ZeroDivisionError) as fault:
            raise GraphError(f"node '{name}' ({op}): {fault}") from None
        self.nodes.append(Node(name, op, inputs, attrs, shape))
        self.shapes[name] = shape
        return name

    def add_node(self, op: str, *inputs: Ref, **attrs: Any) -> Ref:
        stem = f"{self._scope}{op}"
        count = self._counts.get(stem, 0)
        self._counts[stem] = count + 1
        if self._bits:
            attrs["abits"] = self._bits["abits"]
            if op in WEIGHTED:
                attrs["wbits"] = self._bits["wbits"]
        return self.append(f"{stem}{count or ''}", op, inputs, attrs)

    def input(self, channels: int, height: int, width: int) -> Ref:
        return self.add_node("input", size=(channels, height, width))

    def conv2d(self, x: Ref, channels: int, kernel: int = 1, *, stride: int = 1, padding: int | None = None,
               groups: int = 1, bias: bool = False) -> Ref:
        """`padding` None keeps the size at stride 1 ('same')."""
        same = kernel // 2 if padding is None else padding
        return self.add_node("conv2d", x, channels=channels, kernel=kernel, stride=stride, padding=same, groups=groups, bias=bias)

    def batchnorm(self, x: Ref) -> Ref:
        return self.add_node("batchnorm", x, eps=1e-3)

    def activation(self, x: Ref, kind: str) -> Ref:
        return self.add_node("activation", x, kind=kind)

    def add(self, *xs: Ref, rep: bool = False) -> Ref:
        """`rep` marks the sum of re-parameterizable branches, which merge_rep turns into one conv."""
        return self.add_node("add", *xs, rep=True) if rep else self.add_node("add", *xs)

    def concat(self, *xs: Ref) -> Ref:
        return self.add_node("concat", *xs)

    def slice(self, x: Ref, start: int, stop: int) -> Ref:
        return self.add_node("slice", x, start=start, stop=stop)

    def upsample(self, x: Ref, factor: int = 2) -> Ref:
        return self.add_node("upsample", x, factor=factor)

    def maxpool(self, x: Ref, kernel: int, stride: int = 1, padding: int | None = None) -> Ref:
        return self.add_node("maxpool", x, kernel=kernel, stride=stride, padding=kernel // 2 if padding is None else padding)

    def channels(self, x: Ref) -> int:
        return self.shapes[x][0]

    def graph(self, *outputs: Ref) -> Graph:
        return Graph(tuple(self.nodes), outputs)


def verify(graph: Graph, after: str = "") -> None:
    """Raises GraphError unless names, order, attributes, shapes and bit-widths are sound; `after` names the pass to blame."""
    blame = f"after {after}: " if after else ""
    shapes: dict[Ref, Shape] = {}
    for node in graph.nodes:
        where = f"{blame}node '{node.name}'"
        op = OPS.get(node.op)
        if op is None:
            raise GraphError(f"{where} has unknown operator '{node.op}'; operators: {', '.join(OPS)}")
        if node.name in shapes:
            raise GraphError(f"{where} appears twice")
        if missing := [name for name in node.inputs if name not in shapes]:
            raise GraphError(f"{where} reads '{missing[0]}', which no earlier node produces")
        if not op.inputs[0] <= len(node.inputs) <= op.inputs[1]:
            raise GraphError(f"{where} ({node.op}) reads {len(node.inputs)} inputs; it takes {op.inputs[0]} to {op.inputs[1]}")
        if lacking := [attr for attr in op.required if attr not in node.attrs]:
            raise GraphError(f"{where} ({node.op}) lacks the attribute '{lacking[0]}'")
        if strange := [attr for attr in node.attrs if attr not in op.required and attr not in op.optional]:
            raise GraphError(f"{where} ({node.op}) has the attribute '{strange[0]}'; known: {', '.join(op.required + op.optional)}")
        _verify_values(node, where)
        expected = op.shape([shapes[name] for name in node.inputs], node.attrs)
        if expected != node.shape:
            raise GraphError(f"{where} says shape {node.shape} where its inputs give {expected}")
        shapes[node.name] = node.shape
    if lost := [name for name in graph.outputs if name not in shapes]:
        raise GraphError(f"{blame}output '{lost[0]}' is produced by no node")
    if not graph.outputs:
        raise GraphError(f"{blame}the graph has no outputs")


def _verify_values(node: Node, where: str) -> None:
    if node.op == "activation" and node["kind"] not in ACTIVATIONS:
        raise GraphError(f"{where} has activation '{node['kind']}'; known: {', '.join(ACTIVATIONS)}")
    for attr, allowed in (("wbits", WEIGHT_BITS), ("abits", ACTIVATION_BITS), ("bits", ACTIVATION_BITS), ("out_bits", ACTIVATION_BITS)):
        bits = node.get(attr, FLOAT_BITS)
        if bits != FLOAT_BITS and bits not in allowed:
            raise GraphError(f"{where} has {attr}={bits}; known: {', '.join(map(str, allowed))} and {FLOAT_BITS} (float)")
    for attr in ("channels", "kernel", "stride", "groups", "factor", "features"):
        if attr in node.attrs and (not isinstance(node[attr], int) or node[attr] < 1):
            raise GraphError(f"{where} has {attr}={node[attr]!r}, which is not a positive integer")
