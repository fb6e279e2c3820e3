"""Which tensors of a Graph hold codes, at how many bits, and which of them share a quantizer: from bit-widths on the nodes.

The rule.  A weighted node reads its input at its own `abits`.  A tensor is quantized once, at the most bits any reader
needs, where its producer's chain (conv, batch-norm, activation) ends; a reader that needs fewer bits gets a second, narrower
quantize.  Tensors that meet in a concat share one quantizer (a conv reads the concat with one step), and so do
the inputs and outputs of everything that only hands codes on.  What dfl_decode reads stays float.

`quantized` writes this down as quantize nodes in a training form, `coded` as attributes in a form that is fused already.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

from searchspaces.graph import Graph, Node, Ref
from searchspaces.ops import DIPPING, FLOAT_BITS, NARROW_BITS, NON_NEGATIVE, PASS_THROUGH, WEIGHTED

_AFFINE = frozenset({"batchnorm", "scale"})  # these end up inside the weighted node they read, and run alone behind anything else
_FLOAT_ONLY = frozenset({"dfl_decode", "nms", "softmax", "matmul", "layernorm"})
_NO_LOWER = PASS_THROUGH | {"add", "mul", "global_avgpool"}  # what these give is negative only where what they read is
_NEVER, _DIP, _ANYWHERE = 0, 1, 2
IMAGE_BITS, IMAGE_SCALE = 8, 1 / 255  # an image is codes already: uint8 RGB


@dataclass(frozen=True)
class Quantizers:
    """group[tensor] is its quantizer, named after one of its tensors; a float tensor has none.  `ends` are the tensors that are quantized,
    the others are handed their codes; `bits` of each group, 32 where it stays float after all.
    """

    graph: Graph
    group: dict[Ref, Ref]
    ends: dict[Ref, Node]
    bits: dict[Ref, int]

    @cached_property
    def _lowest(self) -> dict[Ref, int]:
        """Where each group goes below zero, as `_below_zero` says it."""
        levels: dict[Ref, int] = {}
        for node in self.graph.nodes:
            levels[node.name] = _below_zero(node, levels)
        found = dict.fromkeys(self.group.values(), _NEVER)
        for name in self.ends:
            found[self.group[name]] = max(found[self.group[name]], levels[name])
        return found

    def asymmetric(self, group: Ref, bits: int) -> bool:
        """Whether codes of so many bits for a group stand for negative values too.

        Few codes spend none on the dip of an activation: so they never fall along its curve, and thresholds find them exactly.
        """
        return self._lowest[group] > (_DIP if bits <= NARROW_BITS else _NEVER)


def quantizers(graph: Graph, fused: bool = False) -> Quantizers:
    """The rule, for a graph in training form, with rep branches merged, or `fused`: with every chain in one node."""
    read = set(chain.from_iterable([node.inputs for node in graph.nodes if node.op not in _FLOAT_ONLY]))
    need: dict[Ref, int] = {}  # bits that the readers of a tensor need
    ends: dict[Ref, Node] = {}
    group: dict[Ref, Ref] = {}  # tensor -> another one of its group, or itself

    def find(name: Ref) -> Ref:
        while group[name] != name:
            group[name] = name = group[group[name]]
        return name

    for node in graph.nodes:
        name, op, inputs = node.name, node.op, node.inputs
        if op in PASS_THROUGH:
            if group.keys() >= set(inputs):
                group[name] = name
                for x in inputs:
                    group[find(name)] = find(x)
            continue
        bits = node.attrs.get("abits", FLOAT_BITS)
        for x in inputs:
            if bits > need.get(x, 0):
                need[x] = bits
        if name in read and op not in _FLOAT_ONLY and (fused or _is_chain_end(node, graph.readers(name))):
            group[name] = name
            ends[name] = node
    most: dict[Ref, int] = {}
    for name, other in group.items():
        if other != name:
            other = group[name] = find(other)
        most[other] = max(most.get(other, 0), need.get(name, 0))
    return Quantizers(graph, group, ends, {name: bits or FLOAT_BITS for name, bits in most.items()})


def _below_zero(node: Node, levels: Mapping[Ref, int]) -> int:
    """_NEVER, in the _DIP of an activation alone, or _ANYWHERE, from those of its inputs."""
    act = _activation(node)
    if node.op == "input" or act in NON_NEGATIVE:
        return _NEVER
    if act in DIPPING:
        return _DIP
    if act is None and node.op in _NO_LOWER:
        return max([levels[name] for name in node.inputs])
    return _ANYWHERE


def _is_chain_end(node: Node, readers: list[Node]) -> bool:
    """False where the only reader belongs to the same fused operator: conv -> batch-norm -> activation, or a branch of a rep sum."""
    if len(readers) != 1:
        return True
    (reader,) = readers
    if reader.op == "activation":
        return node.op == "activation"
    return not (reader.attrs.get("rep") or (reader.op in _AFFINE and node.op in WEIGHTED))


def _activation(node: Node) -> str | None:
    return node.attrs.get("kind" if node.op == "activation" else "act")


def quantized(graph: Graph) -> Graph:
    """The graph with quantize nodes where bit-widths are below 32; the same graph where none is."""
    if not _has_bits(graph):
        return graph
    found = quantizers(graph)
    nodes: list[Node] = []
    codes: dict[Ref, Ref] = {}  # float tensor -> the tensor that holds its codes
    narrow = _Narrow(found, nodes)
    for node in graph.nodes:
        name, bits = node.name, node.attrs["abits"] if node.op in WEIGHTED else FLOAT_BITS
        nodes.append(node.reading(tuple([narrow(graph[x], codes.get(x, x), bits) for x in node.inputs])))
        if name in found.ends and (held := found.bits[group := found.group[name]]) < FLOAT_BITS:
            attrs: dict[str, Any] = {"bits": held, "group": group, "asymmetric": found.asymmetric(group, held)}
            if node.op == "input":
                attrs = {"bits": IMAGE_BITS, "group": "image", "asymmetric": False, "scale": IMAGE_SCALE}
            codes[name] = f"{name}.q"
            nodes.append(Node(codes[name], "quantize", (name,), attrs, node.shape))
    return Graph(tuple(nodes), tuple(codes.get(name, name) for name in graph.outputs))


def coded(graph: Graph, trained: Mapping[Ref, Ref]) -> Graph:
    """The deploy form of a fused graph, as fuse_quantize leaves it.  The graph is used up: its nodes get their attributes in place.

    `trained` maps a fused node to the last of the nodes of the training form that it stands for: quantizers are named after those.
    """
    if not _has_bits(graph):
        return graph
    found = quantizers(graph, fused=True)
    group, need, ends = found.group, found.bits, found.ends
    nodes: list[Node] = []
    narrow = _Narrow(found, nodes, trained)
    for node in graph.nodes:
        name, op, inputs = node.name, node.op, node.inputs
        attrs: Any = node.attrs
        if op in WEIGHTED and inputs[0] in group and need[group[inputs[0]]] > attrs["abits"]:
            node = node.reading((narrow(graph[inputs[0]], inputs[0], attrs["abits"]),))
        if name in ends and need[group[name]] < FLOAT_BITS:
            root = group[name]
            attrs["quant"], attrs["out_bits"] = ("image", IMAGE_BITS) if op == "input" else (trained.get(root, root), need[root])
        nodes.append(node)
    return Graph(tuple(nodes), graph.outputs)


class _Narrow:
    """Narrower quantizes for readers that need fewer bits than a tensor holds; each is added to `nodes` once, when it is first read."""

    def __init__(self, found: Quantizers, nodes: list[Node], trained: Mapping[Ref, Ref] | None = None) -> None:
        self._found, self._nodes, self._trained = found, nodes, trained or {}
        self._made: dict[tuple[Ref, int], Ref] = {}

    def __call__(self, node: Node, codes: Ref, bits: int) -> Ref:
        """What a reader of `bits` reads in place of a node, whose codes are in `codes`."""
        name, group = node.name, self._found.group.get(node.name)
        if group is None or bits >= self._found.bits[group]:
            return codes
        if (name, bits) not in self._made:
            attrs = {"bits": bits, "group": f"{self._trained.get(group, group)}.a{bits}", "asymmetric": self._found.asymmetric(group, bits)}
            self._made[name, bits] = f"{self._trained.get(name, name)}.a{bits}"
            self._nodes.append(Node(self._made[name, bits], "quantize", (codes,), attrs, node.shape))
        return self._made[name, bits]


def _has_bits(graph: Graph) -> bool:
    return any(node.attrs.get("abits", FLOAT_BITS) < FLOAT_BITS for node in graph.nodes)


def floated(graph: Graph) -> Graph:
    """The graph without bit-widths: what is trained before quantization-aware training, under the same node names."""
    return graph.edited({node.name: node.without("wbits", "abits") for node in graph})
