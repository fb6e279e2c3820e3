"""What a study says: means with intervals over seeds, float against quantized seed by seed, and whether that supports a recommendation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from scipy.stats import norm, t

from nas.generalization.core import FLOAT, Study
from nas.quant.noise import Noise, pooled

RESAMPLES = 10_000
COVER = 0.95
ENOUGH_SEEDS = 5  # with fewer, all seeds agree by mere chance too often: 4 of 4 one time in 8
FIGURES = ("train_loss", "val_loss", "gap", "overfit", "map50", "map", "sigma")


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with its bootstrap interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} ({self.low:.3f} to {self.high:.3f})"


def interval(values: Sequence[float], seed: int = 0) -> Interval:
    """The mean and its 95 % percentile bootstrap interval, widened for few values as Student's t is against the normal (expanded
    percentiles, Hesterberg 2015, The American Statistician 69:371).  It never reaches beyond the values themselves, so it is too narrow
    below about five of them.
    """
    x, n = np.asarray(values, dtype=float), len(values)
    resampled = x[np.random.default_rng(seed).integers(0, n, (RESAMPLES, n))].mean(1)
    tail = float(norm.cdf(np.sqrt(n / (n - 1)) * t.ppf((1 - COVER) / 2, n - 1)))
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Interval(float(x.mean()), float(low), float(high))


def by_bits(study: Study) -> dict[str, dict[str, Interval]]:
    """Bit-width -> figure -> interval."""
    return {b: {name: interval([cell.figures[name] for cell in study.of(b)]) for name in FIGURES} for b in study.settings.bits}


def against_float(study: Study) -> dict[str, dict[str, Interval]]:
    """Bit-width -> figure -> interval of its difference from float, taken seed by seed: both started from the same weights."""
    plain = [cell.figures for cell in study.of(FLOAT)]
    return {
        bits: {name: interval([cell.figures[name] - base[name] for cell, base in zip(study.of(bits), plain)]) for name in FIGURES}
        for bits in study.settings.bits
        if bits != FLOAT
    }


def verdict(study: Study) -> str:
    """A recommendation where the validation loss differs from float's with an interval that leaves 0 out; else that there is none."""
    seeds, found = study.settings.seeds, against_float(study)
    told = "; ".join(f"{bits} bits {f['val_loss'].mean:+.3f} ({f['val_loss'].low:+.3f} to {f['val_loss'].high:+.3f})"
                     for bits, f in found.items())  # fmt: skip
    told = f"Validation loss against float, seed by seed: {told}."
    if seeds < ENOUGH_SEEDS:
        return f"No recommendation: {seeds} seeds cannot support one, {ENOUGH_SEEDS} could. {told}"
    better = {bits: f["val_loss"] for bits, f in found.items() if f["val_loss"].high < 0}
    if better:
        bits = min(better, key=lambda name: better[name].mean)
        return f"Recommendation: train with {bits} bits; it ends at a lower validation loss than float. {told}"
    if all(f["val_loss"].low > 0 for f in found.values()):
        return f"Recommendation: do not quantize for the sake of generalization; float ends at the lowest validation loss. {told}"
    return f"No recommendation: the intervals support neither float nor any bit-width. {told}"


def noise_by_layer(study: Study) -> dict[int, dict[str, Noise]]:
    """Bits -> free layer -> rounding noise of the float nets' weights at fitted steps, seeds together."""
    found: dict[int, dict[str, list[Noise]]] = {}
    for row in (row for cell in study.of(FLOAT) for row in cell.noise):
        found.setdefault(row.bits, {}).setdefault(row.layer, []).append(row.noise)
    return {bits: {layer: pooled(noises) for layer, noises in layers.items()} for bits, layers in found.items()}


def noise_by_bits(study: Study) -> dict[int, Noise]:
    """The same over all layers."""
    return {bits: pooled(list(layers.values())) for bits, layers in noise_by_layer(study).items()}


def trained_noise_by_bits(study: Study) -> dict[int, Noise]:
    """Bits -> rounding noise at the steps that training with those bits has learned, free layers and seeds together."""
    wanted = [bits for bits in study.settings.bits if bits != FLOAT]
    return {int(b): pooled([row.noise for cell in study.of(b) for row in cell.noise if row.bits == int(b)]) for b in wanted}


def rise_rows(study: Study) -> list[dict[str, Any]]:
    """The rise of the loss by rounding, means over the float nets; `first_order` is the standard deviation of that part of `rounded`."""
    found: dict[tuple[str, int], list[Any]] = {}
    for cell in study.of(FLOAT):
        for rise in cell.rises:
            found.setdefault((rise.loss, rise.bits), []).append(rise)
    rows = []
    for (loss, bits), rises in found.items():
        mean = {name: float(np.mean([getattr(r, name) for r in rises])) for name in ("predicted", "uniform", "rounded")}
        error = float(np.sqrt(np.sum([r.uniform_error**2 for r in rises]))) / len(rises)
        spread = float(np.sqrt(np.sum([r.first_order**2 for r in rises]))) / len(rises)
        ratio = mean["predicted"] / mean["uniform"]
        rows.append({"loss": loss, "bits": bits, **mean, "uniform_error": error, "predicted_over_uniform": ratio, "first_order": spread})
    return rows


def noise_rows(study: Study) -> list[dict[str, Any]]:
    """Measured over predicted rounding noise by bits, of fitted and of learned steps."""
    kinds = {"fitted": noise_by_bits(study), "learned": trained_noise_by_bits(study)}
    return [
        {"bits": bits, "steps": kind, "measured_over_predicted": n.ratio, "where_the_grid_reaches": n.inside_ratio, "clipped": n.clipped}
        for kind, found in kinds.items()
        for bits, n in found.items()
    ]


def shown(study: Study) -> dict[str, Any]:
    """For a terminal: one row a bit-width, then the theory against what was measured, then the verdict."""
    rows = [{"bits": bits, **{name: str(found) for name, found in figures.items()}} for bits, figures in by_bits(study).items()]
    s = study.settings
    return {
        "trainings": f"{len(study.cells)}, {s.epochs} epochs each, {s.seeds} seeds; means with 95 % intervals over seeds",
        "by_bits": rows,
        "rounding_noise": noise_rows(study),
        "rise_of_the_loss": rise_rows(study),
        "verdict": verdict(study),
    }


def as_json(study: Study) -> dict[str, Any]:
    """Everything, for programs."""
    return {
        "settings": msgspec.to_builtins(study.settings),
        **study.about,
        "by_bits": {b: {n: msgspec.to_builtins(i) for n, i in figures.items()} for b, figures in by_bits(study).items()},
        "against_float": {b: {n: msgspec.to_builtins(i) for n, i in figures.items()} for b, figures in against_float(study).items()},
        "rounding_noise": noise_rows(study),
        "rise_of_the_loss": rise_rows(study),
        "verdict": verdict(study),
        "trainings": [{**msgspec.to_builtins(cell), "figures": cell.figures} for cell in study.cells],
    }
