"""Flash: the size of the artifact (`.edge`) that a graph will become, before it has weights.

Counted as csrc/formats/edge.h lays the file out, section by section.  Two things depend on trained weights and are taken at their
usual size: the activation tables, which a narrow range of outputs makes finer, and the provenance in the metadata.
"""

from __future__ import annotations

from hwmodels.layout import ON_HOST
from hwmodels.workload import workload
from searchspaces.graph import Graph, Node
from searchspaces.ops import FLOAT_BITS, NARROW_BITS, WEIGHTED

_HEADER, _SECTION, _TENSOR, _INSTRUCTION, _OPERAND = 32, 12, 24, 56, 4
_SINGLES, _ALIGNMENT = 6, 8
_METADATA, _METADATA_CLASS = 600, 12  # JSON: input size, strides, preprocessing, provenance; the name of a class
_COARSE_BITS = 2  # up to here a clip becomes thresholds too, as a curve does up to NARROW_BITS
_TABLE = 280  # usual bytes of a table, as runs: it writes 8-bit codes
_AFFINE = frozenset({"batchnorm", "scale"})  # these run as depthwise 1x1 convs of 1-bit codes
_WITHOUT_TENSOR = frozenset({*ON_HOST, "flatten"})
_BY_CODE = frozenset({"quantize", "activation"})  # these look codes up, one by one
_EPILOGUES = frozenset({*WEIGHTED, *_AFFINE, "add", "mul", "global_avgpool"})
_BY_CLIPPING = frozenset({"none", "relu", "relu6"})


def flash_bytes(graph: Graph) -> int:
    """Bytes of the artifact of `deployed(quantized(graph))`: packed weights, epilogues, tables, plan and metadata."""
    tensors = [node for node in graph.nodes if node.op not in _WITHOUT_TENSOR]
    instructions = [node for node in tensors if node.op != "input"]
    inputs = len(tensors) - len(instructions)
    decode = graph.of("dfl_decode")
    classes = decode[0]["classes"] if decode else 0
    outputs = len(decode[0].inputs) if decode else len(graph.outputs)
    sizes = [
        _TENSOR * len(tensors),
        _INSTRUCTION * len(instructions),
        _OPERAND * (len(instructions) + sum([len(node.inputs) for node in instructions])),
        _OPERAND * (2 + inputs + outputs),
        len("".join([node.name for node in tensors]).encode()),
        _METADATA + _METADATA_CLASS * classes,
    ]
    tables: dict[tuple[str, str], int] = {}
    for node, cost in zip(graph.nodes, workload(graph).ops):
        reads_codes = cost.precision != "fp32"
        if node.op in _EPILOGUES:
            if cost.bytes_weights:
                sizes.append(cost.bytes_weights)
            elif node.op in _AFFINE:
                sizes.append(cost.c_out * (1 if reads_codes else FLOAT_BITS // 8))
            sizes += _epilogue(node, cost.bits_out, tables) if reads_codes else _float_bias(node)
        elif node.op == "layernorm":
            sizes += (4 * node.shape[-1], 4 * node.shape[-1])
        elif node.op in _BY_CODE and reads_codes:
            sizes.append(256)
    sizes += tables.values()
    return _HEADER + _SECTION * len(sizes) + sum([-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes])


def _float_bias(node: Node) -> tuple[int, ...]:
    return (4 * node.shape[0],) if node.op in _AFFINE or (node.op in WEIGHTED and node.attrs.get("bias")) else ()


def _epilogue(node: Node, out_bits: int, tables: dict[tuple[str, str], int]) -> tuple[int, int]:
    """Bytes of the two arrays by which sums of codes become outputs.  An activation by table is added to `tables`: operators of one
    activation that write to one quantizer share theirs.
    """
    channels = node.shape[0] if node.op in WEIGHTED or node.op in _AFFINE else 1
    if out_bits == FLOAT_BITS:
        return 4 * channels, 4 * channels  # scale, offset
    act = node.attrs.get("act", "none")
    if _by_thresholds(act, out_bits):
        return 4 * channels * (2**out_bits - 1), channels  # thresholds, sign
    if act not in _BY_CLIPPING:
        tables[act, node.attrs["quant"]] = _TABLE
    return 4 * channels, 8 * channels  # multiplier, bias


def _by_thresholds(act: str, out_bits: int) -> bool:
    return out_bits <= (_COARSE_BITS if act in _BY_CLIPPING else NARROW_BITS)
