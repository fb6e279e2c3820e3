"""A study as its trainings leave it, made up: nothing is trained, and every number comes from a seeded generator."""

import numpy as np
import pytest

from nas.generalization import Cell, Point, Study, StudySettings
from nas.generalization.core import genes_of
from nas.generalization.measures import LOSSES, THEORY_BITS, LayerNoise, Rise
from nas.quant.noise import Noise

LAYERS = [f"stage{k // 8}.conv{k % 8}" for k in range(40)]
SHIFT = {"fp": 0.0, "8": 0.02, "4": -0.15, "2": 0.6}  # of the final validation loss


@pytest.fixture
def made_study():
    return make_study


def make_study(seeds: int = 5, shift: dict[str, float] | None = None, noise: float = 0.08) -> Study:
    """Validation losses fall and rise again, the more so the more bits; `shift` moves the final ones."""
    shift = SHIFT if shift is None else shift
    settings = StudySettings(bits=tuple(shift), seeds=seeds, epochs=20, genes=genes_of(None, 0))
    rng = np.random.default_rng(5)
    cells = [_cell(bits, seed, shift[bits], settings.epochs, rng, noise) for bits in shift for seed in range(seeds)]
    about = {"data": "digits", "images": {"train": 400, "val": 120}, "parameters": 367_846, "cpu": "Example CPU <b>", "commit": "1a2b3c4",
             "versions": {"python": "3.11.2", "torch": "2.13.0+cpu"}}  # fmt: skip
    return Study(settings, cells, about)


def _cell(bits: str, seed: int, shift: float, epochs: int, rng: np.random.Generator, noise: float) -> Cell:
    own, curve = float(rng.normal(0, noise)), []
    for epoch in range(1, epochs + 1):
        done = epoch / epochs
        train = 3.2 + 5 * np.exp(-4 * done) + (30 if epoch == 1 else 0) + max(shift, 0) + own / 2
        val = train + 1.3 * done**2 + min(shift, 0) * done + own
        due = epoch % 2 == 0
        score = float(0.6 * (1 - np.exp(-3 * done)) - 0.1 * max(shift, 0) + own / 10)
        curve.append(Point(epoch, float(train), float(val), 0.6 * score if due else None, score if due else None))
    held = THEORY_BITS if bits == "fp" else (int(bits),)
    noises = tuple(LayerNoise(layer, b, _noise(b, rng)) for b in held for layer in LAYERS)
    rises = tuple(_rise(loss, b, rng) for loss in LOSSES for b in THEORY_BITS) if bits == "fp" else ()
    return Cell(bits, seed, tuple(curve), float(0.12 + 0.03 * rng.random()), noises, rises)


def _noise(bits: int, rng: np.random.Generator) -> Noise:
    clipped, step = {8: 0.0, 4: 0.01, 2: 0.06, 1: 0.08}[bits], 4.0**-bits
    inside = step * float(rng.normal(1 - 0.1 / bits, 0.02))
    return Noise(step, inside * (1 + 7 * clipped), step, inside, clipped, 2000)


def _rise(loss: str, bits: int, rng: np.random.Generator) -> Rise:
    true = 40 * 4.0**-bits
    shown = true * (0.95 if loss != "whole" else 0.4)
    rounded = true * float(rng.normal(1.2, 0.1)) * (8 if bits < 3 else 1) - (1e-2 if bits == 8 else 0)
    return Rise(loss, bits, shown, true, 0.05 * true, rounded, 3 * true)
