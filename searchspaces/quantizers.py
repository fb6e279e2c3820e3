"""Places quantize nodes in a Graph: from bit-widths on the nodes to the tensors that hold codes.

The rule.  A weighted node reads its input at its own `abits`.  A tensor is quantized once, at the most bits any reader
needs, where its producer's chain (conv, batch-norm, activation) ends; a reader that needs fewer bits gets a second, narrower
quantize.  Tensors that meet in a concat share one quantizer (a conv reads the concat with one step), and so do
the inputs and outputs of everything that only hands codes on.  What dfl_decode reads stays float.
"""

from __future__ import annotations

from collections.abc import Mapping

from searchspaces.graph import Graph, Node, Ref
from searchspaces.ops import FLOAT_BITS, NON_NEGATIVE, PASS_THROUGH, WEIGHTED

_AFFINE = frozenset({"batchnorm", "scale"})  # these end up inside the weighted node they read, and run alone behind anything else
_FLOAT_ONLY = frozenset({"dfl_decode", "nms", "softmax", "matmul", "layernorm"})
IMAGE_BITS, IMAGE_SCALE = 8, 1 / 255  # an image is codes already: uint8 RGB


def quantized(graph: Graph) -> Graph:
    """The graph with quantize nodes where bit-widths are below 32; the same graph where none is."""
    if all(node.get("abits", FLOAT_BITS) == FLOAT_BITS for node in graph):
        return graph
    ends = {node.name: node for node in graph if node.op not in PASS_THROUGH and _is_chain_end(graph, node)}
    groups = _groups(graph, ends)
    need = _needs(graph, groups)
    asymmetric = _signed_groups(ends, groups)

    nodes: list[Node] = []
    codes: dict[Ref, Ref] = {}  # float tensor -> the tensor that holds its codes
    narrow: dict[tuple[Ref, int], Ref] = {}

    def read(name: Ref, bits: int) -> Ref:
        """The codes of `name` at `bits`, through a narrower quantize where the tensor holds more."""
        source = codes.get(name, name)
        group = groups.get(name)
        if group is None or bits >= need[group]:
            return source
        if (source, bits) not in narrow:
            attrs = {"bits": bits, "group": f"{group}.a{bits}", "asymmetric": group in asymmetric}
            narrow[source, bits] = f"{name}.a{bits}"
            nodes.append(Node(f"{name}.a{bits}", "quantize", (source,), attrs, graph[name].shape))
        return narrow[source, bits]

    for node in graph:
        bits = node.attrs["abits"] if node.op in WEIGHTED else FLOAT_BITS
        nodes.append(node if groups.keys().isdisjoint(node.inputs) else node.reading(tuple([read(name, bits) for name in node.inputs])))
        group = groups.get(node.name)
        if group is not None and need[group] < FLOAT_BITS and node.name in ends:
            nodes.append(Node(f"{node.name}.q", "quantize", (node.name,), _attrs(node, group, need[group], asymmetric), node.shape))
            codes[node.name] = f"{node.name}.q"
    return Graph(tuple(nodes), tuple(codes.get(name, name) for name in graph.outputs))


def floated(graph: Graph) -> Graph:
    """The graph without bit-widths: what is trained before quantization-aware training, under the same node names."""
    return graph.edited({node.name: node.without("wbits", "abits") for node in graph})


def _attrs(node: Node, group: str, bits: int, asymmetric: set[str]) -> dict:
    if node.op == "input":
        return {"bits": IMAGE_BITS, "group": "image", "asymmetric": False, "scale": IMAGE_SCALE}
    return {"bits": bits, "group": group, "asymmetric": group in asymmetric}


def _is_chain_end(graph: Graph, node: Node) -> bool:
    """False where the only reader belongs to the same fused operator: conv -> batch-norm -> activation, or a branch of a rep sum."""
    readers = graph.readers(node.name)
    if len(readers) != 1:
        return True
    (reader,) = readers
    if reader.op == "activation":
        return node.op == "activation"
    return not (reader.attrs.get("rep") or (reader.op in _AFFINE and node.op in WEIGHTED))


def _groups(graph: Graph, ends: Mapping[Ref, Node]) -> dict[Ref, str]:
    """Tensor -> quantizer, by union over everything that hands codes on; float tensors are absent."""
    parent: dict[Ref, Ref] = {}

    def find(name: Ref) -> Ref:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for node in graph:
        if node.op in PASS_THROUGH:
            if parent.keys() >= set(node.inputs):
                parent[node.name] = node.name
                for name in node.inputs:
                    parent[find(node.name)] = find(name)
        elif node.name in ends and node.op not in _FLOAT_ONLY and not _FLOAT_ONLY.issuperset([r.op for r in graph.readers(node.name)]):
            parent[node.name] = node.name
    return {name: find(name) for name in parent}


def _needs(graph: Graph, groups: dict[Ref, str]) -> dict[str, int]:
    """Bits of each quantizer: the most that any reader needs.  A sum needs the bits of its own stage."""
    need: dict[str, int] = dict.fromkeys(groups.values(), 0)
    for node in graph:
        for name in () if node.op in PASS_THROUGH else node.inputs:
            if name in groups:
                need[groups[name]] = max(need[groups[name]], node.attrs.get("abits", FLOAT_BITS))
    return {group: bits or FLOAT_BITS for group, bits in need.items()}


def _signed_groups(ends: Mapping[Ref, Node], groups: dict[Ref, str]) -> set[str]:
    """Quantizers that some tensor may enter with negative values."""
    signed = set()
    for node in ends.values():
        if node.name not in groups or node.op == "input":
            continue
        if not (node.op == "activation" and node["kind"] in NON_NEGATIVE):
            signed.add(groups[node.name])
    return signed
