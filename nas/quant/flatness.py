"""How flat the minimum is that a training ended in: the weight noise that its loss bears.

Magnitude-aware sigma (Jiang et al. 2020, arXiv:1912.02178, as used by QGen, arXiv:2404.11769): every weight w is moved by a normal variable
of standard deviation sqrt(sigma^2 w^2 + eps^2), and sigma is that at which the mean loss has risen by a given amount.  Convention: sigma
and eps are standard deviations, never variances; batch-norms are folded into the weights first, whose size then means something.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nas.quant.noise import Loss, Tensors

EPS = 1e-3
MOST, HALVINGS, TOLERANCE = 2.0, 15, 0.02  # of sigma; of the interval; of the rise, relative


@torch.no_grad()
def flat_sigma(loss: Loss, weights: Tensors, rise: float, *, eps: float = EPS, draws: int = 10, seed: int = 0) -> float:
    """sigma in 0..2 at which the mean loss over `draws` noises stands `rise` above that of the weights as they are.

    The noises are the same for every sigma, so that the mean has no jumps.  The higher, the flatter.  0 where eps alone costs more, 2
    where nothing in the interval costs as much.
    """
    before = float(loss(weights))
    low, high, middle = 0.0, MOST, MOST
    for _ in range(HALVINGS + 1):
        found = sum(float(loss(perturbed(weights, middle, eps, seed + draw))) for draw in range(draws)) / draws - before
        if abs(found - rise) <= TOLERANCE * rise:
            return middle
        if found < rise:  # not where the loss is no number: too much
            low = middle
        else:
            high = middle
        if low == MOST:
            return MOST
        middle = (low + high) / 2
    return low


def perturbed(weights: Tensors, sigma: float, eps: float, seed: int) -> dict[str, Tensor]:
    """Weights with independent normal noise of standard deviation sqrt(sigma^2 w^2 + eps^2)."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: w + torch.randn(w.shape, generator=generator).to(w) * (sigma**2 * w.square() + eps**2).sqrt() for name, w in weights.items()
    }
