"""What is measured of a trained net: how flat its minimum is, how rounding its weights compares with noise, what its loss makes of both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.func import functional_call

from nas.data import Dataset, val_batches
from nas.quant.flatness import flat_sigma
from nas.quant.hessian import hessian_diagonals
from nas.quant.noise import (
    Noise,
    Rounding,
    first_order_spread,
    fitted_rounding,
    predicted_rise,
    rounded_rise,
    rounding,
    uniform_rise,
)
from nas.quant.precisions import at_precision
from nas.quant.sensitivity import layer_of
from nas.train import LossSettings, assigned, detection_loss, targets_of
from nas.train.evaluate import images_to
from searchspaces import Graph, Weights
from searchspaces.module import GraphModule, to_torch
from searchspaces.ops import WEIGHTED
from searchspaces.rewrite import fold_batchnorm

IMAGES, BATCH = 32, 16  # of the training split, spread over it, on which flatness and rises of the loss are taken
RISE = 0.5  # of the loss, at which sigma is read off; detectors end trainings at losses of 2 to 8
VECTORS, PAIRS, DRAWS = 60, 32, 10  # of the Hessian's estimate, of uniform noise, of normal noise
THEORY_BITS = (8, 4, 2, 1)  # at which the float net's weights are rounded, whatever the study trains
# CIoU is made of minima and maxima: its curvature sits in kinks, where a gradient's gradient is blind, so it is also left out.
LOSSES = {"class + DFL": LossSettings(box_gain=0.0), "whole": LossSettings()}
_CPU = torch.device("cpu")
T = TypeVar("T")


@dataclass(frozen=True)
class LayerNoise:
    """Rounding noise of one layer's weights, at the bits that the layer holds."""

    layer: str
    bits: int
    noise: Noise


@dataclass(frozen=True)
class Rise:
    """By how much a loss of a float net rises when its weights are rounded to `bits`, edge layers to 8: predicted to second order, as
    the mean over uniform noise with its standard error, and by the rounding itself.  That is one draw: of first order, which cancels in a
    mean, it has a part whose standard deviation under uniform noise is `first_order`.
    """

    loss: str  # of LOSSES
    bits: int
    predicted: float
    uniform: float
    uniform_error: float
    rounded: float
    first_order: float


class Probe:
    """The detection loss on a few training images as a function of a net's weights, the rest of the net and the positives held."""

    def __init__(self, model: GraphModule, dataset: Dataset, size: int, settings: LossSettings | None = None) -> None:
        self.model, self.classes, self.settings = model.eval(), len(dataset.classes), settings
        parts = val_batches(spread(dataset.train, IMAGES), size, BATCH)
        self.batches = [(images_to(part.images, _CPU), targets_of(part, _CPU)) for part in parts]
        with torch.no_grad():
            self.found = [assigned(model(images), targets, self.classes) for images, targets in self.batches]
        self.layers = {node.name: node for node in model.graph.of(*WEIGHTED)}

    @property
    def weights(self) -> dict[str, Tensor]:
        return {name: layer_of(self.model, name).weight.detach() for name in self.layers}

    def loss(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Mean over the batches.  Layers that are not named keep their weights."""
        swapped = {f"layers.{name.replace('.', '/')}.weight": weight for name, weight in weights.items()}
        losses = [
            detection_loss(functional_call(self.model, swapped, (images,)), targets, self.classes, self.settings, found=found).total
            for (images, targets), found in zip(self.batches, self.found)
        ]
        return torch.stack(losses).mean()


def as_it_runs(model: GraphModule) -> GraphModule:
    """The net with weights on their grids and batch-norms folded into them; activations are still fake-quantized."""
    arrays = {name: array for name, array in model.weights().arrays().items() if not name.endswith(".weight_scale")}
    changed = {}
    for node in model.graph.of(*WEIGHTED):
        layer = layer_of(model, node.name)
        changed[node.name] = node.without("wbits")
        if layer.quantizer is not None:
            arrays[f"{node.name}.weight"] = layer.quantizer(layer.weight).detach().numpy()
    return to_torch(*fold_batchnorm(model.graph.edited(changed), Weights(arrays))).eval()


def flatness(model: GraphModule, dataset: Dataset, size: int, seed: int) -> float:
    """Magnitude-aware sigma of a trained net, float or fake-quantized, for a loss that rises by RISE."""
    probe = Probe(as_it_runs(model), dataset, size)
    return flat_sigma(probe.loss, probe.weights, RISE, draws=DRAWS, seed=seed)


def trained_noise(model: GraphModule) -> list[LayerNoise]:
    """Rounding noise of a fake-quantized net at the steps that it has learned."""
    found = []
    for node in model.graph.of(*WEIGHTED):
        layer = layer_of(model, node.name)
        if layer.quantizer is not None:
            found.append(LayerNoise(node.name, layer.quantizer.bits, rounding(layer.weight, layer.quantizer).noise))
    return found


def theory(model: GraphModule, graph: Graph, dataset: Dataset, size: int, seed: int) -> tuple[list[LayerNoise], list[Rise]]:
    """A trained float net rounded to each of THEORY_BITS: noise of each free layer, and the rise of the losses three ways.

    graph  the net's own with bits on it, which says what layers are free
    """
    net = as_it_runs(model)
    held = {bits: {n.name: int(n["wbits"]) for n in at_precision(graph, f"w{bits}a{bits}").of(*WEIGHTED)} for bits in THEORY_BITS}
    roundings = {bits: {name: _fitted(net, name, wbits) for name, wbits in layers.items()} for bits, layers in held.items()}
    noises = [
        LayerNoise(name, bits, found.noise)
        for bits, layers in roundings.items()
        for name, found in layers.items()
        if held[bits][name] == bits
    ]
    return noises, [rise for name in LOSSES for rise in _rises(name, Probe(net, dataset, size, LOSSES[name]), roundings, seed)]


def _rises(name: str, probe: Probe, roundings: Mapping[int, Mapping[str, Rounding]], seed: int) -> Iterator[Rise]:
    weights = probe.weights
    moved = {layer: weight.clone().requires_grad_() for layer, weight in weights.items()}
    gradients = dict(zip(moved, torch.autograd.grad(probe.loss(moved), list(moved.values()))))
    diagonals = hessian_diagonals(lambda: probe.loss(moved), moved, samples=VECTORS, tolerance=0.01, seed=seed)
    for bits, rounded in roundings.items():
        steps = {layer: found.step for layer, found in rounded.items()}
        mean, error = uniform_rise(probe.loss, weights, steps, pairs=PAIRS, seed=seed)
        yield Rise(name, bits, predicted_rise(diagonals, steps), mean, error, rounded_rise(probe.loss, rounded),
                   first_order_spread(gradients, steps))  # fmt: skip


def _fitted(net: GraphModule, name: str, bits: int) -> Rounding:
    layer = layer_of(net, name)
    return fitted_rounding(layer.weight.detach(), bits, 1 if layer.node.op == "conv_transpose2d" else 0)


def spread(items: Sequence[T], most: int) -> Sequence[T]:
    """At most so many of them, evenly over the sequence."""
    return items if len(items) <= most else [items[k * len(items) // most] for k in range(most)]
