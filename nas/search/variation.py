"""New genes from good ones."""

from __future__ import annotations

import numpy as np

from searchspaces.space import Genes, Space


def mutated(space: Space, genes: Genes, rate: float, rng: np.random.Generator, steps: float = 0.5) -> Genes:
    """(n, genes), each gene changed with probability `rate`: that share by a step to a neighbouring option, the others by a jump."""
    hit = rng.random(genes.shape) < rate
    step = np.where(rng.random(genes.shape) < 0.5, 1, -1)
    stepped = np.clip(genes + step, 0, space.sizes - 1)
    jumped = (genes + rng.integers(1, np.maximum(space.sizes, 2), size=genes.shape)) % space.sizes
    return np.where(hit, np.where(rng.random(genes.shape) < steps, stepped, jumped), genes)


def crossed(mothers: Genes, fathers: Genes, share: float, rng: np.random.Generator) -> Genes:
    """(n, genes): uniform crossover of that share of the pairs, the others are their mothers."""
    from_father = (rng.random(mothers.shape) < 0.5) & (rng.random((len(mothers), 1)) < share)
    return np.where(from_father, fathers, mothers)
