"""Ways through a GraphModule that forward hooks cannot go: node by node with any kind of value, and the landmarks of a detector."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from proxies.errors import ProxyError
from searchspaces import Graph, Node
from searchspaces.module import ACT, GraphModule, merged_start, to_torch
from searchspaces.ops import WEIGHTED
from searchspaces.quantizers import quantized
from searchspaces.rewrite import merge_rep

Visit = Callable[[Node, Callable[..., Tensor], list[Any]], Any]
_RAISING = frozenset({"upsample", "conv_transpose2d"})  # where a neck begins


def run_node(node: Node, run: Callable[..., Tensor], inputs: list[Any]) -> Any:
    """The visit that is an ordinary forward pass."""
    y = run(*inputs)
    return ACT[node["act"]](y) if "act" in node.attrs else y


def walk(model: GraphModule, images: Any, visit: Visit, wanted: Sequence[str] = ()) -> Mapping[str, Any]:
    """Runs the graph with `visit(node, run, inputs) -> value` in place of each node; `run` is the node's function of tensors.

    Returns the values of the `wanted` nodes, default the raw maps or outputs; what they do not depend on is not run, and a
    value is dropped after its last use.
    """
    graph = model.graph
    wanted = tuple(wanted) or tuple(model.maps or graph.outputs)
    needed = ancestors(graph, wanted)
    last_use = {name: node.name for node in graph if node.name in needed for name in node.inputs}
    functions = {name: run for name, run, *_ in model._steps}
    values: dict[str, Any] = {node.name: images for node in graph.of("input")}
    for node in graph:
        if node.name not in needed or node.op == "input":
            continue
        values[node.name] = visit(node, functions[node.name], [values[x] for x in node.inputs])
        for x in set(node.inputs):
            if last_use[x] == node.name and x not in wanted:
                del values[x]
    return {name: values[name] for name in wanted}


def ancestors(graph: Graph, names: Iterable[str]) -> set[str]:
    """The nodes that these depend on, themselves included."""
    found = set(names)
    for node in reversed(graph.nodes):
        if node.name in found:
            found.update(node.inputs)
    return found


def common_dominators(graph: Graph, names: Sequence[str]) -> list[str]:
    """The nodes that every path from the image to each of `names` goes through, in order."""
    through: dict[str, frozenset[str]] = {}
    for node in graph:
        before = frozenset.intersection(*(through[x] for x in node.inputs)) if node.inputs else frozenset[str]()
        through[node.name] = before | {node.name}
    shared = frozenset.intersection(*(through[name] for name in names))
    return [node.name for node in graph if node.name in shared]


def head_inputs(model: GraphModule) -> list[str]:
    """The map that each level of the head reads, finest first: the last one on the way to both its boxes and its scores.  The
    outputs of a graph that is no detector.
    """
    if not model.maps:
        return list(model.graph.outputs)
    return [common_dominators(model.graph, pair)[-1] for pair in zip(model.maps[::2], model.maps[1::2])]


def trunk(model: GraphModule) -> list[str]:
    """The outputs of the blocks that follow one another from the image to the top of the backbone, which is where a map is first
    enlarged: activations and sums that everything flows through.
    """
    graph = model.graph
    raising = [node for node in graph if node.op in _RAISING]
    top = raising[0].inputs[0] if raising else head_inputs(model)[-1]
    names = [x for x in common_dominators(graph, [top]) if graph[x].op in ("activation", "add") and not graph[x].get("rep")]
    if len(names) < 2:
        raise ProxyError(f"this network has {len(names)} blocks in a row before its neck; 2 are needed")
    return names


def weighted_layers(model: GraphModule) -> dict[str, nn.Module]:
    """Node name -> module of every conv, transposed conv and linear.  Their `weight`s are what saliency proxies sum over: biases,
    batch-norms, learned scalars and the fixed projection of DFL (no parameter of ours) are not scored, as in the papers.
    """
    return {node.name: model.layers[node.name.replace(".", "/")] for node in model.graph.of(*WEIGHTED)}


def without_biases(model: GraphModule) -> None:
    for layer in weighted_layers(model).values():
        if layer._parameters.get("bias") is not None:
            layer._parameters["bias"] = None


def weights_of(model: GraphModule) -> list[Tensor]:
    return [layer.get_parameter("weight") for layer in weighted_layers(model).values()]


def merged(model: GraphModule, images: Tensor) -> GraphModule:
    """The model, after it has seen `images` once, with the branches of re-parameterizable blocks merged; itself where there are none."""
    if not any(node.get("rep") for node in model.graph.of("add")):
        return model
    model(images)
    return channels_last(to_torch(*merge_rep(model.graph, model.weights()))).train(model.training)


def quantized_start(graph: Graph, images: Tensor) -> GraphModule:
    """What quantized training begins with: fake-quantizers on the graph with its rep branches merged, start weights from torch's seed."""
    if not any(node.get("rep") for node in graph.of("add")):
        return to_torch(quantized(graph))
    one, weights = merged_start(graph, images)
    return to_torch(quantized(one), weights)


def channels_last(model: GraphModule) -> GraphModule:
    """The model with its weights laid out as oneDNN likes them: up to twice as fast where channels are few.

    For forward passes alone: in torch 2.13 the weight gradient of a 1x1 conv of stride 2 with 16 outputs, the first of a small
    YOLOv6, writes outside its memory in this layout.
    """
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
