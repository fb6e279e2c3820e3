"""Arena planner: where each activation lies and the peak of RAM; flash_bytes, the size of the artifact, comes along.

`arena(graph)` takes the form that runs on the device, `deployed(quantized(graph))`.  The compiler writes these very offsets into
the artifact, so the RAM that a search predicts is the RAM that the artifact uses.  Sizes are bytes; 1 KiB is 1024 bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hwmodels.flash import flash_bytes
from hwmodels.layout import ON_HOST, planner, sharing
from searchspaces.graph import Graph, Ref

__all__ = ["ALIGNMENT", "Arena", "Part", "arena", "flash_bytes", "place"]

ALIGNMENT = 64  # bytes; tensors inside a block (pieces of a concat) may lie closer

Part = tuple[int, int, int, int]  # first byte, byte behind the last, birth, death of one tensor, relative to its block's start


@dataclass(frozen=True)
class Arena:
    """Byte offsets of all tensors, those that share memory included.

    `aliases[node]` are the inputs whose memory the node shares (layout.Sharing); `bound_bytes` is the most that is alive at
    any one step, below which no placement can go.
    """

    offsets: Mapping[Ref, int]
    sizes: Mapping[Ref, int]
    peak_bytes: int
    bound_bytes: int
    aliases: Mapping[Ref, tuple[Ref, ...]]


def arena(graph: Graph) -> Arena:
    """Offsets (multiples of 64 bytes, pieces of a block closer) and the peak; nodes that run on the host have no tensor.

    Placed by csrc/planner/place.cpp: first fit in order of the fullest step that a block lives to see, other orders where that is
    not good enough.  Deterministic.
    """
    shared = sharing(graph)
    starts, peak, bound = shared.layout.arena(ALIGNMENT)
    offsets, sizes = dict(zip(shared.sizes, starts)), shared.sizes
    if on_host := {node.name for node in graph.nodes if node.op in ON_HOST}:
        offsets, sizes = ({name: number for name, number in found.items() if name not in on_host} for found in (offsets, sizes))
    return Arena(offsets, sizes, peak, bound, shared.aliases)


def place(blocks: Sequence[Sequence[Part]]) -> tuple[list[int], int]:
    """An aligned start for each block (parts that move together) so that no two live parts overlap, and the lower bound of the peak.

    Births and deaths are steps from -1 (before any) on.
    """
    starts, bound = planner().place(blocks, ALIGNMENT)
    return starts, bound
