"""LSQ quantization-aware training on top of any trainer: steps are fitted to data, then learned with the weights.

The trainer comes in as `fit`, so this works with ours or with a user's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from nas.quant.errors import QuantError
from searchspaces import Graph, Weights
from searchspaces.module import GraphModule, to_torch
from searchspaces.ops import ACTIVATION_BITS, FLOAT_BITS, WEIGHT_BITS
from searchspaces.quantizers import floated, quantized

Fit = Callable[[nn.Module, nn.Module | None], Any]  # (model, teacher) -> a history; trains the model in place
_STEPS = frozenset({"weight_scale", "scale", "zero_point"})


class QatSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How quantization-aware training departs from the float recipe."""

    # Peak rate of AdamW, that of the float recipe, for low bits have far to go: a small YOLOv5n on BCCD (.509 mAP in float) has .300 after
    # 15 epochs at W2A2 and 5e-4, .420 at 2e-3, .438 at 3e-3, .445 at 4e-3; at W4A4 .491 at 5e-4, .505 at 2e-3, .515 at 4e-3.
    lr: float = 3e-3
    weight_decay: float = 1e-4
    warmup_epochs: float = 1.0
    calibration_batches: int = 8
    distill: bool = True  # the float net teaches the quantized one
    ladder: tuple[int, ...] = ()  # bits to stop at on the way down, such as 8, 4: each rung gets an equal share of the epochs
    norm_batches: int = 0  # batches over which batch-norm statistics are taken anew at the end; 0 keeps those of the training

    def __post_init__(self) -> None:
        if wrong := [bits for bits in self.ladder if bits not in WEIGHT_BITS or bits not in ACTIVATION_BITS]:
            raise QuantError(f"ladder={self.ladder}: {wrong[0]} bits are not trained; known: {', '.join(map(str, WEIGHT_BITS))}")


def fake_quantized(graph: Graph, weights: Weights, batches: Iterable[Tensor]) -> GraphModule:
    """The quantized net with the float net's weights and steps fitted to `batches` of images (N, 3, H, W) in 0..1."""
    model = to_torch(quantized(graph), weights)
    model.calibrate(batches)
    return model


def quantize(
    graph: Graph, weights: Weights, batches: Iterable[Tensor], fit: Fit, *, distill: bool = True, teacher: Weights | None = None
) -> tuple[GraphModule, Any]:
    """(model, history): the trained quantized net of `graph`, from trained float `weights`.

    graph     the training form, bits on its nodes (not yet quantized())
    fit       trains a module in place, given a teacher or None
    teacher   float weights of the teacher, where `weights` are no longer those of the float net
    """
    model = fake_quantized(graph, weights, batches)
    taught_by = to_torch(floated(graph), teacher or weights).eval() if distill else None
    if taught_by is not None:
        for parameter in taught_by.parameters():
            parameter.requires_grad_(False)
    history = fit(model, taught_by)
    with torch.no_grad():
        model.eval()
    return model, history


def rungs(graph: Graph, ladder: Iterable[int]) -> list[Graph]:
    """The graphs to train one after the other: no layer below 8 bits, none below 4, .. for a ladder of 8, 4; at last `graph` itself.

    A rung on which no layer is above its own bits is left out.
    """
    found: list[Graph] = []
    for least in sorted(ladder, reverse=True):
        raised = graph.edited({
            node.name: node.having(**{key: max(node[key], least) for key in ("wbits", "abits") if node.get(key, FLOAT_BITS) < FLOAT_BITS})
            for node in graph
        })  # fmt: skip
        if raised != graph and raised not in found:
            found.append(raised)
    return [*found, graph]


def without_steps(weights: Weights) -> Weights:
    """Weights of a quantized net as float ones, from which steps can be fitted at other bits."""
    return Weights({name: array for name, array in weights.arrays().items() if name.rpartition(".")[2] not in _STEPS})


@torch.no_grad()
def reestimate_norms(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set the statistics of every batch-norm to the means of those of `batches`, of images (N, 3, H, W) in 0..1, quantizers as they are."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    was_training, momenta = model.training, [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's sign for the mean of all batches
        norm.train()
    for images in batches:
        model(images)
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
    model.train(was_training)
