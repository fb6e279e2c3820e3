"""Arena planner: where each activation lies and the peak of RAM; flash_bytes, the size of the artifact, comes along.

`arena(graph)` takes the form that runs on the device, `deployed(quantized(graph))`.  The compiler writes these very offsets into
the artifact, so the RAM that a search predicts is the RAM that the artifact uses.  Sizes are bytes; 1 KiB is 1024 bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from hwmodels.flash import flash_bytes
from hwmodels.layout import ON_HOST, Sharing, planner, sharing
from searchspaces.graph import Graph, Ref

__all__ = ["ALIGNMENT", "Arena", "Part", "arena", "flash_bytes", "place"]

ALIGNMENT = 64  # bytes; tensors inside a block (pieces of a concat) may lie closer

Part = tuple[int, int, int, int]  # first byte, byte behind the last, birth, death of one tensor, relative to its block's start


@dataclass(frozen=True)
class Arena:
    """Where the tensors of a graph lie.  `bound_bytes` is the most that is alive at any one step, below which no placement can go."""

    shared: Sharing
    starts: Sequence[int]
    peak_bytes: int
    bound_bytes: int

    @cached_property
    def offsets(self) -> Mapping[Ref, int]:
        """Byte offsets of all tensors, those that share memory included; nodes that run on the host have no tensor."""
        return {node.name: start for node, start in zip(self.shared.nodes, self.starts) if node.op not in ON_HOST}

    @cached_property
    def sizes(self) -> Mapping[Ref, int]:
        return {name: self.shared.sizes[name] for name in self.offsets}

    @property
    def aliases(self) -> Mapping[Ref, tuple[Ref, ...]]:
        """The inputs whose memory a node shares (layout.Sharing)."""
        return self.shared.aliases


def arena(graph: Graph) -> Arena:
    """Offsets (multiples of 64 bytes, pieces of a block closer) and the peak.

    Placed by csrc/planner/place.cpp: first fit in order of the fullest step that a block lives to see, other orders where that is
    not good enough.  Deterministic.
    """
    shared = sharing(graph)
    return Arena(shared, *shared.layout.arena(ALIGNMENT))


def place(blocks: Sequence[Sequence[Part]]) -> tuple[list[int], int]:
    """An aligned start for each block (parts that move together) so that no two live parts overlap, and the lower bound of the peak.

    Births and deaths are steps from -1 (before any) on.
    """
    starts, bound = planner().place(blocks, ALIGNMENT)
    return starts, bound
