"""How well few measurements price every other network: the latency predictors on YOLOBench's nine devices.

Predictors never see a time of the device beyond the shots.  Transfer uses the device files of the other eight that ship with the toolkit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwmodels.device import Device, devices
from hwmodels.profile import AMOUNTS, Matrix, Vector, profiles
from hwmodels.workload import workload
from nas.bench.tables import CLASSES_TIMED, LATENCIES, Tables
from predictors import Ensemble, choose
from predictors.fitting import device_of_rows
from predictors.rows import Rows, of_profiles, seen_kinds
from searchspaces.rewrite import deployed
from searchspaces.yolobench import FAMILIES, build

SHOTS = (10, 20, 50)
SEEDS = 20
FOLDS = 5  # of architectures: a fifth is left out
POOL = 0.5  # share of the networks, drawn by the seed, among which the active choice picks
REFERENCE = ("sums and process",)  # the peer: non-negative sums and a Gaussian process on their residual, from random draws

_ORIGIN = (
    "whole networks timed by the authors of YOLOBench (Lazarevich et al. 2023, arXiv:2307.13901; Apache-2.0), heads for 80 classes: "
    "github.com/Deeplite/deeplite-torch-zoo, results/yolobench/{file}, column {column}, commit e4c8ea6"
)
_STATED = "named so by the authors' app, huggingface.co/spaces/deepliteai/yolobench"
_CONVERTED = "; networks are searched in float, and the vendor's converter brings them to it"
# device -> board, runtime, precision that our graphs have, where board, runtime and precision are from
BOARDS: dict[str, tuple[str, str, str, str]] = {
    "raspi4-tflite-fp32": ("Raspberry Pi 4 Model B (Cortex-A72)", "TensorFlow Lite", "fp32", _STATED),
    "raspi4-tflite-int8": ("Raspberry Pi 4 Model B (Cortex-A72)", "TensorFlow Lite", "w8a8", "the column's name"),
    "raspi4-ort-fp32": ("Raspberry Pi 4 Model B (Cortex-A72)", "ONNX Runtime", "fp32", _STATED),
    "raspi5-ort-fp32": ("Raspberry Pi 5 Model B (Cortex-A76)", "ONNX Runtime", "fp32", _STATED),
    "jetson_nano-ort-fp32": ("NVIDIA Jetson Nano, GPU", "ONNX Runtime", "fp32", _STATED),
    "x86-openvino-fp32": ("Intel Core i7-10875H", "OpenVINO", "fp32", _STATED),
    "vim3-npu-int16": ("Khadas VIM3, NPU", "the board's NPU runtime, INT16", "fp32", _STATED + _CONVERTED),
    "orange_pi5-npu-fp16": ("Orange Pi 5, NPU", "the board's NPU runtime, FP16", "fp32", _STATED + _CONVERTED),
    "a40-tensorrt-fp32": ("NVIDIA A40", "TensorRT", "fp32", "the column's name; the precision is not stated, float is assumed"),
}


@dataclass(frozen=True)
class Counted:
    """What predictors need to know of the tables' networks: profile (n, AMOUNTS), architecture, family and side (n,), kinds."""

    profile: Matrix
    groups: np.ndarray
    families: np.ndarray
    sides: np.ndarray
    kinds: tuple[str, ...]

    def rows(self, relatives: Sequence[Device] = ()) -> Rows:
        return of_profiles(self.profile, relatives)


@dataclass(frozen=True)
class FewShot:
    """Predicted ms of all networks, each (n,), and the row numbers of those that were measured for it."""

    mean_ms: Vector
    low_ms: Vector
    high_ms: Vector
    measured: np.ndarray


def counted(tables: Tables) -> Counted:
    """A few seconds: builds every network of the tables as it was timed."""
    loads = [workload(deployed(build(name, CLASSES_TIMED, deploy=True))) for name in tables.names]
    parts = [name.rsplit("_", 1) for name in tables.names]
    groups = np.unique([architecture for architecture, _ in parts], return_inverse=True)[1]
    families = np.unique([next(f for f in FAMILIES if name.startswith(f)) for name in tables.names], return_inverse=True)[1]
    return Counted(profiles(loads), groups, families, np.array([int(side) for _, side in parts]), seen_kinds(loads))


def others(device: str) -> list[Device]:
    """The tables' devices that ship with the toolkit, without `device`."""
    shipped = devices()
    return [shipped[name] for name in LATENCIES if name != device and name in shipped]


def few_shot(
    networks: Rows, kinds: Sequence[str], latency_ms: Vector, shots: int, seed: int, *, active: bool = True,
    members: Sequence[str] | None = None,
) -> FewShot:
    """Measure `shots` networks of the table (NaN: not in it), predict all.  `networks` are `Counted.rows(others(device))`, or rows
    without relatives.  About 0.05 s.
    """
    timed, rng = np.flatnonzero(np.isfinite(latency_ms)), np.random.default_rng(seed)
    if active:
        pool = rng.choice(len(timed), int(len(timed) * POOL), replace=False)
        measured = timed[choose(networks[timed], shots, candidates=pool.tolist())]
    else:
        measured = rng.choice(timed, shots, replace=False)
    ensemble = Ensemble() if members is None else Ensemble(members=members)
    ensemble.fit_rows(networks[measured], latency_ms[measured], kinds, asked=networks)
    return FewShot(*ensemble.predict_rows(networks), measured)


def latency_rows(
    tables: Tables, *, shots: Sequence[int] = SHOTS, seeds: int = SEEDS, note: Callable[[str], None] = lambda text: None
) -> list[dict[str, Any]]:
    """One row per device and number of shots; every figure is the median over seeded draws, on all networks not measured.

    mape, within_10, coverage_90 belong to the toolkit's way (active choice, transfer); the same figures follow for random draws
    (_random), without transfer (_alone, _random_alone), with the peer's method, which is random draws without transfer (_reference),
    and for MACs alone (_macs).  mape in percent, the others as fractions.
    """
    known, found = counted(tables), []
    for device in LATENCIES:
        kin = known.rows(others(device))
        for count in shots:
            draws = [_draw(kin, known.kinds, tables.latency_ms[device], count, seed) for seed in range(seeds)]
            medians = {key: round(float(np.median([draw[key] for draw in draws])), 4) for key in draws[0]}
            found.append({"device": device, "shots": count, **medians})
            note(f"{device}, {count} shots: MAPE {medians['mape']:.1f} %, within 10 %: {medians['within_10']:.0%}")
    return found


def _draw(kin: Rows, kinds: Sequence[str], times: Vector, shots: int, seed: int) -> dict[str, float]:
    """Every figure of one draw."""
    alone = kin.without_kin()
    ways = {
        "": few_shot(kin, kinds, times, shots, seed),
        "_random": few_shot(kin, kinds, times, shots, seed, active=False),
        "_alone": few_shot(alone, kinds, times, shots, seed),
        "_random_alone": few_shot(alone, kinds, times, shots, seed, active=False),
        "_reference": few_shot(alone, kinds, times, shots, seed, active=False, members=REFERENCE),
        "_macs": _by_macs(alone.profile, times, shots, seed),
    }
    figures = {f"{key}{suffix}": value for suffix, way in ways.items() for key, value in _judge(way, times).items()}
    figures.pop("coverage_90_macs")  # it has no interval
    return figures


def held_out_rows(tables: Tables, names: Sequence[str] = tuple(LATENCIES)) -> list[dict[str, Any]]:
    """One row per named device: a fifth of the architectures is left out in turn, the rest measured, as for the device files; and the
    meter's noise.

    noise, in percent: how far times are, on average, from ones that never fall as the resolution grows; the meter errs by more.
    """
    known, found = counted(tables), []
    networks = known.rows()
    for device in names:
        times = tables.latency_ms[device]
        timed = np.flatnonzero(np.isfinite(times))
        fold = (np.random.default_rng(0).permutation(int(known.groups.max()) + 1) % FOLDS)[known.groups]
        mean, low, high = np.full((3, len(times)), np.nan)
        for one in range(FOLDS):
            inside, out = timed[fold[timed] != one], timed[fold[timed] == one]
            ensemble = Ensemble(members=REFERENCE).fit_rows(networks[inside], times[inside], known.kinds, known.groups[inside])
            mean[out], low[out], high[out] = ensemble.predict_rows(networks[out])
        judged = _judge(FewShot(mean, low, high, np.zeros(0, dtype=np.int64)), times)
        found.append({"device": device, "networks": len(timed), **judged, "noise": round(_noise(known, times), 4)})
    return found


def device_files(tables: Tables, names: Sequence[str] = tuple(LATENCIES)) -> list[Device]:
    """The fitted devices that ship with the toolkit, from all that the tables hold."""
    known, found = counted(tables), []
    networks = known.rows()
    for device in names:
        file, column, _ = LATENCIES[device]
        board, runtime, precision, stated = BOARDS[device]
        times = tables.latency_ms[device]
        timed = np.flatnonzero(np.isfinite(times))
        fitted = device_of_rows(
            networks[timed], times[timed], known.kinds, known.groups[timed], known.families[timed],
            source=_ORIGIN.format(file=file, column=column), name=device, board=board, runtime=runtime, precisions=(precision,),
        )  # fmt: skip
        fitted.sources.update(board=stated, precisions=stated)
        found.append(fitted)
    return found


def _judge(predicted: FewShot, times: Vector) -> dict[str, float]:
    asked = np.isfinite(times)
    asked[predicted.measured] = False
    error = np.abs(predicted.mean_ms[asked] / times[asked] - 1)
    inside = (predicted.low_ms[asked] <= times[asked]) & (times[asked] <= predicted.high_ms[asked])
    return {
        "mape": round(100 * float(error.mean()), 4),
        "within_10": round(float((error <= 0.1).mean()), 4),
        "coverage_90": round(float(inside.mean()), 4),
    }


def _by_macs(profile: Matrix, times: Vector, shots: int, seed: int) -> FewShot:
    """A start-up time and a time per multiply-accumulate, by non-negative relative least squares on random draws; no interval."""
    from scipy.optimize import nnls

    measured = np.random.default_rng(seed).choice(np.flatnonzero(np.isfinite(times)), shots, replace=False)
    amounts = profile[:, [AMOUNTS.index("network"), AMOUNTS.index("macs")]]
    costs, _ = nnls(amounts[measured] / times[measured, None], np.ones(shots))
    return FewShot(amounts @ costs, amounts @ costs, amounts @ costs, measured)


def _noise(known: Counted, times: Vector) -> float:
    """Percent by which times differ from the nearest ones that rise with the resolution, architecture by architecture."""
    from sklearn.isotonic import isotonic_regression

    off = []
    for group in np.unique(known.groups[np.isfinite(times)]):
        members = np.flatnonzero(known.groups == group)
        rising = times[members[np.argsort(known.sides[members])]]
        off.append(np.abs(np.expm1(isotonic_regression(np.log(rising)) - np.log(rising))))
    return 100 * float(np.mean(np.concatenate(off)))
