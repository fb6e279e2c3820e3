"""Graph: the one description of a network, from gene to kernel.  No torch, no weights.

A Graph is frozen.  Blocks add nodes to a Builder, which infers every shape on the way; passes return edited Graphs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import msgspec

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
_CHAINED = frozenset({"activation", "batchnorm"})


class Node(msgspec.Struct, frozen=True, gc=False):
    """One operator of a Graph.  `shape` is its output without batch; `attrs` is never changed after construction.

    A Struct, since a search makes hundreds of nodes for every candidate, and this one is made ten times as fast as a dataclass.
    """

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
        return Node(self.name, self.op, self.inputs, {**self.attrs, **attrs}, self.shape)

    def without(self, *attrs: str) -> Node:
        return Node(self.name, self.op, self.inputs, {k: v for k, v in self.attrs.items() if k not in attrs}, self.shape)

    def reading(self, inputs: tuple[Ref, ...]) -> Node:
        return self if inputs == self.inputs else Node(self.name, self.op, inputs, self.attrs, self.shape)


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
            for name in node.inputs if len(node.inputs) < 2 else dict.fromkeys(node.inputs):
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

    def __hash__(self) -> int:
        return hash((len(self.nodes), self.outputs))  # cheap; graphs that share it differ soon when they are compared

    def of(self, *ops: str) -> list[Node]:
        return [node for node in self.nodes if node.op in ops]

    def readers(self, name: Ref) -> list[Node]:
        """The nodes that read `name`, each once, in order."""
        return self._readers[name]

    @cached_property
    def chained(self) -> frozenset[Ref]:
        """Tensors that an activation, a batch-norm or a sum of rep branches reads; the readers of few graphs are asked for beyond that."""
        return frozenset([x for node in self.nodes if node.op in _CHAINED or "rep" in node.attrs for x in node.inputs])

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
            nodes.append(node if gone.keys().isdisjoint(node.inputs) else node.reading(tuple(map(live, node.inputs))))
        return Graph(tuple(nodes), tuple(map(live, self.outputs)))

    @cached_property
    def code_bits(self) -> dict[Ref, int]:
        """Bits of each node's output: of the codes where it is quantized, 32 where it is float32."""
        bits: dict[Ref, int] = {}
        for node in self.nodes:
            if node.op in PASS_THROUGH:
                bits[node.name] = max([bits[name] for name in node.inputs])
            else:
                bits[node.name] = node.attrs["bits"] if node.op == "quantize" else node.attrs.get("out_bits", FLOAT_BITS)
        return bits

    def precision(self, node: Node) -> str:
        """The arithmetic of a node, as devices price it: 'fp32', or 'w4a8' for 4-bit weights on 8-bit codes; 'a8' without weights."""
        bits = self.code_bits[node.inputs[0] if node.inputs else node.name]
        return precision_name(node.attrs.get("wbits", FLOAT_BITS) if node.op in WEIGHTED else 0, bits)

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
                if wrong := _fault_of_values(node):
                    raise GraphError(f"node '{name}' {wrong}")
                g.append(name, op, node.inputs, dict(node.attrs))
            graph = g.graph(*outputs)
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as fault:
            raise GraphError(f"this is not an edgenas graph: {type(fault).__name__}: {fault}") from None
        verify(graph)
        return graph


@cache
def precision_name(weights: int, activations: int) -> str:
    """Of arithmetic with so many bits of weights (0: without weights) and activations."""
    if activations == FLOAT_BITS:
        return "fp32"
    return f"w{weights}a{activations}" if weights else f"a{activations}"


_Bits = tuple[dict[str, int], dict[str, int]]  # attributes of a node without and with weights


class Builder:
    """Adds nodes to a growing Graph.  Blocks get it as `g`; every method returns the Ref of the node it added."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.shapes: dict[Ref, Shape] = {}
        self.newest: dict[str, Any] = {}  # attributes of the newest node
        self._scope = ""
        self._counts: dict[str, int] = {}  # number of the newest node of each operator in this scope
        self._scopes: dict[str, dict[str, int]] = {"": self._counts}
        self._bits: _Bits = ({}, {})
        self._by_repeat: Sequence[tuple[int, int]] = ()

    def scope(self, name: str) -> _Within:
        """Node names inside begin with `name.`; scopes nest."""
        scope = f"{self._scope}{name}."
        return _Within(self, scope, self._scopes.setdefault(scope, {}), self._bits)

    def precision(self, weights: int, activations: int) -> _Within:
        """Weighted nodes inside hold `weights`-bit weights and read `activations`-bit codes; 32 is float."""
        bits = ({"abits": activations}, {"abits": activations, "wbits": weights}) if weights < FLOAT_BITS else ({}, {})
        return _Within(self, self._scope, self._counts, bits)

    @contextmanager
    def precisions(self, by_repeat: Sequence[tuple[int, int]]) -> Iterator[None]:
        """Blocks inside hold (weight bits, activation bits) of their own in each repeat; what stands outside of the repeats does not."""
        outside, self._by_repeat = self._by_repeat, by_repeat
        try:
            yield
        finally:
            self._by_repeat = outside

    def repeats(self, count: int) -> Iterator[int]:
        """0 .. count - 1, the repeats of a block, each at the precision that it was given."""
        for i in range(count):
            if i < len(self._by_repeat):
                with self.precision(*self._by_repeat[i]):
                    yield i
            else:
                yield i

    def append(self, name: Ref, op: str, inputs: tuple[Ref, ...], attrs: dict[str, Any]) -> Ref:
        try:
            shapes = self.shapes
            shape = OPS[op].shape([shapes[inputs[0]]] if len(inputs) == 1 else [shapes[x] for x in inputs], attrs)
        except KeyError as missing:
            known = f"attributes or inputs: {missing}" if op in OPS else f"operator '{op}'; operators: {', '.join(OPS)}"
            raise GraphError(f"node '{name}' ({op}) has unknown {known}") from None
        except (GraphError, ValueError, TypeError, ZeroDivisionError) as fault:
            raise GraphError(f"node '{name}' ({op}): {fault}") from None
        self.nodes.append(Node(name, op, inputs, attrs, shape))
        self.newest, shapes[name] = attrs, shape
        return name

    def name(self, op: str) -> Ref:
        """The next free name of a node in this scope: 'stage1.conv2d', 'stage1.conv2d1', .."""
        counts = self._counts
        count = counts[op] = counts.get(op, -1) + 1
        return f"{self._scope}{op}{count}" if count else self._scope + op

    def add_node(self, op: str, *inputs: Ref, **attrs: Any) -> Ref:
        attrs |= self._bits[op in WEIGHTED]
        return self.append(self.name(op), op, inputs, attrs)

    def input(self, channels: int, height: int, width: int) -> Ref:
        return self.add_node("input", size=(channels, height, width))

    def conv2d(self, x: Ref, channels: int, kernel: int = 1, *, stride: int = 1, padding: int | None = None,
               groups: int = 1, bias: bool = False) -> Ref:
        """`padding` None keeps the size at stride 1 ('same')."""
        same = kernel // 2 if padding is None else padding
        attrs = {"channels": channels, "kernel": kernel, "stride": stride, "padding": same, "groups": groups, "bias": bias, **self._bits[1]}
        return self.append(self.name("conv2d"), "conv2d", (x,), attrs)

    def conv_bn_act(self, x: Ref, channels: int, kernel: int, *, stride: int, act: str | None, groups: int) -> Ref:
        """Conv without bias, batch-norm, activation (none where `act` is None); 'same' padding."""
        y = self.batchnorm(self.conv2d(x, channels, kernel, stride=stride, groups=groups))
        return self.activation(y, act) if act else y

    def conv_transpose2d(self, x: Ref, channels: int, *, kernel: int = 2, stride: int = 2) -> Ref:
        """With a bias; kernel 2 at stride 2 doubles the size."""
        return self.add_node("conv_transpose2d", x, channels=channels, kernel=kernel, stride=stride, bias=True)

    def batchnorm(self, x: Ref) -> Ref:
        return self.add_node("batchnorm", x, eps=1e-3)

    def activation(self, x: Ref, kind: str) -> Ref:
        return self.add_node("activation", x, kind=kind)

    def add(self, *xs: Ref, rep: bool = False) -> Ref:
        """`rep` marks the sum of re-parameterizable branches, which merge_rep turns into one conv."""
        return self.add_node("add", *xs, rep=True) if rep else self.add_node("add", *xs)

    def scale(self, x: Ref) -> Ref:
        """The product with one learnable number."""
        return self.add_node("scale", x)

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


class _Within:
    """A scope or a precision of a Builder.  A class, since contextlib's generators take several times as long."""

    def __init__(self, g: Builder, scope: str, counts: dict[str, int], bits: _Bits) -> None:
        self._g, self._inside = g, (scope, counts, bits)

    def __enter__(self) -> None:
        g = self._g
        self._outside = g._scope, g._counts, g._bits
        g._scope, g._counts, g._bits = self._inside

    def __exit__(self, *fault: object) -> None:
        g = self._g
        g._scope, g._counts, g._bits = self._outside


_KNOWN = {op.name: (frozenset(op.required), frozenset(op.required + op.optional)) for op in OPS.values()}
_BITS = {"wbits": WEIGHT_BITS, "abits": ACTIVATION_BITS, "bits": ACTIVATION_BITS, "out_bits": ACTIVATION_BITS}
_POSITIVE = frozenset({"channels", "kernel", "stride", "groups", "factor", "features"})


def verify(graph: Graph, after: str = "") -> None:
    """Raises GraphError unless names, order, attributes, shapes and bit-widths are sound; `after` names the pass to blame."""
    blame = f"after {after}: " if after else ""
    shapes: dict[Ref, Shape] = {}
    for node in graph.nodes:
        if fault := _fault(node, shapes):
            raise GraphError(f"{blame}node '{node.name}' {fault}")
        shapes[node.name] = node.shape
    if lost := [name for name in graph.outputs if name not in shapes]:
        raise GraphError(f"{blame}output '{lost[0]}' is produced by no node")
    if not graph.outputs:
        raise GraphError(f"{blame}the graph has no outputs")


def _fault(node: Node, shapes: Mapping[Ref, Shape]) -> str:
    """What is wrong with a node behind tensors of these shapes, '' where nothing is."""
    op, attrs = OPS.get(node.op), node.attrs
    if op is None:
        return f"has unknown operator '{node.op}'; operators: {', '.join(OPS)}"
    if node.name in shapes:
        return "appears twice"
    if missing := [name for name in node.inputs if name not in shapes]:
        return f"reads '{missing[0]}', which no earlier node produces"
    if not op.inputs[0] <= len(node.inputs) <= op.inputs[1]:
        return f"({node.op}) reads {len(node.inputs)} inputs; it takes {op.inputs[0]} to {op.inputs[1]}"
    required, known = _KNOWN[node.op]
    if not required <= attrs.keys():
        return f"({node.op}) lacks the attribute '{next(attr for attr in op.required if attr not in attrs)}'"
    if not attrs.keys() <= known:
        strange = next(attr for attr in attrs if attr not in known)
        return f"({node.op}) has the attribute '{strange}'; known: {', '.join(op.required + op.optional)}"
    if fault := _fault_of_values(node):
        return fault
    expected = op.shape([shapes[name] for name in node.inputs], attrs)
    return f"says shape {node.shape} where its inputs give {expected}" if expected != node.shape else ""


def _fault_of_values(node: Node) -> str:
    if node.op == "activation" and node["kind"] not in ACTIVATIONS:
        return f"has activation '{node['kind']}'; known: {', '.join(ACTIVATIONS)}"
    for attr, value in node.attrs.items():
        if attr in _BITS:
            if value != FLOAT_BITS and value not in _BITS[attr]:
                return f"has {attr}={value}; known: {', '.join(map(str, _BITS[attr]))} and {FLOAT_BITS} (float)"
        elif attr in _POSITIVE and (not isinstance(value, int) or value < 1):
            return f"has {attr}={value!r}, which is not a positive integer"
    return ""
