"""LSQ quantization-aware training on top of any trainer: steps are fitted to data, then learned with the weights.

The trainer comes in as `fit`, so this works with ours or with a user's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from searchspaces import Graph, Weights
from searchspaces.module import GraphModule, to_torch
from searchspaces.quantizers import floated, quantized

Fit = Callable[[nn.Module, nn.Module | None], Any]  # (model, teacher) -> a history; trains the model in place


class QatSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How quantization-aware training departs from the float recipe."""

    lr: float = 5e-4  # peak rate of AdamW; the float recipe's would leave the minimum that was just found
    weight_decay: float = 1e-4
    warmup_epochs: float = 1.0
    calibration_batches: int = 8
    distill: bool = True  # the float net teaches the quantized one


def fake_quantized(graph: Graph, weights: Weights, batches: Iterable[Tensor]) -> GraphModule:
    """The quantized net with the float net's weights and steps fitted to `batches` of images (N, 3, H, W) in 0..1."""
    model = to_torch(quantized(graph), weights)
    model.calibrate(batches)
    return model


def quantize(graph: Graph, weights: Weights, batches: Iterable[Tensor], fit: Fit, *, distill: bool = True) -> tuple[GraphModule, Any]:
    """(model, history): the trained quantized net of `graph`, from the trained float `weights`.

    graph     the training form, bits on its nodes (not yet quantized())
    fit       trains a module in place, given a teacher or None
    """
    model = fake_quantized(graph, weights, batches)
    teacher = to_torch(floated(graph), weights).eval() if distill else None
    if teacher is not None:
        for parameter in teacher.parameters():
            parameter.requires_grad_(False)
    history = fit(model, teacher)
    with torch.no_grad():
        model.eval()
    return model, history
