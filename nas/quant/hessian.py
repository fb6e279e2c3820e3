"""Curvature of a loss: diagonal and trace of its Hessian by Hutchinson's estimator, without ever forming the Hessian."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

SAMPLES, TOLERANCE = 200, 1e-3  # most vectors; relative standard error at which the estimate stands


def hessian_traces(
    loss: Callable[[], Tensor], parameters: Mapping[str, Tensor], *, samples: int = SAMPLES, tolerance: float = TOLERANCE, seed: int = 0
) -> dict[str, float]:
    """Trace of the Hessian of `loss()` in each parameter alone: the sum of hessian_diagonals (HAWQ-v2, arXiv:1911.03852)."""
    found = hessian_diagonals(loss, parameters, samples=samples, tolerance=tolerance, seed=seed)
    return {name: float(diagonal.sum()) for name, diagonal in found.items()}


def hessian_diagonals(
    loss: Callable[[], Tensor], parameters: Mapping[str, Tensor], *, samples: int = SAMPLES, tolerance: float = TOLERANCE, seed: int = 0
) -> dict[str, Tensor]:
    """Diagonal of the Hessian of `loss()`, in each parameter's shape, by the mean of v * (H v) over Rademacher vectors v (Hutchinson 1990;
    Bekas et al. 2007).  Single entries are noisy; sums over many of them are what it is good for.

    All parameters share one product a sample: cross terms have mean zero.  Ends before `samples` once the standard error of the summed
    trace is below `tolerance` of it.  `loss` must be the same function at every call: no dropout, batch-norm in eval mode.
    """
    names, tensors = list(parameters), list(parameters.values())
    generator = torch.Generator().manual_seed(seed)
    gradients = torch.autograd.grad(loss(), tensors, create_graph=True)
    sums = [torch.zeros_like(t) for t in tensors]
    totals: list[float] = []
    while len(totals) < samples and not (len(totals) >= 10 and _settled(totals, tolerance)):
        vectors = [torch.randint(0, 2, t.shape, generator=generator).to(t).mul_(2).sub_(1) for t in tensors]
        products = torch.autograd.grad(gradients, tensors, vectors, retain_graph=True)
        found = [v * p for v, p in zip(vectors, products)]
        totals.append(sum(float(f.sum()) for f in found))
        sums = [total + f for total, f in zip(sums, found)]
    return {name: total / len(totals) for name, total in zip(names, sums)}


def _settled(totals: Sequence[float], tolerance: float) -> bool:
    values = torch.tensor(totals, dtype=torch.float64)
    return bool(values.std() / len(totals) ** 0.5 <= tolerance * values.mean().abs())
