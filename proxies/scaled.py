"""Numbers too large or too small for float32: a tensor and the logarithm of a factor taken out of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from proxies.errors import ProxyError
from searchspaces import Node
from searchspaces.ops import WEIGHTED

# f(c x) = c f(x) for c > 0
_LINEAR = frozenset({*WEIGHTED, "scale", "slice", "upsample", "maxpool", "global_avgpool", "flatten", "quantize"})


@dataclass(frozen=True)
class Scaled:
    """tensor * exp(log_scale)."""

    tensor: Tensor
    log_scale: float = 0.0


def linear_step(activation: Callable[[Tensor], Tensor]) -> Callable[[Node, Callable[..., Tensor], list[Scaled]], Scaled]:
    """A visit for walk: the network without batch-norms, with `activation` (f(c x) = c f(x) for c > 0) in place of its own.

    After every weighted operator the tensor is divided by its largest value, so nothing overflows in any depth.  The factors
    are constants to a gradient: it is the true one but for the factor exp(-log_scale) of the result.
    """

    def visit(node: Node, run: Callable[..., Tensor], inputs: list[Scaled]) -> Scaled:
        if node.op in ("batchnorm", "layernorm"):
            return inputs[0]
        if node.op == "activation":
            return Scaled(activation(inputs[0].tensor), inputs[0].log_scale)
        if node.op == "mul":
            return Scaled(run(*(x.tensor for x in inputs)), sum(x.log_scale for x in inputs))
        if node.op not in _LINEAR and node.op not in ("add", "concat"):
            raise ProxyError(f"node '{node.name}' ({node.op}) is not linear: this proxy takes networks of convolutions")
        top = max(x.log_scale for x in inputs)
        y = run(*(x.tensor if x.log_scale == top else x.tensor * math.exp(x.log_scale - top) for x in inputs))
        return _normalized(node, y, top) if node.op in WEIGHTED else Scaled(y, top)

    return visit


def total(values: list[Scaled]) -> tuple[Tensor, float]:
    """(s, log_scale): the sum of all elements of all values is s * exp(log_scale)."""
    top = max(x.log_scale for x in values)
    return torch.stack([x.tensor.sum() * math.exp(x.log_scale - top) for x in values]).sum(), top


def _normalized(node: Node, y: Tensor, log_scale: float) -> Scaled:
    size = float(y.detach().abs().amax())
    if not 0 < size < math.inf:
        raise ProxyError(f"the largest output of '{node.name}' is {size}: no signal passes")
    return Scaled(y / size, log_scale + math.log(size))
