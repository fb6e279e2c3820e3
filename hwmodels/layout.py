"""Bytes of tensors and weights on the device, and which tensors share memory.

The rule of sharing: two tensors may hold the same bytes at the same time only where these are the same channels of the same
producer, so nothing that is still to be read is ever overwritten.  Three things follow from it:
  slice, flatten      a view of the input, where the channels start at a whole group
  concat              each input written straight into its piece, where the piece is whole groups and no other use forbids it;
                      the inputs that cannot be are copied when the concat runs
  add, mul, ...       in place over an input of the same shape that nobody reads later
Groups are four channels (layout C4) for codes and one channel for floats.  csrc/planner/share.cpp applies the rule.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from math import prod
from typing import Any

from hwmodels.errors import DeviceError
from searchspaces.graph import Graph, Node, Ref
from searchspaces.ops import FLOAT_BITS

ON_HOST = frozenset({"nms"})  # outside the arena
AFTER_MAPS = frozenset({"dfl_decode", *ON_HOST})  # behind the raw maps, at which the timed run of a network ends
IN_PLACE = frozenset({"add", "mul", "activation", "quantize"})
# What the planner knows of operators, as csrc/planner/planner.h numbers it; 0 is any other.
_KIND = {"input": 1, "concat": 2, "slice": 3, "flatten": 4, **dict.fromkeys(IN_PLACE, 5), **dict.fromkeys(ON_HOST, 6)}


def weight_bytes(node: Node, c_in: int) -> int:
    """Packed bytes of a weighted node's weights: one bit-packed row per output channel, rounded up to whole bytes."""
    attrs = node.attrs
    if node.op == "linear":
        row, rows = c_in, attrs["features"]
    else:
        row, rows = c_in // attrs.get("groups", 1) * attrs["kernel"] ** 2, attrs["channels"]
    return rows * -(-row * attrs.get("wbits", FLOAT_BITS) // 8)


@cache
def planner() -> Any:
    """The compiled planner; raises DeviceError saying how to build it where it is missing."""
    try:
        return importlib.import_module("hwmodels._planner")
    except ImportError as error:
        raise DeviceError(
            f"the arena planner hwmodels._planner is not built ({error}); install a C++20 compiler (Debian: g++, macOS: "
            "xcode-select --install) and run: pip install -e ."
        ) from error


@dataclass(frozen=True)
class Sharing:
    """Bytes of every tensor, and which share memory, by what the planner found.

    `layout` is the planner's: it places the tensors (hwmodels.memory) and knows what each operator moves (hwmodels.workload).
    """

    nodes: tuple[Node, ...]
    layout: Any

    @cached_property
    def sizes(self) -> Mapping[Ref, int]:
        return dict(zip([node.name for node in self.nodes], self.layout.sizes))

    @cached_property
    def aliases(self) -> Mapping[Ref, tuple[Ref, ...]]:
        """Those inputs of a node whose memory it shares: the pieces of a concat that need no copy, the input of a slice that is a view,
        the operand that a sum overwrites.  Nodes that share nothing are absent."""
        found = zip(self.nodes, self.layout.aliases)
        return {node.name: tuple([self.nodes[x].name for x in shared]) for node, shared in found if shared}


@lru_cache(maxsize=1)  # the workload and the arena of a candidate are asked for one after the other
def sharing(graph: Graph) -> Sharing:
    """Which tensors of a graph share memory."""
    bits = graph.code_bits
    number: dict[Ref, int] = {}
    flat: list[int] = []  # nodes as csrc/bindings/planner.cpp reads them
    for node in graph.nodes:
        name, op, inputs, shape = node.name, node.op, node.inputs, node.shape
        codes, kind = bits[name] < FLOAT_BITS, _KIND.get(op, 0)
        plane = shape[1] * shape[2] if len(shape) == 3 else prod(shape[1:])
        first = node.attrs["start"] if op == "slice" else 0
        flat += (kind, codes, plane if codes else 4 * plane, shape[0], first, len(inputs), *[number[x] for x in inputs])
        number[name] = len(number)
    layout = planner().Layout(flat, [number[name] for name in graph.outputs])
    return Sharing(graph.nodes, layout)
