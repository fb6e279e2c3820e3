"""The search's accuracy score: how good the architecture may get, less what its bits take away.

score = architecture term * (1 - drop(signal-to-noise ratio of quantization)).  A *ranking* score in the unit of VOC mAP50-95: it
is as good as its calibration, so `recalibrated` maps it to the mAP of the finalists that a study has trained.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from math import exp, isfinite
from types import MappingProxyType

import msgspec
import numpy as np
import torch

from proxies.errors import ProxyError
from proxies.learner import Monotone
from proxies.probe import Probe, noise_probe
from proxies.sensitivity import SIDE, SNR_CAP_DB, quant_noise
from proxies.structure import matrix, structure
from proxies.walk import quantized_start
from searchspaces import SPACES, Arch, Graph
from searchspaces.ops import FLOAT_BITS
from searchspaces.quantizers import quantized

# SNR in dB (quant_noise) and the share of mAP50-95 that quantization-aware training lost: a curve through what was measured on BCCD, 10 or
# 15 quantized epochs, one seed each, against what W8A8 makes of a float net (1.05 times its mAP).  YOLOv5n and YOLOv8n, scaled: .01 to .05
# lost at W4A4 (6 nets, 7.8 dB), .08 and .13 at W2A2 with ReLU (1.7; .11 in another), .12, .16, .18 at W2A2 with SiLU (.4).  A searched
# net with SiLU at W2A2 lost .18 (.8), one with a W2A2 backbone at W4A8 .07 (10.6).  With a W1A1 backbone, neck and head at W4A8 a YOLOv8n
# lost .37 (-6.7), a random net with bits from W2A2 to W1A1 .55 (-3.0).
# Knots, quant_noise's INHERITED and ONE_BIT were chosen on trained networks; no network that was held out has judged them.
DROP_KNOTS = ((0.5, 0.16), (1.7, 0.11), (8.0, 0.03), (33.0, 0.0))
# Precision throughout that YOLOv8n -> its SNR in dB.
SNR_AT: Mapping[str, float] = MappingProxyType({
    "fp32": SNR_CAP_DB, "w8a8": 32.1, "w4a8": 17.6, "w4a4": 8.0, "w2a8": 3.8, "w2a4": 2.5, "w2a2": 0.4, "w1a2": -1.7, "w1a1": -13.0,
})  # fmt: skip


@cache
def calibrated() -> Monotone:
    """The architecture term: fitted on YOLOBench by proxies.yolobench.fit and stored beside this file."""
    return msgspec.json.decode((files("proxies") / "architecture.json").read_bytes(), type=Monotone)


def architecture_term(features: Mapping[str, float]) -> float:
    """VOC mAP50-95 that the float network may reach, 0..1; `features` as structure() gives them.

    More of a feature never changes it for the worse (less, for the shortest path), each new piece brings less than the last,
    and far outside of the calibration it stops: no feature can be traded away for score.
    """
    for name in calibrated().names:
        if name not in features or not isfinite(features[name]):
            raise ProxyError(f"the accuracy score needs a finite feature '{name}'; got {dict(features)}")
    return float(calibrated()(matrix([features]))[0])


def drop(snr_db: float) -> float:
    """Share of the float network's mAP that is lost at this SNR, in 0..1; falls with it and is 0 from W8A8 upwards."""
    snrs, drops = np.transpose(DROP_KNOTS)
    if snr_db >= snrs[0]:
        return float(np.interp(snr_db, snrs, drops))
    slope = (drops[0] - drops[1]) / (snrs[1] - snrs[0])  # per dB, goes on towards a loss of everything
    return float(1 - (1 - drops[0]) * exp(-slope / (1 - drops[0]) * (snrs[0] - snr_db)))


def accuracy_score(features: Mapping[str, float], snr_db: float) -> float:
    """The search's objective, higher is better; `features` as structure() gives them, `snr_db` from quant_noise."""
    return architecture_term(features) * (1 - drop(snr_db))


@dataclass(frozen=True)
class Estimate:
    """score = architecture * (1 - drop); features of structure(); snr_db of quant_noise."""

    score: float
    architecture: float
    drop: float
    snr_db: float
    features: Mapping[str, float]
    seconds: float


@cache
def reference_probe() -> Probe:
    """The images of the calibration: seeded noise, so that the score of an architecture does not hang on a data set."""
    return noise_probe(SIDE)


def estimate(network: Graph | Arch, classes: int = 20, seed: int = 0) -> Estimate:
    """The accuracy score of one candidate with its parts; raises ProxyError where a part is not finite.

    About 0.1 s on one thread whatever the resolution, a few milliseconds for a float network.
    """
    begin = time.perf_counter()
    graph = SPACES[network.space].build(network, classes) if isinstance(network, Arch) else network
    found = structure(graph)
    snr_db = _snr_db(graph, seed)
    if not isfinite(snr_db):
        raise ProxyError(f"quant_noise is {snr_db}")
    architecture, lost = architecture_term(found), drop(snr_db)
    return Estimate(architecture * (1 - lost), architecture, lost, snr_db, found, time.perf_counter() - begin)


def _snr_db(graph: Graph, seed: int) -> float:
    """quant_noise on the reference probe; a float graph has no rounding to measure."""
    form = quantized(graph)
    if not form.of("quantize") and all(node.get("wbits", FLOAT_BITS) == FLOAT_BITS for node in form):
        return SNR_CAP_DB
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        seen = replace(reference_probe(), scored=graph, seed=seed)
        return quant_noise(quantized_start(graph, seen.images).train(), seen)


@dataclass(frozen=True)
class Recalibration:
    """predicted mAP = slope * score + intercept, slope >= 0, so ranks stay.  `error` is the mean absolute error on finalists that
    were left out of the fit, None below three of them.
    """

    slope: float
    intercept: float
    error: float | None
    finalists: int

    def __call__(self, score: float) -> float:
        return min(1.0, max(0.0, self.slope * score + self.intercept))


def recalibrated(scores: Sequence[float], measured: Sequence[float]) -> Recalibration:
    """Fits the score to what trained finalists reached (mAP50 of their artifacts, 0..1).

    One finalist, or several of one score, set the ratio; more add a slope, pulled towards that ratio because finalists lie close
    together in score and their mAP carries training noise.
    """
    if len(scores) != len(measured) or not scores:
        raise ProxyError(f"recalibration needs as many scores as measured values, at least one: {len(scores)} and {len(measured)}")
    x, y = np.asarray(scores, dtype=float), np.asarray(measured, dtype=float)
    if not (np.isfinite(x).all() and np.isfinite(y).all()) or x.min() <= 0:
        raise ProxyError(f"recalibration needs finite measured values and positive scores: {list(scores)}, {list(measured)}")
    slope, intercept = _affine(x, y)
    error = None
    if len(x) >= 3:
        others = [np.arange(len(x)) != i for i in range(len(x))]
        fits = [_affine(x[keep], y[keep]) for keep in others]
        error = float(np.mean([abs(a * x[i] + b - y[i]) for i, (a, b) in enumerate(fits)]))
    return Recalibration(slope, intercept, error, len(x))


_PRIOR_SPREAD = 0.02  # of scores: finalists spread like this move the slope half-way from the ratio to their own


def _affine(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    ratio = y.mean() / x.mean()
    dx, prior = x - x.mean(), len(x) * _PRIOR_SPREAD**2
    slope = max(0.0, float((dx @ (y - y.mean()) + prior * ratio) / (dx @ dx + prior)))
    return slope, float(y.mean() - slope * x.mean())
