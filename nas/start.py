"""What a training takes from model files: start weights and a teacher."""

from __future__ import annotations

from pathlib import Path

from nas.model import is_model, load
from nas.train import TrainError, inherit, start_from
from searchspaces import Graph, Weights
from searchspaces.module import GraphModule, to_torch
from searchspaces.quantizers import floated


def started(path: Path, graph: Graph, weights: Weights) -> tuple[Weights, str]:
    """Start weights for a float graph from a file, and what of them the file gave: one of our float models gives what it shares with the
    net, layer by layer and channel by channel; any other file whole arrays."""
    if is_model(path) and (donor := load(path)).stage == "float":
        inherited = inherit(graph, weights, floated(donor.graph), donor.weights)
        if inherited.share > 0:
            return inherited.weights, f"{inherited.share:.0%} of the weights from the layers of {path}"
    found = start_from(path, graph, weights)
    return found.weights, found.text()


def teacher_from(path: Path, graph: Graph, classes: tuple[str, ...]) -> GraphModule:
    """A float model whose raw maps have the shapes of those of `graph`.  Raises TrainError where something differs."""
    model = load(path)
    if model.stage != "float":
        raise TrainError(f"the teacher {path} is quantized; the float model that it came from teaches better")
    if model.classes != classes:
        raise TrainError(f"the teacher {path} knows the classes {', '.join(model.classes)}; the data has {', '.join(classes)}")
    theirs, ours = (_maps(g) for g in (model.graph, graph))
    if theirs != ours:
        raise TrainError(f"the teacher {path} gives {theirs}; this net gives {ours}: input size, strides and bins must be equal")
    net = to_torch(floated(model.graph), model.weights)
    return net.requires_grad_(False)


def _maps(graph: Graph) -> str:
    last = graph[graph.outputs[0]]
    if last.op != "dfl_decode":
        return "no maps of a detector"
    size = "x".join(map(str, graph.of("input")[0].shape[1:]))
    return f"maps at strides {', '.join(map(str, last['strides']))} with {last['bins']} bins from images of {size}"
