"""compile(graph, weights) -> Plan: the passes in order, then lowering; save(plan, path) writes the artifact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nas.compiler.errors import CompilerError
from nas.compiler.lower import lower
from nas.compiler.passes import Pass, affine_as_conv, quantize_weights, split_float_quantize
from nas.model import write_whole
from nas.runtime import artifact
from nas.runtime.plan import Instruction, Plan
from searchspaces.graph import Graph, verify
from searchspaces.ops import FLOAT_BITS, WEIGHTED
from searchspaces.quantizers import quantized
from searchspaces.rewrite import fold_batchnorm, fuse_activation, fuse_quantize, merge_rep
from searchspaces.weights import Weights

# merge_rep acts on float branches only, so it precedes the codes; a graph trained quantized has its branches merged already.
PIPELINE: tuple[Pass, ...] = (
    merge_rep, quantize_weights, fold_batchnorm, affine_as_conv, fuse_activation, fuse_quantize, split_float_quantize,
)  # fmt: skip


def run_passes(graph: Graph, weights: Weights, passes: Sequence[Pass] = PIPELINE) -> tuple[Graph, Weights]:
    """The deploy form of a trained net; raises GraphError naming the pass after which the graph is unsound."""
    for step in passes:
        graph, weights = step(graph, weights)
        verify(graph, after=step.__name__)
    return graph, weights


def compile(graph: Graph, weights: Weights, *, classes: Sequence[str] = (), provenance: Mapping[str, object] | None = None) -> Plan:
    """The Plan of a trained net.

    `graph` is what was trained, with quantize nodes where bits are below 32 (they are placed where it has none), `weights` what
    its module's weights() gives.  A detector's plan ends at its raw maps; `classes` are names, one for each class.
    """
    return lower(*prepared(graph, weights, classes), classes=classes, provenance=provenance or {})


def prepared(graph: Graph, weights: Weights, classes: Sequence[str]) -> tuple[Graph, Weights]:
    """The deploy form of what was trained, once classes and quantizer groups are found sound."""
    if not graph.of("quantize"):
        graph = quantized(graph)
    for node in graph.of("dfl_decode"):
        if len(classes) != node["classes"]:
            raise CompilerError(f"{len(classes)} class names for a detector of {node['classes']} classes")
    _check_groups(graph, weights)
    return run_passes(graph, _without_idle_scales(graph, weights))


def _without_idle_scales(graph: Graph, weights: Weights) -> Weights:
    """Weights of quantization-aware training fit the float net too, once the scales of weights that stay float are left out."""
    idle = {f"{node.name}.weight_scale" for node in graph.of(*WEIGHTED) if node.get("wbits", FLOAT_BITS) == FLOAT_BITS}
    return Weights({name: array for name, array in weights.arrays().items() if name not in idle})


def _check_groups(graph: Graph, weights: Weights) -> None:
    """Quantizers of one group are one quantizer: the tensors they meet in hold codes of a single scale."""
    grids: dict[str, tuple[float, int]] = {}
    for node in graph.of("quantize"):
        grid = weights[node, "scale"].item(), weights[node, "zero_point"].item()
        if grids.setdefault(node["group"], grid) != grid:
            raise CompilerError(f"node '{node.name}': its quantizer group '{node['group']}' has different scales or zero points")


def save(plan: Plan, path: str | Path) -> int:
    """Write a plan as an artifact (.edge), whole or not at all; returns its bytes."""
    data = artifact.write(plan)
    write_whole(Path(path), data)
    return len(data)


@dataclass(frozen=True)
class Sizes:
    """Bytes of an artifact by what they are for.  `total` is the file; `overhead` is what it has beyond weights and epilogues,
    as a share of these: tables, the plan, names, metadata."""

    weights: int
    tables: int
    epilogues: int
    total: int

    @property
    def overhead(self) -> float:
        needed = self.weights + self.epilogues
        return self.total / needed - 1 if needed else 0.0


def sizes(plan: Plan) -> Sizes:
    """Where the bytes of the artifact go: packed weights (f32 ones as they are), tables of codes, multipliers and thresholds."""
    packed = sum(_weight_bytes(plan, i) for i in plan.instructions if "weight" in i.params)
    arrays = [(name, array) for i in plan.instructions for name, array in _epilogue(i).items()]
    tables = {artifact.pack_table(array) for name, array in arrays if name == "table"}              # the file holds equal arrays once
    tables |= {plan.weights[i.params["table"]].tobytes() for i in plan.instructions if "table" in i.params}
    epilogues = {array.tobytes() for name, array in arrays if name != "table"}
    return Sizes(packed, sum(map(len, tables)), sum(map(len, epilogues)), len(artifact.write(plan)))


def _weight_bytes(plan: Plan, i: Instruction) -> int:
    w = plan.weights[i.params["weight"]]
    bits = int(str(i.attrs["wbits"])) if "wbits" in i.attrs else FLOAT_BITS
    return len(w) * artifact.row_bytes(w[0].size, bits)


def _epilogue(i: Instruction) -> dict[str, np.ndarray]:
    return {} if i.requant is None else {k: v for k, v in vars(i.requant).items() if isinstance(v, np.ndarray)}
