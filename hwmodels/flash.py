"""Flash: the size of the artifact (`.edge`) that a graph will become, before it has weights.

Counted as csrc/formats/edge.h lays the file out, section by section.  Two things depend on trained weights and are taken at their
usual size: the activation tables, which a narrow range of outputs makes finer, and the provenance in the metadata.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from hwmodels.layout import ON_HOST, weight_bytes
from searchspaces.graph import Graph, Node
from searchspaces.ops import FLOAT_BITS, MONOTONE, WEIGHTED

_HEADER, _SECTION, _TENSOR, _INSTRUCTION, _OPERAND = 32, 12, 24, 56, 4
_SINGLES, _ALIGNMENT = 6, 8
_METADATA, _METADATA_CLASS = 600, 12  # JSON: input size, strides, preprocessing, provenance; the name of a class
_THRESHOLD_BITS, _CLIP_BITS = 4, 3  # a monotone activation to codes this narrow becomes thresholds; what only clips, below 3 bits
_TABLE = {1: 2, 2: 4, 3: 10, 4: 24, 8: 280}  # usual bytes of a table that writes codes of so many bits, as runs
_AFFINE = frozenset({"batchnorm", "scale"})  # these run as depthwise 1x1 convs of 1-bit codes
_EPILOGUES = frozenset({*WEIGHTED, *_AFFINE, "add", "mul", "global_avgpool"})
_BY_CLIPPING = frozenset({"none", "relu", "relu6"})


def flash_bytes(graph: Graph) -> int:
    """Bytes of the artifact of `deployed(quantized(graph))`: packed weights, epilogues, tables, plan and metadata."""
    tensors = [node for node in graph.nodes if node.op not in ON_HOST and node.op != "flatten"]
    instructions = [node for node in tensors if node.op != "input"]
    decode = graph.of("dfl_decode")
    classes = decode[0]["classes"] if decode else 0
    outputs = len(decode[0].inputs) if decode else len(graph.outputs)
    singles = (
        _TENSOR * len(tensors),
        _INSTRUCTION * len(instructions),
        _OPERAND * sum(len(node.inputs) + 1 for node in instructions),
        _OPERAND * (2 + len(graph.of("input")) + outputs),
        sum(len(node.name.encode()) for node in tensors),
        _METADATA + _METADATA_CLASS * classes,
    )
    blobs = [size for node in instructions for size in _arrays(graph, node)] + list(_tables(graph, instructions).values())
    table = _SECTION * (_SINGLES + len(blobs))
    return _HEADER + table + sum(-(-size // _ALIGNMENT) * _ALIGNMENT for size in (*singles, *blobs))


def _arrays(graph: Graph, node: Node) -> Iterator[int]:
    """Bytes of each array that an instruction alone brings along."""
    reads_codes, out_bits = graph.code_bits[node.inputs[0]] < FLOAT_BITS, graph.code_bits[node.name]
    channels = node.shape[0] if node.op in WEIGHTED or node.op in _AFFINE else 1
    if node.op in WEIGHTED:
        shape = graph[node.inputs[0]].shape
        yield weight_bytes(node, prod(shape) if node.op == "linear" else shape[0])
    if node.op in _AFFINE:
        yield channels * (1 if reads_codes else FLOAT_BITS // 8)
    if node.op == "layernorm":
        yield from (4 * node.shape[-1], 4 * node.shape[-1])
    if not reads_codes:
        if node.op in _AFFINE or (node.op in WEIGHTED and node.get("bias")):
            yield 4 * channels
    elif node.op in ("quantize", "activation"):
        yield 256
    elif node.op in _EPILOGUES:
        if out_bits == FLOAT_BITS:
            yield from (4 * channels, 4 * channels)  # scale, offset
        elif _by_thresholds(node, out_bits):
            yield from (4 * channels * (2**out_bits - 1), channels)  # thresholds, sign
        else:
            yield from (4 * channels, 8 * channels)  # multiplier, bias


def _tables(graph: Graph, instructions: list[Node]) -> dict[tuple[str, str], int]:
    """Bytes of activation tables; operators of one activation that write to one quantizer share theirs."""
    tables = {}
    for node in instructions:
        act, bits = node.get("act", "none"), graph.code_bits[node.name]
        by_table = act not in _BY_CLIPPING and node.op in _EPILOGUES and bits < FLOAT_BITS and not _by_thresholds(node, bits)
        if by_table and graph.code_bits[node.inputs[0]] < FLOAT_BITS:
            tables[act, node["quant"]] = _TABLE[bits]
    return tables


def _by_thresholds(node: Node, out_bits: int) -> bool:
    act = node.get("act", "none")
    if act in _BY_CLIPPING:
        return out_bits < _CLIP_BITS
    return out_bits <= _THRESHOLD_BITS and act in MONOTONE
