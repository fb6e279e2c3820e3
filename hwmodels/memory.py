"""Arena planner: where each activation lies and the peak of RAM; flash_bytes, the size of the artifact, comes along.

`arena(graph)` takes the form that runs on the device, `deployed(quantized(graph))`.  The compiler writes these very offsets into
the artifact, so the RAM that a search predicts is the RAM that the artifact uses.  Sizes are bytes; 1 KiB is 1024 bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import add, sub
from random import Random
from typing import NamedTuple

from hwmodels.flash import flash_bytes
from hwmodels.layout import Lifetime, sharing
from searchspaces.graph import Graph, Ref

__all__ = ["ALIGNMENT", "Arena", "Block", "arena", "block", "flash_bytes", "live_bytes", "place"]

ALIGNMENT = 64  # bytes; tensors inside a block (pieces of a concat) may lie closer
TRIES = 1000  # orders tried at most where the first stays above the lower bound; most nets need none, one in a hundred over 80
CLOSE = 1024  # a peak above the lower bound by less than one part in so many is not searched further

Part = tuple[int, int, int, int]  # first byte, byte behind the last, birth, death of one tensor, relative to its block's start
Apart = list[list[tuple[int, int, int]]]


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


class Block(NamedTuple):
    """Tensors that move together.  A tuple, since a search plans dozens of them for every candidate."""

    parts: tuple[Part, ...]
    size: int
    birth: int
    death: int


def block(parts: Sequence[Part]) -> Block:
    if len(parts) == 1:
        return Block((parts[0],), *parts[0][1:])
    _, highs, births, deaths = zip(*parts)
    return Block(tuple(parts), max(highs), min(births), max(deaths))


def arena(graph: Graph) -> Arena:
    """Offsets (multiples of 64 bytes, pieces of a block closer) and the peak; nodes that run on the host have no tensor."""
    shared = sharing(graph)
    lives, place_of = shared.lives, shared.place
    lowest = {home: min([place_of[name][1] for name in names]) for home, names in shared.blocks.items()}
    blocks = [block([_part(lives[name], place_of[name][1] - lowest[home]) for name in names]) for home, names in shared.blocks.items()]
    live = live_bytes(blocks)
    starts = dict(zip(lowest, map(sub, place(blocks, live), lowest.values())))  # of byte 0 of each block's home
    offsets = {name: starts[home] + at for name, (home, at) in place_of.items()}
    sizes = {name: size for name, (size, _, _) in lives.items()}
    return Arena(offsets, sizes, max(map(add, offsets.values(), sizes.values())), max(live), shared.aliases)


def _part(life: Lifetime, low: int) -> Part:
    size, birth, death = life
    return low, low + size, birth, death


def live_bytes(blocks: Sequence[Block]) -> list[int]:
    """Bytes alive at each step, from step -1 (before any) on; the most of them is a lower bound of every placement."""
    change = [0] * (max(b.death for b in blocks) + 3)
    for parts, size, birth, death in blocks:
        if len(parts) == 1:
            change[birth + 1] += size
            change[death + 2] -= size
            continue
        before, by_place = 0, sorted(parts)
        for step in sorted({step for _, _, born, died in parts for step in (born, died + 1)}):
            now = reach = 0
            for low, high, born, died in by_place:
                if born <= step <= died and high > reach:
                    now += high - max(low, reach)
                    reach = high
            change[step + 1] += now - before
            before = now
    return list(accumulate(change))


def place(blocks: Sequence[Block], live: Sequence[int]) -> list[int]:
    """An aligned start for each block so that no two live parts overlap; `live` as from live_bytes.  Deterministic.

    First fit in order of the fullest step that a block lives to see.  Where its peak stays above the live bytes, squeaky wheel
    optimization (Joslin and Clements, JAIR 10, 1999): the block that reached too high comes earlier in the order, again
    and again; an order is given up at the first block that reaches the best peak so far, and what stands before the moved block stays.
    """
    fullest = [max(live[b.birth + 1 : b.death + 2]) for b in blocks]
    order = sorted(range(len(blocks)), key=lambda i: (-fullest[i], -blocks[i].size * (blocks[i].death - blocks[i].birth + 1)))
    sizes, apart, rng = [b.size for b in blocks], _apart(blocks), Random(len(blocks))
    enough = max(live) + max(live) // CLOSE
    starts, best, peak, first = [-1] * len(blocks), [], sum(sizes) + ALIGNMENT * len(sizes) + 1, 0
    for _ in range(TRIES):
        high = _first_fit(order, first, starts, sizes, apart, peak)
        if high < 0:
            best, peak = starts.copy(), max(map(add, starts, sizes))
            if peak <= enough:
                break
            high = max(order, key=lambda i: starts[i] + sizes[i])
        at = order.index(high)
        first = rng.randrange(at + 1)
        order.insert(first, order.pop(at))
        for i in order[first:]:
            starts[i] = -1
    return best


def _apart(blocks: Sequence[Block]) -> Apart:
    """apart[a]: (b, low, high) for each open interval low..high of start(a) - start(b) at which live parts of a and b would overlap."""
    apart: Apart = [[] for _ in blocks]
    alive: list[tuple[int, Block]] = []
    for a in sorted(range(len(blocks)), key=lambda i: blocks[i].birth):
        one = blocks[a]
        parts, size, birth, _ = one
        alive = [other for other in alive if other[1][3] >= birth]
        mine = apart[a]
        for b, (others, size2, _, _) in alive:
            if len(parts) == len(others) == 1:
                mine.append((b, -size, size2))
                apart[b].append((a, -size2, size))
                continue
            for low, high, born, died in parts:
                for low2, high2, born2, died2 in others:
                    if born <= died2 and born2 <= died:
                        mine.append((b, low2 - high, high2 - low))
                        apart[b].append((a, low - high2, high - low2))
        alive.append((a, one))
    return apart


def _first_fit(order: Sequence[int], first: int, starts: list[int], sizes: Sequence[int], apart: Apart, limit: int) -> int:
    """Gives order[first:] the lowest aligned starts beside what is placed (start >= 0); the first block to reach `limit`, or -1."""
    for i in order[first:]:
        start = 0
        for low, high in sorted([(starts[b] + low, starts[b] + high) for b, low, high in apart[i] if starts[b] >= 0]):
            if low >= start:
                break
            if high > start:
                start = -(-high // ALIGNMENT) * ALIGNMENT
        starts[i] = start
        if start + sizes[i] >= limit:
            return i
    return -1
