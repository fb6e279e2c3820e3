"""What codes stand for: the grid of each quantized tensor of a graph in deploy form."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.compiler.errors import CompilerError
from searchspaces.graph import Graph, Ref
from searchspaces.ops import FLOAT_BITS, PASS_THROUGH
from searchspaces.weights import Weights

Real = NDArray[np.float64]


@dataclass(frozen=True)
class Grid:
    """Codes 0 .. 2^bits - 1 that stand for scale * (code - zero_point)."""

    bits: int
    scale: float
    zero_point: int

    @property
    def highest(self) -> int:
        return 2**self.bits - 1

    def codes(self, y: Real | np.float64) -> NDArray[np.int64]:
        """The nearest code of each real value, half up."""
        return np.clip(np.floor(y / self.scale + (self.zero_point + 0.5)), 0, self.highest).astype(np.int64)

    def reals(self) -> Real:
        """(2^bits,) what each code stands for."""
        return self.scale * (np.arange(self.highest + 1, dtype=np.float64) - self.zero_point)


def grids_of(graph: Graph, weights: Weights) -> dict[Ref, Grid]:
    """The grid of each node that gives codes; float nodes are absent.  Raises CompilerError naming a node without a sound one."""
    grids: dict[Ref, Grid] = {}
    for node in graph:
        if node.op in PASS_THROUGH:
            found = [grids.get(name) for name in node.inputs]
            if any(grid != found[0] for grid in found):
                raise CompilerError(f"node '{node.name}' ({node.op}) joins tensors of different scales or bits: {', '.join(node.inputs)}")
            if found[0] is not None:
                grids[node.name] = found[0]
        elif (bits := graph.code_bits[node.name]) < FLOAT_BITS:
            key = node.name if node.op == "quantize" else f"quant.{node['quant']}"
            scale, zero_point = float(np.float32(weights[key, "scale"].item())), int(weights[key, "zero_point"].item())
            if not (np.isfinite(scale) and scale > 0 and 0 <= zero_point < 2**bits):
                raise CompilerError(f"node '{node.name}': scale {scale} and zero point {zero_point} are no grid of {bits}-bit codes")
            grids[node.name] = Grid(bits, scale, zero_point)
    return grids
