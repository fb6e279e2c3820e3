"""Proxies that look at how a disturbance of the network reaches its outputs."""

from __future__ import annotations

import math
from collections import defaultdict

from torch import Tensor, nn

from proxies.core import proxy
from proxies.errors import ProxyError
from proxies.probe import Probe
from searchspaces import Graph, Node
from searchspaces.fakequant import ActivationQuantizer, WeightQuantizer, set_mode
from searchspaces.module import GraphModule
from searchspaces.ops import FLOAT_BITS, PASS_THROUGH, WEIGHTED

SIDE, IMAGES = 96, 4  # what the rounding errors of single tensors are measured on; they hardly depend on it
SNR_CAP_DB = 60.0  # a float network: more than any 8-bit one reaches
INHERITED = 0.8  # of the noise in its input that a trained layer passes on
ONE_BIT = 16.0  # the error of 1-bit codes counts so often: a layer of them is a bottleneck that no later layer makes up for
_VALUES, _ROWS = 4096, 8  # values of a tensor, output channels of a weight that a step is fitted to


@proxy(higher_is_better=True, needs={"bits"}, source="LSQ grids: arXiv:1902.08153; additive rounding noise: arXiv:2404.11769")
def quant_noise(model: nn.Module, probe: Probe) -> float:
    """Signal-to-noise ratio in dB of the head's raw maps under quantization, mean over the maps; 60 for a float network.

    Every quantizer's own error is measured, then noise-to-signal ratios (NSR) are summed along the graph.  The direct way, run the
    net in float and fake-quantized and compare the maps, tells bit-widths apart badly before training: a batch-normalized net at
    its start weights is chaotic, so that rounding the 8-bit image alone (50 dB) leaves 11 dB at the head, and w8a8 and w2a2 end
    at 5 and -0.3 dB.  A trained net does not amplify its noise like that: its layers learn to average part of it away, so that
    2 bits in the backbone cost little (9 % of mAP50-95 on digits) and the same in neck and head much (38 %).  INHERITED ranks the
    losses of those ten networks at Spearman .83 (.9: .86, .7: .73, 1.0, which is without it: .58); ONE_BIT is from a YOLOv8n on BCCD
    whose backbone has 1-bit codes (.523 mAP in float, .338 so; .499 with 2 bits).

    conv, linear       INHERITED * NSR of the input + NSR of the weights (per output channel error / weight power, mean of channels)
    quantize           + variance of the rounding error (ONE_BIT times where it has one bit) / variance of the tensor, both about
                       channel means: batch-norm takes a channel's mean away, from signal and error alike
    add, concat        the inputs' NSRs weighted by their power (concat: and channels)
    everything else    unchanged
    """
    assert isinstance(model, GraphModule)
    seen = _observed(model, probe.first(IMAGES))
    graph = model.graph
    nsr: dict[str, float] = {}
    power: dict[str, float] = {}
    rounding = _rounding(graph, seen)
    for node in graph:
        nsr[node.name], power[node.name] = _passed_on(graph, node, nsr, power)
        if node.op in WEIGHTED and node.get("wbits", FLOAT_BITS) < FLOAT_BITS:
            weight = model.get_parameter(f"layers.{node.name.replace('.', '/')}.weight")
            nsr[node.name] += weight_nsr(weight, node["wbits"], 1 if node.op == "conv_transpose2d" else 0)
        elif node.op == "quantize":
            error, power[node.name] = rounding[node.name]
            # A narrower copy rounds the same tensor anew: its error stands in for the wider one's.
            source = graph[node.inputs[0]]
            nsr[node.name] = error + nsr[source.inputs[0] if source.op == "quantize" else source.name]
    outputs = model.maps or list(graph.outputs)
    return sum(_db(nsr[name]) for name in outputs) / len(outputs)


def _db(nsr: float) -> float:
    return -10 * math.log10(max(nsr, 10 ** (-SNR_CAP_DB / 10)))


def _passed_on(graph: Graph, node: Node, nsr: dict[str, float], power: dict[str, float]) -> tuple[float, float]:
    """(NSR, power) of a node's output before its own rounding.  Where no quantizer measured a tensor its power is 1, which is
    what batch-norm makes of it.
    """
    if not node.inputs:
        return 0.0, 1.0
    if node.op in WEIGHTED:
        return INHERITED * max(nsr[name] for name in node.inputs), 1.0
    if node.op not in ("add", "concat"):
        return max(nsr[name] for name in node.inputs), power[node.inputs[0]] if node.op in PASS_THROUGH else 1.0
    weights = [power[x] * (graph[x].shape[0] if node.op == "concat" else 1) for x in node.inputs]
    total = sum(weights)
    mixed = sum(w * nsr[x] for w, x in zip(weights, node.inputs)) / total
    return mixed, total / (node.shape[0] if node.op == "concat" else 1)


def _observed(model: GraphModule, probe: Probe) -> dict[str, list[Tensor]]:
    """Quantizer group -> for each of its tensors, in graph order, a sample (channels, values) in float."""
    seen: dict[str, list[Tensor]] = defaultdict(list)
    hooks = []
    for node in model.graph.of("quantize"):
        layer = model.layers["quant:" + node["group"].replace(".", "/")]
        if node["group"] not in seen:
            kept = seen[node["group"]]
            hooks.append(layer.register_forward_pre_hook(lambda _, inputs, kept=kept: kept.append(_sample(inputs[0]))))
    if seen:
        set_mode(model, "off")
        model(probe.shrunk(SIDE).images)
    for hook in hooks:
        hook.remove()
    return seen


def _sample(x: Tensor) -> Tensor:
    """(N, C, ...) -> (C, at most 4096 / C values), evenly spread."""
    rows = x.detach().transpose(0, 1).flatten(1) if x.dim() > 2 else x.detach().T
    each = max(1, _VALUES // rows.shape[0])
    return rows[:, :: max(1, rows.shape[1] // each)][:, :each].float()


def _rounding(graph: Graph, seen: dict[str, list[Tensor]]) -> dict[str, tuple[float, float]]:
    """quantize node -> (NSR of its rounding, variance of its tensor), the step fitted to all tensors of its group together."""
    groups: dict[str, list[Node]] = defaultdict(list)
    for node in graph.of("quantize"):
        groups[node["group"]].append(node)
    found = {}
    for group, nodes in groups.items():
        first, samples = nodes[0], seen[group]
        quantizer = ActivationQuantizer(first["bits"], first.get("asymmetric", False), first.get("scale"))
        quantizer.mode = "observe"
        for x in samples:
            quantizer(x)
        quantizer.fit()
        quantizer.mode = "on"
        for node, x in zip(nodes, samples, strict=True):
            variance = float((x - x.mean(1, keepdim=True)).square().mean())
            error = quantizer(x) - x
            noise = float((error - error.mean(1, keepdim=True)).square().mean())
            if variance <= 0:
                raise ProxyError(f"tensor '{node.name}' is constant on the probe images")
            found[node.name] = noise / variance * (ONE_BIT if node["bits"] == 1 else 1.0), variance
    return found


def weight_nsr(weight: Tensor, bits: int, axis: int = 0) -> float:
    """Mean over output channels (`axis`) of rounding error power / weight power, on 8 of the channels."""
    rows = weight.detach().transpose(0, axis).flatten(1)
    rows = rows[:: max(1, len(rows) // _ROWS)][:_ROWS].float()
    quantizer = WeightQuantizer(bits, len(rows))
    quantizer.fit(rows)
    error = quantizer(rows) - rows
    return float((error.square().sum(1) / rows.square().sum(1).clamp_min(1e-20)).mean())
