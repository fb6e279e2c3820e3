"""New genes from good ones."""

from __future__ import annotations

import numpy as np

from searchspaces.space import Genes, Space

ETA = 3  # how near to their parents children stay


def mutated(space: Space, genes: Genes, rate: float, rng: np.random.Generator) -> Genes:
    """(n, genes), each gene changed with probability `rate`: half of them by a step to a neighbouring option, the others by a jump."""
    hit = rng.random(genes.shape) < rate
    step = np.where(rng.random(genes.shape) < 0.5, 1, -1)
    stepped = np.clip(genes + step, 0, space.sizes - 1)
    jumped = (genes + rng.integers(1, np.maximum(space.sizes, 2), size=genes.shape)) % space.sizes
    return np.where(hit, np.where(rng.random(genes.shape) < 0.5, stepped, jumped), genes)


def crossed(mothers: Genes, fathers: Genes, share: float, rng: np.random.Generator) -> Genes:
    """(n, genes): uniform crossover of that share of the pairs, the others are their mothers."""
    from_father = (rng.random(mothers.shape) < 0.5) & (rng.random((len(mothers), 1)) < share)
    return np.where(from_father, fathers, mothers)


def simulated_binary(mothers: Genes, fathers: Genes, share: float, sizes: np.ndarray, rng: np.random.Generator) -> Genes:
    """(n, genes): that share of the pairs crossed; half of a child's genes lie about one parent's, as far off as the parents are apart.

    SBX on option numbers (Deb and Agrawal 1995), index ETA, rounded and clipped.
    """
    u = rng.random(mothers.shape)
    spread = np.where(u < 0.5, 2 * u, 0.5 / (1 - u)) ** (1 / (ETA + 1))
    children = np.rint(0.5 * ((1 + spread) * mothers + (1 - spread) * fathers)).astype(np.int64)
    crossed_here = (rng.random(mothers.shape) < 0.5) & (rng.random((len(mothers), 1)) < share)
    return np.where(crossed_here, np.clip(children, 0, sizes - 1), mothers)


def polynomial(genes: Genes, rate: float, sizes: np.ndarray, rng: np.random.Generator) -> Genes:
    """(n, genes), each gene moved with probability `rate`, mostly by little: polynomial mutation (Deb and Goyal 1996), index ETA."""
    u = rng.random(genes.shape)
    move = np.where(u < 0.5, (2 * u) ** (1 / (ETA + 1)) - 1, 1 - (2 * (1 - u)) ** (1 / (ETA + 1)))
    moved = np.clip(np.rint(genes + move * sizes), 0, sizes - 1).astype(np.int64)
    return np.where(rng.random(genes.shape) < rate, moved, genes)
