"""to_torch(graph) -> nn.Module: the only way from a Graph to torch.  The module interprets the graph, node by node.

With fakequant.py, the only files of searchspaces that import torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from searchspaces.fakequant import ActivationQuantizer, WeightQuantizer, set_mode
from searchspaces.graph import Graph, Node
from searchspaces.ops import FLOAT_BITS, LEAKY_SLOPE, GraphError
from searchspaces.quantizers import floated
from searchspaces.rewrite import merge_rep
from searchspaces.weights import Weights

BN_MOMENTUM = 0.03
ACT: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "leaky_relu": lambda x: F.leaky_relu(x, LEAKY_SLOPE),
    "hardswish": F.hardswish,
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "gelu": F.gelu,
}


class Weighted(nn.Module):
    """conv2d, conv_transpose2d or linear, with a weight quantizer where the node has fewer than 32 bits."""

    def __init__(self, node: Node, c_in: int) -> None:
        super().__init__()
        self.node = node
        if node.op == "linear":
            layer: nn.Linear | nn.Conv2d | nn.ConvTranspose2d = nn.Linear(c_in, node["features"], bias=node.get("bias", False))
        else:
            kind = nn.Conv2d if node.op == "conv2d" else nn.ConvTranspose2d
            layer = kind(c_in, node["channels"], node["kernel"], node.get("stride", 1), node.get("padding", 0),
                         groups=node.get("groups", 1), bias=node.get("bias", False))
        self.weight: Tensor = layer.weight
        self.bias: Tensor | None = layer.bias
        bits = node.get("wbits", FLOAT_BITS)
        axis = 1 if node.op == "conv_transpose2d" else 0
        self.quantizer = WeightQuantizer(bits, self.weight.shape[axis], axis) if bits < FLOAT_BITS else None

    def forward(self, x: Tensor) -> Tensor:
        node, w = self.node, self.weight if self.quantizer is None else self.quantizer(self.weight)
        if node.op == "linear":
            return F.linear(x, w, self.bias)
        if node.op == "conv_transpose2d":
            return F.conv_transpose2d(x, w, self.bias, node["stride"])
        stride = node.get("stride", 1)
        if node["kernel"] == 1 < stride and not node.get("padding"):
            # The same sums.  torch 2.13's float32 weight gradient of this conv in channels_last writes outside its memory.
            x, stride = x[..., ::stride, ::stride], 1
        return F.conv2d(x, w, self.bias, stride, node.get("padding", 0), groups=node.get("groups", 1))


class _Scale(nn.Module):
    """A learnable scalar, 1 at the start."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.value


def _plain(node: Node) -> Callable[..., Tensor]:
    """The function of a node without parameters, over tensors with a batch."""
    match node.op:
        case "activation":
            return ACT[node["kind"]]
        case "add":
            return lambda *xs: sum(xs[1:], xs[0])
        case "mul":
            return torch.mul
        case "concat":
            return lambda *xs: torch.cat(xs, 1)
        case "slice":
            return lambda x: x[:, node["start"]: node["stop"]]
        case "upsample":
            return lambda x: F.interpolate(x, scale_factor=node["factor"], mode="nearest")
        case "maxpool":
            return lambda x: F.max_pool2d(x, node["kernel"], node.get("stride", 1), node.get("padding", 0))
        case "global_avgpool":
            return lambda x: x.mean((2, 3), keepdim=True)
        case "flatten":
            return lambda x: x.flatten(1)
        case "softmax":
            return lambda x: x.softmax(node.get("axis", -1))
        case "matmul":
            return torch.matmul
    raise GraphError(f"node '{node.name}' ({node.op}) cannot be run by torch")


class GraphModule(nn.Module):
    """Interprets a Graph.  A detector (dfl_decode last) returns its raw maps, a list with one (N, 4*bins + classes, H, W) a
    stride, boxes first; any other graph returns the list of its outputs.  Images are (N, 3, H, W) float in 0..1.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        self.layers = nn.ModuleDict()
        self._steps: list[tuple[str, Callable[..., Tensor], tuple[str, ...], str | None, tuple[str, ...]]] = []
        last = graph[graph.outputs[0]]
        self.maps = list(last.inputs) if last.op == "dfl_decode" else []
        keep = set(self.maps or graph.outputs)
        last_use = {name: node.name for node in graph for name in node.inputs}
        for node in graph:
            if node.op in ("input", "dfl_decode"):
                continue
            dead = tuple(name for name in dict.fromkeys(node.inputs) if last_use[name] == node.name and name not in keep)
            self._steps.append((node.name, self._layer(node), node.inputs, node.get("act"), dead))

    def _layer(self, node: Node) -> Callable[..., Tensor]:
        shape = self.graph.in_shapes(node)[0]
        key = node.name.replace(".", "/")
        if node.op in ("conv2d", "conv_transpose2d", "linear"):
            self.layers[key] = Weighted(node, shape[-1] if node.op == "linear" else shape[0])
        elif node.op == "batchnorm":
            self.layers[key] = nn.BatchNorm2d(shape[0], node["eps"], BN_MOMENTUM)
        elif node.op == "layernorm":
            self.layers[key] = nn.LayerNorm(shape[-1], node["eps"])
        elif node.op == "scale":
            self.layers[key] = _Scale()
        elif node.op == "quantize":
            key = "quant:" + node["group"].replace(".", "/")
            if key not in self.layers:
                self.layers[key] = ActivationQuantizer(node["bits"], node.get("asymmetric", False), node.get("scale"))
        else:
            return _plain(node)
        return self.layers[key]

    def forward(self, images: Tensor) -> list[Tensor]:
        values = {node.name: images for node in self.graph.of("input")}
        for name, run, inputs, act, dead in self._steps:
            y = run(*[values[x] for x in inputs])
            values[name] = ACT[act](y) if act else y
            for x in dead:
                del values[x]
        if self.maps:
            return [torch.cat((values[box], values[scores]), 1) for box, scores in zip(self.maps[::2], self.maps[1::2])]
        return [values[name] for name in self.graph.outputs]

    @torch.no_grad()
    def calibrate(self, batches: Iterable[Tensor]) -> None:
        """Fit every quantizer's step: weights to their values, activations to those of the float net on `batches`.

        Batch-norm takes the statistics of each batch, as it will in training, and keeps its own: those of a net that was trained
        for a few steps are far off, and steps fitted to them would clip everything.
        """
        training = self.training
        self.eval()
        norms = [module for module in self.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.train()
            norm.momentum = 0.0
        set_mode(self, "observe")
        for images in batches:
            self(images)
        for norm in norms:
            norm.momentum = BN_MOMENTUM
        for module in self.modules():
            if isinstance(module, Weighted) and module.quantizer is not None:
                module.quantizer.fit(module.weight)
            elif isinstance(module, ActivationQuantizer):
                module.fit()
        set_mode(self, "on")
        self.train(training)

    def weights(self) -> Weights:
        """Every parameter as float32 numpy, under the names that Weights documents."""
        arrays: dict[str, np.ndarray] = {}
        for node in self.graph:
            if node.op == "quantize":
                quantizer = self.layers["quant:" + node["group"].replace(".", "/")]
                assert isinstance(quantizer, ActivationQuantizer)
                scale, zero_point = quantizer.codes()
                arrays[f"{node.name}.scale"], arrays[f"{node.name}.zero_point"] = np.array(scale), np.array(zero_point)
                continue
            layer = self.layers[key] if (key := node.name.replace(".", "/")) in self.layers else None
            for param, tensor in _tensors(layer).items():
                arrays[f"{node.name}.{param}"] = tensor.detach().cpu().numpy().copy()
        return Weights(arrays)

    @torch.no_grad()
    def load(self, weights: Weights) -> None:
        """Take every array that this graph has a place for; raises GraphError on a shape that does not fit or a missing one."""
        for node in self.graph:
            layer = self.layers[key] if (key := node.name.replace(".", "/")) in self.layers else None
            for param, tensor in _tensors(layer).items():
                if (array := weights.get(node, param)) is None:
                    if param == "weight_scale":
                        continue  # a float net's weights enter a quantized one: calibrate fits the steps
                    raise GraphError(f"no weights '{node.name}.{param}'")
                if array.shape != tuple(tensor.shape):
                    raise GraphError(f"weights '{node.name}.{param}' have shape {array.shape}; this net needs {tuple(tensor.shape)}")
                tensor.copy_(torch.from_numpy(np.ascontiguousarray(array)).view(tensor.shape))
            if isinstance(layer, Weighted) and layer.quantizer is not None and (node, "weight_scale") in weights:
                layer.quantizer.log_scale.copy_(torch.from_numpy(np.log(weights[node, "weight_scale"])))
            if node.op == "quantize" and (node, "scale") in weights:
                quantizer = self.layers["quant:" + node["group"].replace(".", "/")]
                assert isinstance(quantizer, ActivationQuantizer)
                quantizer.log_scale.fill_(float(np.log(weights[node, "scale"])))
                quantizer.zero_point.fill_(float(weights[node, "zero_point"]))


def _tensors(layer: nn.Module | None) -> dict[str, Tensor]:
    """Parameter names of Weights -> the tensors of a layer; weight_scale is derived, so it is read here and set by load."""
    if isinstance(layer, Weighted):
        found: dict[str, Tensor] = {"weight": layer.weight}
        if layer.bias is not None:
            found["bias"] = layer.bias
        if layer.quantizer is not None:
            found["weight_scale"] = layer.quantizer.log_scale.detach().double().exp()
        return found
    if isinstance(layer, nn.BatchNorm2d):
        return {"gamma": layer.weight, "beta": layer.bias, "mean": _buffer(layer.running_mean), "var": _buffer(layer.running_var)}
    if isinstance(layer, nn.LayerNorm):
        return {"gamma": layer.weight, "beta": layer.bias}
    return {"value": layer.value} if isinstance(layer, _Scale) else {}


def _buffer(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor


def to_torch(graph: Graph, weights: Weights | None = None) -> GraphModule:
    """The module of a graph; random start weights (torch's global seed decides) unless `weights` are given."""
    module = GraphModule(graph)
    if weights is not None:
        module.load(weights)
    return module


@torch.no_grad()
def merged_start(graph: Graph, images: Tensor) -> tuple[Graph, Weights]:
    """The graph with its rep branches merged and float weights for it: random ones (torch's global seed decides), batch-norm statistics
    those of `images` (N, 3, H, W).  What is trained quantized is merged, and a merged kernel rounds far worse than its branches.
    """
    model = to_torch(floated(graph))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    model.train()(images)
    return merge_rep(graph, model.weights())
