"""Fits and judges the architecture term on YOLOBench (Lazarevich et al. 2023, arXiv:2307.13901): VOC trained from scratch.

Of its 968 networks the 132 `yolo8` ones (12 sizes at 11 resolutions) are points of our `yolo` graph builder.  The tables are not
part of the package; `python -m proxies.yolobench PATH/VOC_scratch_100epochs.csv` refits architecture.json and prints the report.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path

import numpy as np
from scipy.optimize import nnls

from proxies.activation import SIDE, nwot
from proxies.combine import FEATURES, ArchitectureTerm, features, nwot_growth, reference_probe
from proxies.core import score
from proxies.errors import ProxyError
from searchspaces import Arch
from searchspaces.yolo import PARTS, STAGES, build_yolo

CLASSES = 20  # of the accuracies; the latencies were measured with 80
# Per sample, of standardized features.  Less puts all weight on activation elements, which ranks this table best but is one count
# that a search could inflate by wide early stages; more costs tau.  The report shows both.
RIDGE = 0.01
SEEDS = (0, 1, 2)
LATENCIES = ("pi4_tflite_fp32_latency", "vim3_latency")
BAND = 1.5  # a search compares networks of one latency
_NAME = re.compile(r"yolo8(?:([nsml])|d(\d+)w(\d+))_(\d+)")
_LETTERS = {"n": (0.33, 0.25), "s": (0.33, 0.5), "m": (0.67, 0.75), "l": (1.0, 1.0)}
_CAPS = {0.33: 1024, 0.67: 768, 1.0: 512}


@dataclass(frozen=True)
class Row:
    """One network of the table: `size` names its architecture, latencies in seconds in the order of LATENCIES."""

    size: str
    map50_95: float
    latencies: tuple[float, ...]
    features: dict[str, float]


def yolov8(depth: float, width: float, resolution: int, precision: str = "fp32") -> Arch:
    """A YOLOv8 as YOLOBench scales it, SiLU everywhere.  Some widths lie outside the searched options: build it, don't mutate it."""
    def channels(c: int) -> int:
        return ceil(min(c, _CAPS[depth]) * width / 8) * 8

    def repeats(n: int) -> int:
        return max(1, round(n * depth))

    p3 = channels(256)
    genes = {"resolution": resolution, "backbone.block": "c2f", "neck": "pan", "stem.width": channels(64), "neck.depth": repeats(3),
             "pan.depth": repeats(3), "head.box": max(16, p3 // 4, 64), "head.cls": max(p3, CLASSES)}
    for stage, c, n in zip(STAGES, (128, 256, 512, 1024), (3, 6, 6, 3)):
        genes |= {f"stage{stage}.width": channels(c), f"stage{stage}.depth": repeats(n)}
    genes |= {f"{part}.precision": precision for part in PARTS} | {f"{part}.act": "silu" for part in ("stem", *PARTS)}
    return Arch("yolo", genes)


def load(path: Path, seeds: Sequence[int] = SEEDS) -> list[Row]:
    """The yolo8 rows of VOC_scratch_100epochs.csv with their features; scores nwot once a size and seed, about 3 s a seed."""
    signs: dict[str, float] = {}
    rows = []
    with path.open(newline="") as table:
        for line in csv.DictReader(table):
            match = _NAME.fullmatch(line["model_name"])
            if not match:
                continue
            letter, d, w, side = match.groups()
            depth, width = _LETTERS[letter] if letter else (_fraction(d), _fraction(w))
            size = f"d{depth}w{width}"
            if size not in signs:
                signs[size] = score(nwot, build_yolo(yolov8(depth, width, SIDE), CLASSES), reference_probe(), seeds).number()
            graph = build_yolo(yolov8(depth, width, int(side)), CLASSES)
            found = features(graph, signs[size] + nwot_growth(reference_probe(), int(side)))
            rows.append(Row(size, float(line["mAP_0.5:0.95"]), tuple(float(line[name]) for name in LATENCIES), found))
    if not rows:
        raise ProxyError(f"{path} holds no yolo8 row: VOC_scratch_100epochs.csv of YOLOBench is needed")
    return rows


def _fraction(digits: str) -> float:
    return 1.0 if digits == "1" else float(f"0.{digits}")


def fit(rows: list[Row], used: tuple[str, ...] = FEATURES, ridge: float = RIDGE) -> ArchitectureTerm:
    """Non-negative ridge of logit(mAP50-95) on standardized features; those not `used` get weight 0."""
    x = np.array([[row.features[name] for name in FEATURES] for row in rows])
    y = np.array([row.map50_95 for row in rows])
    logit = np.log(y / (1 - y))
    mean, std = x.mean(0), x.std(0)
    z = (x - mean) / std * [name in used for name in FEATURES]
    penalty = np.sqrt(ridge * len(rows)) * np.eye(len(FEATURES))
    weights, _ = nnls(np.vstack([z, penalty]), np.concatenate([logit - logit.mean(), np.zeros(len(FEATURES))]))
    source = (f"ridge {ridge} on {len(rows)} yolo8 networks of YOLOBench (arXiv:2307.13901), VOC from scratch, mAP50-95; "
              f"python -m proxies.yolobench")
    mean, std, low, high, weights = (tuple(np.round(column, 5).tolist()) for column in (mean, std, x.min(0), x.max(0), weights))
    return ArchitectureTerm(mean, std, low, high, weights, round(float(logit.mean()), 5), source)


def held_out(rows: list[Row], used: tuple[str, ...] = FEATURES, ridge: float = RIDGE) -> np.ndarray:
    """(rows,) predictions, each by a fit that saw no network of the row's size."""
    found = np.empty(len(rows))
    for size in {row.size for row in rows}:
        term = fit([row for row in rows if row.size != size], used, ridge)
        for i, row in enumerate(rows):
            if row.size == size:
                found[i] = term(row.features)
    return found


def kendall_tau(predicted: np.ndarray, true: np.ndarray, latencies: np.ndarray | None = None, band: float = BAND) -> float:
    """Tau over all pairs, or over those whose latencies differ by at most the factor `band`.  A tie counts 0."""
    i, j = np.triu_indices(len(true), 1)
    if latencies is not None:
        near = np.abs(np.log(latencies[i] / latencies[j])) <= np.log(band)
        i, j = i[near], j[near]
    return float(np.mean(np.sign(predicted[i] - predicted[j]) * np.sign(true[i] - true[j])))


def report(rows: list[Row]) -> list[tuple[str, list[float]]]:
    """(name, [tau over all, tau within bands of each of LATENCIES, mean absolute error]), baselines first; a baseline is the bare
    number, so its error is NaN.  Combinations leave one architecture out.
    """
    true = np.array([row.map50_95 for row in rows])
    times = np.array([row.latencies for row in rows]).T
    without = tuple(name for name in FEATURES if name != "nwot")
    cases = {name: np.array([row.features[name] for row in rows]) for name in FEATURES}
    fits = {"accuracy score": (FEATURES, RIDGE), "the same without nwot": (without, RIDGE), "the same, ridge 0.001": (FEATURES, 0.001),
            "the same, ridge 0.1": (FEATURES, 0.1)}
    cases |= {name: held_out(rows, *how) for name, how in fits.items()}
    return [
        (name, [kendall_tau(found, true), *(kendall_tau(found, true, t) for t in times),
                float(np.abs(found - true).mean()) if name in fits else float("nan")])
        for name, found in cases.items()
    ]


def main(table: str) -> None:
    rows = load(Path(table))
    stored = Path(__file__).with_name("architecture.json")
    stored.write_text(json.dumps(asdict(fit(rows)), indent=1) + "\n")
    print(f"{len(rows)} networks, Kendall tau with VOC mAP50-95; within {BAND}x latency bands; combinations leave one architecture out")
    print(f"{'':28}{'all':>8}{'pi4':>8}{'vim3':>8}{'MAE':>8}")
    for name, values in report(rows):
        print(f"{name:28}" + "".join(f"{value:8.3f}" for value in values))


if __name__ == "__main__":
    main(sys.argv[1])
