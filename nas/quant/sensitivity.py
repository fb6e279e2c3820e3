"""How much a trained net minds if one of its layers is quantized, layer by layer and precision by precision.

Three measures of the same thing, each a table layer -> precision -> number that adds up over layers (nas.quant.allocate):
  loss      the loss itself, with that one layer quantized and all others in float
  hessian   HAWQ-v2 (arXiv:1911.03852): mean curvature of the loss in the layer's weights times the squared rounding error of the weights
  noise     rounding noise over signal, of the weights and of the codes that the layer reads
The loss is the distance of the net's head maps from its own float ones (nas.train's distillation loss), so no labels are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from nas.quant.allocate import Table
from nas.quant.errors import QuantError
from nas.quant.hessian import hessian_traces
from nas.train.loss import distillation_loss
from searchspaces.fakequant import ActivationQuantizer, WeightQuantizer
from searchspaces.module import GraphModule, Weighted
from searchspaces.yolo import bits

_VECTORS = 50  # of the Hessian's estimate: single layers are known to a few percent


def by_loss(model: GraphModule, layers: Sequence[str], precisions: Sequence[str], batches: Sequence[Tensor], classes: int) -> Table:
    """Mean loss over `batches` of images (N, 3, H, W) in 0..1 with one layer quantized.  A forward pass a layer, precision and batch."""
    loss = self_distance(model, batches, classes)
    table: Table = {}
    for name in layers:
        layer, seen = layer_of(model, name), inputs_of(model, name, batches)
        table[name] = {}
        for precision in precisions:
            with torch.no_grad(), quantized_layer(layer, precision, seen):
                table[name][precision] = float(loss())
    return table


def by_hessian(model: GraphModule, layers: Sequence[str], precisions: Sequence[str], batches: Sequence[Tensor], classes: int) -> Table:
    """Mean of the Hessian's trace over a layer's weights times |Q(w) - w|^2; the codes that it reads do not enter."""
    weights = {name: layer_of(model, name).weight for name in layers}
    traces = hessian_traces(self_distance(model, batches, classes), weights, samples=_VECTORS, tolerance=0.0)
    table: Table = {}
    for name, weight in weights.items():
        errors = {p: rounded(weight, bits(p)[0], layer_of(model, name)) - weight.detach() for p in precisions}
        curvature = max(traces[name], 0.0) / weight.numel()
        table[name] = {p: curvature * float(error.square().sum()) for p, error in errors.items()}
    return table


@torch.no_grad()
def by_noise(model: GraphModule, layers: Sequence[str], precisions: Sequence[str], batches: Sequence[Tensor], classes: int) -> Table:
    """Noise-to-signal ratio of the rounded weights plus that of the rounded inputs, each about its channel's mean."""
    table: Table = {}
    for name in layers:
        layer, seen = layer_of(model, name), inputs_of(model, name, batches)
        centred = seen - seen.mean((0, 2, 3), keepdim=True)
        table[name] = {}
        for precision in precisions:
            weights, codes = bits(precision)
            w_error = rounded(layer.weight, weights, layer) - layer.weight
            x_error = input_quantizer(seen, codes)(seen) - seen
            x_noise = x_error - x_error.mean((0, 2, 3), keepdim=True)
            table[name][precision] = float(w_error.square().sum() / layer.weight.square().sum()
                                           + x_noise.square().mean() / centred.square().mean().clamp_min(1e-12))  # fmt: skip
    return table


MEASURES: Mapping[str, Callable[[GraphModule, Sequence[str], Sequence[str], Sequence[Tensor], int], Table]] = {
    "loss": by_loss, "hessian": by_hessian, "noise": by_noise,
}  # fmt: skip


def self_distance(model: GraphModule, batches: Sequence[Tensor], classes: int) -> Callable[[], Tensor]:
    """The mean distance, over the batches, of the model's head maps from those that it has now."""
    before = head_maps(model, batches)
    return lambda: head_distance(model, batches, before, classes)


@torch.no_grad()
def head_maps(model: GraphModule, batches: Sequence[Tensor]) -> list[list[Tensor]]:
    """The head's raw maps of each batch."""
    model.eval()
    return [model(images) for images in batches]


def head_distance(model: GraphModule, batches: Sequence[Tensor], maps: Sequence[list[Tensor]], classes: int) -> Tensor:
    """The mean distance, over the batches, of the model's head maps from `maps`."""
    return torch.stack([distillation_loss(model(images), wanted, classes) for images, wanted in zip(batches, maps)]).mean()


def layer_of(model: GraphModule, name: str) -> Weighted:
    key = name.replace(".", "/")
    layer = dict(model.layers.items()).get(key)
    if not isinstance(layer, Weighted):
        raise QuantError(f"the net has no layer with weights named '{name}'")
    return layer


@torch.no_grad()
def inputs_of(model: GraphModule, name: str, batches: Sequence[Tensor]) -> Tensor:
    """What a layer reads from the first batch, (N, C, H, W)."""
    seen: list[Tensor] = []
    hook = layer_of(model, name).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    model.eval()(batches[0])
    hook.remove()
    return seen[0]


@torch.no_grad()
def rounded(weight: Tensor, wbits: int, layer: Weighted) -> Tensor:
    """The weights on the grid of `wbits` bits, a step for each output channel."""
    axis = 1 if layer.node.op == "conv_transpose2d" else 0
    quantizer = WeightQuantizer(wbits, weight.shape[axis], axis)
    quantizer.fit(weight)
    return quantizer(weight).detach()


@torch.no_grad()
def input_quantizer(seen: Tensor, abits: int) -> ActivationQuantizer:
    """A quantizer whose step fits these values."""
    quantizer = ActivationQuantizer(abits, bool((seen < 0).any()))
    quantizer.mode = "observe"
    quantizer(seen)
    quantizer.fit()
    quantizer.mode = "on"
    return quantizer


@contextmanager
def quantized_layer(layer: Weighted, precision: str, seen: Tensor) -> Iterator[None]:
    """Inside, the layer rounds its weights and what it reads."""
    weights, codes = bits(precision)
    quantizer, kept = input_quantizer(seen, codes), layer.weight.detach().clone()
    hook = layer.register_forward_pre_hook(lambda _, inputs: (quantizer(inputs[0]),))
    with torch.no_grad():
        layer.weight.copy_(rounded(kept, weights, layer))
    try:
        yield
    finally:
        hook.remove()
        with torch.no_grad():
            layer.weight.copy_(kept)
