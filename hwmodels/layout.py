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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from math import prod

from searchspaces.graph import Graph, Node, Ref
from searchspaces.ops import FLOAT_BITS, Shape

GROUP = 4  # channels of one C4 group: 4 codes, 4 bytes
ON_HOST = frozenset({"nms"})  # outside the arena
AFTER_MAPS = frozenset({"dfl_decode", *ON_HOST})  # behind the raw maps, at which the timed run of a network ends
IN_PLACE = frozenset({"add", "mul", "activation", "quantize"})
VIEWS = frozenset({"slice", "flatten"})

Segment = tuple[Ref, int, int]  # bytes first..first+count of what `producer` computes
Lifetime = tuple[int, int, int]  # bytes of a tensor, first and last step (position in graph.nodes) at which they stand; -1 is before any


def tensor_bytes(shape: Shape, bits: int) -> int:
    """Bytes of an activation: a byte a code in groups of four channels [ceil(C/4)][H][W][4], or planar float32 [C][H][W]."""
    if bits == FLOAT_BITS:
        return 4 * prod(shape)
    return -(-shape[0] // GROUP) * GROUP * prod(shape[1:])


def weight_bytes(node: Node, c_in: int) -> int:
    """Packed bytes of a weighted node's weights: one bit-packed row per output channel, rounded up to whole bytes."""
    row = c_in if node.op == "linear" else c_in // node.get("groups", 1) * node["kernel"] ** 2
    rows = node["features"] if node.op == "linear" else node["channels"]
    return rows * -(-row * node.get("wbits", FLOAT_BITS) // 8)


def lifetimes(graph: Graph) -> dict[Ref, Lifetime]:
    """Every tensor that lies in the arena: the outputs of all nodes but those of ON_HOST."""
    end, bits = len(graph.nodes), graph.code_bits
    death: dict[Ref, int] = {}
    for step, node in enumerate(graph.nodes):
        death[node.name] = step
        for name in node.inputs:
            death[name] = step
    for name in chain(graph.outputs, *[node.inputs for node in graph.of(*ON_HOST)]):
        death[name] = end
    lives: dict[Ref, Lifetime] = {}
    for step, node in enumerate(graph.nodes):
        name = node.name
        if node.op == "flatten":  # its input under another name
            lives[name] = (lives[node.inputs[0]][0], step, death[name])
        elif node.op not in ON_HOST:
            lives[name] = (tensor_bytes(node.shape, bits[name]), -1 if node.op == "input" else step, death[name])
    return lives


@dataclass(frozen=True)
class Sharing:
    """Tensors in blocks that move together: `blocks` are their members, `place[name]` is (block, byte offset in that block).

    `aliases[node]` are those inputs of a node whose memory it shares: the pieces of a concat that need no copy, the input
    of a slice that is a view, the operand that a sum overwrites.  Nodes that share nothing are absent.
    """

    lives: Mapping[Ref, Lifetime]
    blocks: Mapping[Ref, Sequence[Ref]]
    place: Mapping[Ref, tuple[Ref, int]]
    aliases: Mapping[Ref, tuple[Ref, ...]]

    def copied(self, node: Node) -> list[Ref]:
        """The inputs that a concat, slice or flatten really copies, in order."""
        shared = self.aliases.get(node.name, ())
        return [name for name in node.inputs if name not in shared]


@lru_cache(maxsize=1)  # the workload and the arena of a candidate are asked for one after the other
def sharing(graph: Graph) -> Sharing:
    """Which tensors of a graph share memory."""
    blocks = _Blocks(graph, lifetimes(graph))
    blocks.take_in_parts()
    blocks.overwrite()
    return Sharing(blocks.lives, blocks.members, blocks.place, blocks.aliases)


class _Blocks:
    """The tensors of a graph in blocks: each alone at first, then joined wherever the rule of sharing allows it."""

    def __init__(self, graph: Graph, lives: dict[Ref, Lifetime]) -> None:
        self.graph, self.lives, self.bits = graph, lives, graph.code_bits
        self.place: dict[Ref, tuple[Ref, int]] = {name: (name, 0) for name in lives}
        self.members: dict[Ref, list[Ref]] = {name: [name] for name in lives}
        self.holds: dict[Ref, tuple[Segment, ...]] = {}  # of what others computed; absent tensors hold all their own
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
        if node.op == "slice" and not self._begins_group(node, node["start"], x):
            return
        start = node["start"] * self._plane_bytes(node) if node.op == "slice" else 0
        self.holds[node.name] = _part(self._held(x), start, self.lives[node.name][0])
        if self._join(node.name, x, start):
            self.aliases[node.name] = (x,)

    def _concat(self, node: Node) -> None:
        """Take in every input that can lie in its piece; those of one block (the two slices of a C2f) come together."""
        pieces, channel, plane = [], 0, self._plane_bytes(node)
        for x in node.inputs:
            end = channel + self.graph[x].shape[0]
            whole = self._begins_group(node, channel, x) and (end % GROUP == 0 or end == node.shape[0] or not self._codes(x))
            if whole and node.inputs.count(x) == 1:
                pieces.append((x, channel * plane))
            channel = end
        shared: list[Ref] = []
        for x, start in pieces:
            if x in shared:
                continue
            block, at = self.place[x]
            together = [(y, s) for y, s in pieces if self.place[y] == (block, at + s - start)]
            before = self._held(node.name)
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
            if same and self.lives[x][2] == mine[1] and self._join(node.name, x, 0, overwrites=True):
                self.aliases[node.name] = (x,)
                return

    def _codes(self, name: Ref) -> bool:
        return self.bits[name] < FLOAT_BITS

    def _held(self, name: Ref) -> tuple[Segment, ...]:
        return self.holds.get(name) or ((name, 0, self.lives[name][0]),)

    def _begins_group(self, node: Node, channel: int, x: Ref) -> bool:
        """Does a channel of node or x start at a whole group in both?  False too where the two are stored differently."""
        codes = self._codes(x)
        return codes == self._codes(node.name) and not (codes and channel % GROUP)

    def _plane_bytes(self, node: Node) -> int:
        return prod(node.shape[1:]) * (1 if self._codes(node.name) else 4)

    def _take_piece(self, node: Node, x: Ref, start: int) -> None:
        """A concat holds x's own bytes from `start` on, once x lies in place there."""
        rest, before = start + self.lives[x][0], self._held(node.name)
        self.holds[node.name] = (*_part(before, 0, start), *self._held(x), *_part(before, rest, self.lives[node.name][0] - rest))

    def _join(self, a: Ref, b: Ref, offset: int, overwrites: bool = False) -> bool:
        """Lay `a` at `offset` bytes after the start of `b`, with everything that moves along; False where that is not allowed."""
        (block_a, at_a), (block_b, at_b) = self.place[a], self.place[b]
        shift = at_b + offset - at_a
        if block_a == block_b:
            return shift == 0
        moved, there = self.members[block_a], self.members[block_b]
        for u in moved:
            at, (size, birth, death) = self.place[u][1] + shift, self.lives[u]
            for v in there:
                size2, birth2, death2 = self.lives[v]
                low = at - self.place[v][1]  # u begins so many bytes after v
                if birth <= death2 and birth2 <= death and low < size2 and low > -size and not (overwrites and u == a and v == b):
                    first, count = max(low, 0), min(low + size, size2) - max(low, 0)
                    if _part(self._held(u), first - low, count) != _part(self._held(v), first, count):
                        return False  # at some step the two hold different values in the bytes that they would share
        for u in moved:
            self.place[u] = (block_b, self.place[u][1] + shift)
        there += self.members.pop(block_a)
        return True


def _part(held: tuple[Segment, ...], start: int, count: int) -> tuple[Segment, ...]:
    """Bytes start..start+count of a sequence of segments; neighbours that continue each other become one."""
    if count <= 0:
        return ()
    if len(held) == 1:
        ((producer, first, _),) = held
        return ((producer, first + start, count),)
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
