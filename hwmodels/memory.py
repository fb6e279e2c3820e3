"""Arena planner: where each activation lies and the peak of RAM; flash_bytes, the size of the artifact, comes along.

`arena(graph)` takes the form that runs on the device, `deployed(quantized(graph))`.  The compiler writes these very offsets into
the artifact, so the RAM that a search predicts is the RAM that the artifact uses.  Sizes are bytes; 1 KiB is 1024 bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from random import Random

from hwmodels.flash import flash_bytes
from hwmodels.layout import Lifetime, lifetimes, sharing
from searchspaces.graph import Graph, Ref

__all__ = ["ALIGNMENT", "Arena", "Block", "arena", "bound", "flash_bytes", "place"]

ALIGNMENT = 64  # bytes; tensors inside a block (pieces of a concat) may lie closer
TRIES = 300  # placements tried at most where the first ones stay above the lower bound

Apart = list[dict[int, list[tuple[int, int]]]]


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


@dataclass(frozen=True)
class Block:
    """Tensors that move together: (first byte, byte behind the last, birth, death) of each, relative to the block's start."""

    parts: tuple[tuple[int, int, int, int], ...]

    @cached_property
    def size(self) -> int:
        return max(high for _, high, _, _ in self.parts)

    @cached_property
    def birth(self) -> int:
        return min(birth for _, _, birth, _ in self.parts)


def arena(graph: Graph) -> Arena:
    """Offsets (multiples of 64 bytes, pieces of a block closer) and the peak; nodes that run on the host have no tensor."""
    lives, shared = lifetimes(graph), sharing(graph)
    members: dict[int, list[Ref]] = {}
    for name, (block, _) in shared.place.items():
        members.setdefault(block, []).append(name)
    lowest = {block: min(shared.place[name][1] for name in names) for block, names in members.items()}
    blocks = [Block(tuple(_part(lives[n], shared.place[n][1] - lowest[b]) for n in names)) for b, names in members.items()]
    starts = dict(zip(members, place(blocks)))
    offsets = {name: starts[block] + offset - lowest[block] for name, (block, offset) in shared.place.items()}
    sizes = {name: life.size for name, life in lives.items()}
    peak = max(offsets[name] + sizes[name] for name in offsets)
    return Arena(offsets, sizes, peak, bound(blocks), shared.aliases)


def _part(life: Lifetime, offset: int) -> tuple[int, int, int, int]:
    return offset, offset + life.size, life.birth, life.death


def bound(blocks: Sequence[Block]) -> int:
    """Bytes alive at the fullest step: a lower bound of every placement."""
    change: dict[int, int] = {}
    for block in blocks:
        before = 0
        for step in sorted({step for _, _, birth, death in block.parts for step in (birth, death + 1)}):
            now = _covered(block, step)
            change[step] = change.get(step, 0) + now - before
            before = now
    return max(accumulate(change[step] for step in sorted(change)), default=0)


def _covered(block: Block, step: int) -> int:
    total = reach = 0
    for low, high in sorted((low, high) for low, high, birth, death in block.parts if birth <= step <= death):
        total += max(0, high - max(low, reach))
        reach = max(reach, high)
    return total


def place(blocks: Sequence[Block]) -> list[int]:
    """An aligned start for each block so that no two live parts overlap; the lowest peak of a few first fits and a search."""
    floor, apart = bound(blocks), _forbidden(blocks)
    best_order: list[int] = []
    best_peak = -1
    for order in _orders(blocks):
        starts = _first_fit(order, apart)
        peak = _peak(blocks, starts)
        if peak <= floor:
            return starts
        if best_peak < 0 or peak < best_peak:
            best_order, best_peak = order, peak
    return _search(blocks, apart, best_order, floor)


def _orders(blocks: Sequence[Block]) -> Iterator[list[int]]:
    numbers = range(len(blocks))
    span = [max(d for *_, d in b.parts) - b.birth + 1 for b in blocks]
    yield sorted(numbers, key=lambda i: (-blocks[i].size, blocks[i].birth))
    yield sorted(numbers, key=lambda i: (-blocks[i].size * span[i], blocks[i].birth))
    yield sorted(numbers, key=lambda i: (-span[i], -blocks[i].size))
    yield sorted(numbers, key=lambda i: (blocks[i].birth, -blocks[i].size))


def _forbidden(blocks: Sequence[Block]) -> Apart:
    """apart[a][b]: open intervals of start(a) - start(b) at which a live part of a would overlap one of b."""
    apart: Apart = [{} for _ in blocks]
    for a, one in enumerate(blocks):
        for b in range(a):
            gaps = [
                (low2 - high1, high2 - low1)
                for low1, high1, birth1, death1 in one.parts
                for low2, high2, birth2, death2 in blocks[b].parts
                if birth1 <= death2 and birth2 <= death1
            ]
            if gaps:
                apart[a][b] = gaps
                apart[b][a] = [(-high, -low) for low, high in gaps]
    return apart


def _first_fit(order: Sequence[int], apart: Apart) -> list[int]:
    starts = [-1] * len(apart)
    for block in order:
        starts[block] = _lowest(block, starts, apart)
    return starts


def _lowest(block: int, starts: list[int], apart: Apart) -> int:
    """The lowest aligned start of a block beside the blocks that are placed (start >= 0)."""
    taken = [(starts[b] + low, starts[b] + high) for b, gaps in apart[block].items() if starts[b] >= 0 for low, high in gaps]
    start = 0
    for low, high in sorted(taken):
        if low >= start:
            break
        if high > start:
            start = -(-high // ALIGNMENT) * ALIGNMENT
    return start


def _peak(blocks: Sequence[Block], starts: Sequence[int]) -> int:
    return max(start + block.size for start, block in zip(starts, blocks))


def _search(blocks: Sequence[Block], apart: Apart, order: list[int], floor: int) -> list[int]:
    """Squeaky wheel: again and again, the block on top of the pile is placed earlier in the order.  Deterministic."""
    rng = Random(len(blocks))
    best = starts = _first_fit(order, apart)
    for _ in range(TRIES):
        if _peak(blocks, best) <= floor:
            break
        top = max(order, key=lambda block: starts[block] + blocks[block].size)
        at = order.index(top)
        order = [*order[:at], *order[at + 1 :]]
        order.insert(rng.randrange(at + 1), top)
        starts = _first_fit(order, apart)
        best = min(best, starts, key=lambda s: _peak(blocks, s))
    return best
