"""Bytes of tensors and weights on the device, and which tensors share memory.

The rule of sharing: two tensors may hold the same bytes at the same time only where these are the same channels of the same
producer, so nothing that is still to be read is ever overwritten.  Three things follow from it:
  slice, flatten      a view of the input, where the channels start at a whole group
  concat              each input written straight into its piece, where the piece is whole groups and no other use forbids it;
                      the inputs that cannot be are copied when the concat runs
  add, mul, ...       in place over an input of the same shape that nobody reads later
Groups are four channels (layout C4) for codes and one channel for floats.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from searchspaces.graph import Graph, Node, Ref
from searchspaces.ops import FLOAT_BITS, Shape

GROUP = 4  # channels of one C4 group: 4 codes, 4 bytes
ON_HOST = frozenset({"nms"})  # outside the arena
AFTER_MAPS = frozenset({"dfl_decode", *ON_HOST})  # behind the raw maps, at which the timed run of a network ends
IN_PLACE = frozenset({"add", "mul", "activation", "quantize"})
VIEWS = frozenset({"slice", "flatten"})

Segment = tuple[Ref, int, int]  # bytes first..first+count of what `producer` computes


def tensor_bytes(shape: Shape, bits: int) -> int:
    """Bytes of an activation: a byte a code in groups of four channels [ceil(C/4)][H][W][4], or planar float32 [C][H][W]."""
    plane = prod(shape[1:])
    return 4 * shape[0] * plane if bits == FLOAT_BITS else -(-shape[0] // GROUP) * GROUP * plane


def weight_bytes(node: Node, c_in: int) -> int:
    """Packed bytes of a weighted node's weights: one bit-packed row per output channel, rounded up to whole bytes."""
    row = c_in if node.op == "linear" else c_in // node.get("groups", 1) * node["kernel"] ** 2
    rows = node["features"] if node.op == "linear" else node["channels"]
    return rows * -(-row * node.get("wbits", FLOAT_BITS) // 8)


@dataclass(frozen=True, slots=True)
class Lifetime:
    """A tensor: its bytes and the first and last step (position in graph.nodes) at which they must stand; -1 is before any."""

    size: int
    birth: int
    death: int


def lifetimes(graph: Graph) -> dict[Ref, Lifetime]:
    """Every tensor that lies in the arena: the outputs of all nodes but those of ON_HOST."""
    end = len(graph.nodes)
    death: dict[Ref, int] = {}
    for step, node in enumerate(graph.nodes):
        death[node.name] = step
        for name in node.inputs:
            death[name] = max(death[name], end if node.op in ON_HOST else step)
    for name in graph.outputs:
        death[name] = end
    bits = graph.code_bits
    lives: dict[Ref, Lifetime] = {}
    for step, node in enumerate(graph.nodes):
        if node.op not in ON_HOST:
            stored = graph[node.inputs[0]] if node.op == "flatten" else node  # a flatten is its input under another name
            size = lives[stored.name].size if node.op == "flatten" else tensor_bytes(node.shape, bits[node.name])
            lives[node.name] = Lifetime(size, -1 if node.op == "input" else step, death[node.name])
    return lives


@dataclass(frozen=True)
class Sharing:
    """`place[name]` is (block, byte offset in that block); a block is tensors that move together.

    `aliases[node]` are those inputs of a node whose memory it shares: the pieces of a concat that need no copy, the input
    of a slice that is a view, the operand that a sum overwrites.  Nodes that share nothing are absent.
    """

    place: Mapping[Ref, tuple[int, int]]
    aliases: Mapping[Ref, tuple[Ref, ...]]

    def copied(self, node: Node) -> list[Ref]:
        """The inputs that a concat, slice or flatten really copies, in order."""
        shared = self.aliases.get(node.name, ())
        return [name for name in node.inputs if name not in shared]


def sharing(graph: Graph, overwriting: bool = True) -> Sharing:
    """Which tensors share memory; without `overwriting`, only those that are parts of one another."""
    blocks = _Blocks(graph, lifetimes(graph))
    blocks.take_in_parts()
    if overwriting:
        blocks.overwrite()
    return Sharing(blocks.place, blocks.aliases)


class _Blocks:
    """The tensors of a graph in blocks: each alone at first, then joined wherever the rule of sharing allows it."""

    def __init__(self, graph: Graph, lives: dict[Ref, Lifetime]) -> None:
        self.graph, self.lives = graph, lives
        self.place: dict[Ref, tuple[int, int]] = {name: (i, 0) for i, name in enumerate(lives)}
        self.members: dict[int, list[Ref]] = {i: [name] for i, name in enumerate(lives)}
        self.holds: dict[Ref, tuple[Segment, ...]] = {name: ((name, 0, life.size),) for name, life in lives.items()}
        self.aliases: dict[Ref, tuple[Ref, ...]] = {}

    def take_in_parts(self) -> None:
        for node in self.graph.nodes:
            if node.op == "concat":
                self._concat(node)
            elif node.op in VIEWS:
                self._view(node)

    def overwrite(self) -> None:
        for node in self.graph.nodes:
            if node.op in IN_PLACE:
                self._in_place(node)

    def _view(self, node: Node) -> None:
        x = node.inputs[0]
        start = 0 if node.op == "flatten" else self._piece_start(node, node["start"], x)
        if start is None:
            return
        self.holds[node.name] = _part(self.holds[x], start, self.lives[node.name].size)
        if self._join(node.name, x, start):
            self.aliases[node.name] = (x,)

    def _concat(self, node: Node) -> None:
        """Take in every input that can lie in its piece; those of one block (the two slices of a C2f) come together."""
        pieces, channel = [], 0
        for x in node.inputs:
            start = self._piece_start(node, channel, x) if node.inputs.count(x) == 1 else None
            channel += self.graph[x].shape[0]
            if start is not None and (channel % GROUP == 0 or channel == node.shape[0] or not self._codes(x)):
                pieces.append((x, start))
        shared: list[Ref] = []
        for x, start in pieces:
            if x in shared:
                continue
            block, at = self.place[x]
            together = [(y, s) for y, s in pieces if self.place[y] == (block, at + s - start)]
            before = self.holds[node.name]
            for y, s in together:
                self._take_piece(node, y, s)
            if self._join(x, node.name, start):
                shared += [y for y, _ in together]
            else:
                self.holds[node.name] = before
        if shared:
            self.aliases[node.name] = tuple(dict.fromkeys(shared))

    def _in_place(self, node: Node) -> None:
        mine = self.lives[node.name]
        for x in node.inputs:
            same = self.graph[x].shape == node.shape and self._codes(x) == self._codes(node.name)
            if same and self.lives[x].death == mine.birth and self._join(node.name, x, 0, overwrites=True):
                self.aliases[node.name] = (x,)
                return

    def _codes(self, name: Ref) -> bool:
        return self.graph.code_bits[name] < FLOAT_BITS

    def _piece_start(self, node: Node, channel: int, x: Ref) -> int | None:
        """Byte at which a channel starts; None where it cuts a group, or where input and output are stored differently."""
        if self._codes(x) != self._codes(node.name) or (self._codes(x) and channel % GROUP):
            return None
        return channel * prod(node.shape[1:]) * (1 if self._codes(x) else 4)

    def _take_piece(self, node: Node, x: Ref, start: int) -> None:
        """A concat holds x's own bytes from `start` on, once x lies in place there."""
        rest, before = start + self.lives[x].size, self.holds[node.name]
        self.holds[node.name] = (*_part(before, 0, start), *self.holds[x], *_part(before, rest, self.lives[node.name].size - rest))

    def _join(self, a: Ref, b: Ref, offset: int, overwrites: bool = False) -> bool:
        """Lay `a` at `offset` bytes after the start of `b`, with everything that moves along; False where that is not allowed."""
        (block_a, at_a), (block_b, at_b) = self.place[a], self.place[b]
        shift = at_b + offset - at_a
        if block_a == block_b:
            return shift == 0
        for u in self.members[block_a]:
            for v in self.members[block_b]:
                if not (overwrites and u == a and v == b) and self._clash(u, v, self.place[u][1] + shift - self.place[v][1]):
                    return False
        for u in self.members.pop(block_a):
            self.place[u] = (block_b, self.place[u][1] + shift)
            self.members[block_b].append(u)
        return True

    def _clash(self, u: Ref, v: Ref, offset: int) -> bool:
        """Would u, `offset` bytes after v, share bytes with v at some step while the two hold different values there?"""
        one, two = self.lives[u], self.lives[v]
        if one.death < two.birth or two.death < one.birth:
            return False
        low, high = max(offset, 0), min(offset + one.size, two.size)
        if low >= high:
            return False
        return _part(self.holds[u], low - offset, high - low) != _part(self.holds[v], low, high - low)


def _part(held: tuple[Segment, ...], start: int, count: int) -> tuple[Segment, ...]:
    """Bytes start..start+count of a sequence of segments; neighbours that continue each other become one."""
    out: list[Segment] = []
    at = 0
    for producer, first, length in held:
        low, high = max(start, at), min(start + count, at + length)
        if low < high:
            begin = first + low - at
            if out and out[-1][0] == producer and out[-1][1] + out[-1][2] == begin:
                out[-1] = (producer, out[-1][1], out[-1][2] + high - low)
            else:
                out.append((producer, begin, high - low))
        at += length
    return tuple(out)
