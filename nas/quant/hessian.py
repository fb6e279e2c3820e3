"""Curvature of a loss: the trace of its Hessian by Hutchinson's estimator, without ever forming the Hessian."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

SAMPLES, TOLERANCE = 200, 1e-3  # most vectors; relative standard error at which the estimate stands


def hessian_traces(
    loss: Callable[[], Tensor], parameters: Mapping[str, Tensor], *, samples: int = SAMPLES, tolerance: float = TOLERANCE, seed: int = 0
) -> dict[str, float]:
    """Trace of the Hessian of `loss()` in each parameter alone, by mean of v^T H v over Rademacher vectors v (Hutchinson 1990;
    HAWQ-v2, arXiv:1911.03852).

    All parameters share one product a sample: cross terms have mean zero.  Ends before `samples` once the standard error of the summed
    trace is below `tolerance` of it.  `loss` must be the same function at every call: no dropout, batch-norm in eval mode.
    """
    names, tensors = list(parameters), list(parameters.values())
    generator = torch.Generator().manual_seed(seed)
    gradients = torch.autograd.grad(loss(), tensors, create_graph=True)
    found: list[list[float]] = []
    for _ in range(samples):
        vectors = [torch.randint(0, 2, t.shape, generator=generator).to(t).mul_(2).sub_(1) for t in tensors]
        products = torch.autograd.grad(gradients, tensors, vectors, retain_graph=True)
        found.append([float((v * p).sum()) for v, p in zip(vectors, products)])
        if len(found) >= 10 and _settled([sum(row) for row in found], tolerance):
            break
    return {name: sum(column) / len(found) for name, column in zip(names, zip(*found))}


def _settled(totals: Sequence[float], tolerance: float) -> bool:
    values = torch.tensor(totals, dtype=torch.float64)
    return bool(values.std() / len(totals) ** 0.5 <= tolerance * values.mean().abs())
