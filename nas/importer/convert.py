"""convert(trace) -> (Graph, Weights): the calls of a Trace one after the other, each by its row in nas.importer.operators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nas.compiler.passes import per_channel
from nas.importer.conversion import Conversion, Operand
from nas.importer.errors import ImporterError
from nas.importer.fold import FOLD
from nas.importer.operators import HINTS, OPERATORS
from nas.importer.trace import Array, Call, Trace, Value
from searchspaces.graph import Builder, Graph, Ref, verify
from searchspaces.ops import WEIGHTED, GraphError
from searchspaces.rewrite import norm_affine
from searchspaces.weights import Weights

# An operator whose result lies in the memory of its first argument, so that writing over one changes the other.
_SHARES = frozenset({
    "alias", "chunk", "contiguous", "detach", "dropout", "expand", "flatten", "permute", "reshape", "slice", "split", "split_with_sizes",
    "squeeze", "t", "to", "transpose", "unsqueeze", "view",
})  # fmt: skip


@dataclass(frozen=True)
class Decode:
    """How a detector's raw maps become boxes: for each stride a map of 4 * bins box logits (sides l, t, r, b) and one of class logits,
    as two outputs or as one with the boxes first.  `bins` are those of distribution focal loss (arXiv:2006.04388).
    """

    strides: tuple[int, ...]
    classes: int
    bins: int = 16


def convert(trace: Trace, *, mean: Sequence[float] | None = None, std: Sequence[float] | None = None, decode: Decode | None = None,
            bits: tuple[int, int] = (8, 8)) -> tuple[Graph, Weights]:
    """The Graph and float Weights of a Trace; arguments as those of import_module."""
    c = Conversion(trace, bits)
    _image(c, mean, std)
    memory = _Memory(c)
    for number, call in enumerate(trace.calls):
        results = _results(c, call)
        for name, result in zip(call.results, results):
            _check(c, call, name, result)
        memory.write(number, call, results)
        c.values.update(zip(call.results, results))
    return _finished(c, decode)


def _image(c: Conversion, mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
    """The input, and the normalization that the module expects to be done before it."""
    shape = c.trace.shapes[c.trace.images]
    if len(shape) != 4:
        raise ImporterError(f"the net takes a tensor of shape {shape}; a batch of images (N, C, H, W) works")
    image = c.g.append("images", "input", (), {"size": shape[1:], "abits": c.bits[1]})
    if mean is not None or std is not None:
        means, stds = (_per_channel(given, shape[1], rest) for given, rest in ((mean, 0.0), (std, 1.0)))
        image = c.affine(Call("normalize", {}, ()), image, 1 / stds, -means / stds)
    c.values[c.trace.images] = image


def _per_channel(given: Sequence[float] | None, channels: int, rest: float) -> Array:
    values = np.full(channels, rest) if given is None else np.asarray(given, np.float64)
    if values.shape not in ((), (1,), (channels,)):
        raise ImporterError(f"{values.size} means or standard deviations for {channels} channels: give one, or one a channel")
    return np.broadcast_to(values, (channels,))


def _results(c: Conversion, call: Call) -> list[Operand]:
    """The nodes of one call, or the constants that it computes."""
    if call.op in FOLD and all(not isinstance(c.values[name], str) for name in _tensors(call)):
        return [FOLD[call.op]({role: _resolved(c, arg) for role, arg in call.args.items()})]
    if call.op not in OPERATORS:
        raise ImporterError(f"{call.where} has no counterpart in a Graph; {HINTS.get(call.op) or 'what has: ' + ', '.join(OPERATORS)}")
    try:
        return OPERATORS[call.op](c, call)
    except GraphError as fault:
        raise ImporterError(f"{call.where}: {fault}") from None


def _resolved(c: Conversion, arg: Any) -> Any:
    if isinstance(arg, Value):
        return c.values[arg]
    return [_resolved(c, entry) for entry in arg] if isinstance(arg, list) else arg


def _tensors(call: Call) -> list[Value]:
    flat = [entry for arg in call.args.values() for entry in (arg if isinstance(arg, list) else [arg])]
    return [entry for entry in flat if isinstance(entry, Value)]


def _check(c: Conversion, call: Call, name: Value, result: Operand) -> None:
    """That a result has the shape which torch saw."""
    wanted = c.trace.shapes.get(name, ())
    found = (*wanted[:1], *c.g.shapes[result]) if isinstance(result, str) else result.shape
    if found != wanted and found != (0,):
        raise ImporterError(f"{call.where} gives shape {wanted}, and its counterpart in a Graph would give {found}")


class _Memory:
    """Which tensors of a trace lie in the same memory, so that a call that writes over one changes the others."""

    def __init__(self, c: Conversion) -> None:
        self.values = c.values
        self.roots: dict[str, str] = {}
        self.last_use: dict[str, int] = {}
        for step, call in enumerate(c.trace.calls):
            self.last_use |= dict.fromkeys(_tensors(call), step)
        self.last_use |= dict.fromkeys(c.trace.outputs, len(c.trace.calls))

    def write(self, step: int, call: Call, results: list[Operand]) -> None:
        """Every later reader of what `call` writes over sees the new values."""
        target = next(iter(call.args.values()), None)
        if not isinstance(target, Value):
            return
        root, before = self.roots.get(target, target), self.values[target]
        for name in [name for name in self.values if self.roots.get(name, name) == root] if call.overwrites else []:
            if self.last_use.get(name, -1) <= step:
                continue
            if self.values[name] is not before:
                raise ImporterError(f"{call.where} writes over a part of a tensor that is read again later; make it not inplace")
            self.values[name] = results[0]
        if call.overwrites or call.op in _SHARES:
            self.roots |= dict.fromkeys(call.results, root)


def _finished(c: Conversion, decode: Decode | None) -> tuple[Graph, Weights]:
    """What the outputs need of the graph, simplified and verified, and its weights."""
    outputs: list[Ref] = []
    for name in c.trace.outputs:
        value = c.values[name]
        if not isinstance(value, str):
            raise ImporterError(f"output '{name}' is a constant; it must depend on the image")
        outputs.append(value)
    if decode is not None:
        outputs = [_decoded(c.g, outputs, decode, c.bits)]
    graph, weights = _merge_affines(_reachable(c.g.graph(*outputs)), Weights(c.arrays), c.affines)
    for node in graph.of("batchnorm"):
        if len(node.shape) != 3:
            raise ImporterError(f"{c.where[node.name]}: arithmetic on a vector works right behind a linear that only it reads")
    verify(graph, after="import")
    kept = {node.name for node in graph}
    return graph, Weights({name: array for name, array in weights.arrays().items() if name.rpartition(".")[0] in kept})


def _reachable(graph: Graph) -> Graph:
    """The nodes that an output depends on, and the input."""
    needed = set(graph.outputs)
    for node in reversed(graph.nodes):
        if node.name in needed:
            needed.update(node.inputs)
    return Graph(tuple(node for node in graph.nodes if node.name in needed or node.op == "input"), graph.outputs)


def _merge_affines(graph: Graph, weights: Weights, affines: set[Ref]) -> tuple[Graph, Weights]:
    """Arithmetic with constants becomes part of the layer before it, where it is the only reader of that; so does a vector's batch-norm.

    before  x -> conv(w, b) -> batchnorm(gamma, beta) -> * gain + shift
    after   x -> conv(w, b) -> batchnorm(gamma * gain, beta * gain + shift);  of a conv or linear, w and b are scaled
    What multiplies with 1 in the end (/ 6 after * 6) goes.
    """
    for name in [node.name for node in graph.of("conv2d", "batchnorm")]:
        node = graph[name]
        before = graph[node.inputs[0]]
        vector = node.op == "batchnorm" and len(node.shape) == 1
        if not (node.name in affines or vector) or graph.readers(before.name) != [node] or before.name in graph.outputs:
            continue
        gain, shift = norm_affine(weights, node) if vector else (weights[node, "weight"].reshape(-1), weights[node, "bias"])
        if before.op == "batchnorm" and not vector:
            changed = {"gamma": weights[before, "gamma"] * gain, "beta": weights[before, "beta"] * gain + shift}
        elif before.op in WEIGHTED:
            w = weights[before, "weight"]
            changed = {"weight": w * per_channel(before, gain, w.ndim), "bias": weights.get(before, "bias", 0.0) * gain + shift}
            before = before.having(bias=True)
        else:
            continue
        weights = weights.edited({(before, role): value.astype(np.float32) for role, value in changed.items()}, [node])
        graph = graph.edited({before.name: before}, {node.name: before.name})
        if before.name in affines and np.allclose(changed["weight"], 1, atol=1e-6) and not changed["bias"].any():
            graph, weights = graph.edited(gone={before.name: before.inputs[0]}), weights.edited({}, [before])
    return graph, weights


def _decoded(g: Builder, outputs: Sequence[Ref], decode: Decode, bits: tuple[int, int]) -> Ref:
    """The decode of maps that are found among the outputs by their size and channels."""
    box, cls = 4 * decode.bins, decode.classes
    height = next(node for node in g.nodes if node.op == "input").shape[1]
    producers = {node.name: node for node in g.nodes}
    maps: list[Ref] = []
    for stride in decode.strides:
        found = [ref for ref in outputs if len(g.shapes[ref]) == 3 and g.shapes[ref][1] * stride == height]
        channels = [g.shapes[ref][0] for ref in found]
        if channels == [box + cls]:
            joined = producers[found[0]]
            if joined.op == "concat" and [g.shapes[x][0] for x in joined.inputs] == [box, cls]:
                maps += joined.inputs
            else:
                for role, start, stop in (("box", 0, box), ("cls", box, box + cls)):
                    maps.append(g.append(f"{found[0]}.{role}", "slice", (found[0],), {"start": start, "stop": stop, "abits": bits[1]}))
        elif channels in ([box, cls], [cls, box]):
            maps += found if channels == [box, cls] else found[::-1]
        else:
            shapes = ", ".join(str(g.shapes[ref]) for ref in outputs)
            raise ImporterError(f"no maps for stride {stride} among the outputs {shapes}: {box} box and {cls} class channels are needed at "
                                f"height {height / stride:g}, as two outputs or one; without decode the outputs stay as they are")
    attrs = {"strides": decode.strides, "bins": decode.bins, "classes": cls, "abits": bits[1]}
    return g.append("decode", "dfl_decode", tuple(maps), attrs)
