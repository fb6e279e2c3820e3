"""A table of measured networks as a search space: what is asked for is looked up.

The space is the grid of YOLOBench's names: family, depth, width, resolution.  Objectives as in the searchers' protocol: log latency,
scaled to 0..1 over the table, and mAP50-95; networks that a table does not have cannot be evaluated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from hwmodels.workload import workload
from nas import pareto
from nas.bench.tables import Tables
from nas.objectives import Evaluation, Objective
from searchspaces import yolobench
from searchspaces.graph import Graph
from searchspaces.rewrite import deployed
from searchspaces.space import Arch, Choice, Space

LATENCY, ACCURACY = "log_latency", "map50_95"
REFERENCE = (1.05, 1.05)    # of (scaled log latency, 1 - mAP / best mAP)
_DEPTHS = (0.33, 0.67, 1.0)
_FLAT = "yolo7"             # depth has no effect there
_BELIEF = ("macs_m", "activations_m", "resolution")
_SLOPE = 0.4                # logit(mAP) a standard deviation of the counts: what is believed before anything is measured
OBJECTIVES = (
    Objective(LATENCY, ""),
    Objective("macs_m", "M", optimized=False),
    Objective("activations_m", "M", optimized=False),
    Objective("params_m", "M", optimized=False),
    Objective(ACCURACY, "", "max", "expensive"),
)


def _build(arch: Arch, classes: int) -> Graph:
    return yolobench.build(name_of(arch), classes)


SPACE = Space(
    name="yolobench",
    choices=(
        Choice("family", yolobench.FAMILIES),
        Choice("depth", _DEPTHS, when=("family", tuple(family for family in yolobench.FAMILIES if family != _FLAT))),
        Choice("width", tuple(yolobench.WIDTHS.values())),
        Choice("resolution", yolobench.RESOLUTIONS),
    ),
    build=_build,
)


def arch_of(name: str) -> Arch:
    """'yolo6s-d6w25_320' as genes; the depths .6 of YOLOv6 and .67 of the others are one option."""
    read = yolobench.parse(name)
    depth = _DEPTHS[0] if read.family == _FLAT else min(_DEPTHS, key=lambda option: abs(option - read.depth))
    return SPACE.arch({"family": read.family, "depth": depth, "width": read.width, "resolution": read.resolution})


def name_of(arch: Arch) -> str:
    return _names()[arch]


@cache
def _names() -> dict[Arch, str]:
    return {arch_of(name): name for name in yolobench.names()}


@cache
def counts(name: str) -> dict[str, float]:
    """Counted columns of the deployed network: macs_m, activations_m (outputs of convolutions) and params_m, in millions."""
    load = workload(deployed(yolobench.build(name)))
    elements = sum(op.elements for op in load.ops if op.op in ("conv2d", "conv_transpose2d"))
    return {"macs_m": load.macs / 1e6, "activations_m": elements / 1e6, "params_m": load.params / 1e6}


@dataclass(frozen=True)
class Counting:
    """The belief that accuracy rises with MACs, activation elements and resolution alike; `middle` and `spread` of their logs."""

    middle: np.ndarray
    spread: np.ndarray

    @staticmethod
    def over(names: Sequence[str]) -> Counting:
        logs = _logs([arch_of(name) for name in names], [counts(name) for name in names])
        return Counting(logs.mean(axis=0), logs.std(axis=0))

    def __call__(self, archs: Sequence[Arch], columns: Sequence[Mapping[str, float]]) -> np.ndarray:
        return _SLOPE * np.asarray(((_logs(archs, columns) - self.middle) / self.spread).mean(axis=1))


def _logs(archs: Sequence[Arch], columns: Sequence[Mapping[str, float]]) -> np.ndarray:
    return np.log([[{**row, "resolution": arch["resolution"]}[name] for name in _BELIEF] for arch, row in zip(archs, columns)])


@dataclass(frozen=True)
class Problem:
    """One device and one data set.  `seen` is the latency that searchers are told, scaled; `points` (n, 2) are the truth, both objectives
    minimized, and `volume` the hypervolume of their front.
    """

    device: str
    data: str
    rows: dict[str, int] = field(repr=False)     # name -> row of the arrays
    seen: np.ndarray = field(repr=False)
    accuracy: np.ndarray = field(repr=False)
    points: np.ndarray = field(repr=False)
    volume: float

    @property
    def evaluation(self) -> Evaluation:
        return Evaluation(OBJECTIVES, self.cheap, self.expensive)

    def row(self, arch: Arch) -> int | None:
        return self.rows.get(name_of(arch))

    def cheap(self, arch: Arch) -> dict[str, float]:
        """Raises KeyError for a network that the table does not have."""
        name = name_of(arch)
        return {LATENCY: float(self.seen[self.rows[name]]), **counts(name)}

    def expensive(self, arch: Arch) -> dict[str, float]:
        return {ACCURACY: float(self.accuracy[self.rows[name_of(arch)]])}


def problem(tables: Tables, device: str, data: str, predicted_ms: np.ndarray | None = None) -> Problem:
    """The networks that have an accuracy on `data` and a latency on `device`.  `predicted_ms`, one a network of the tables, is what
    searchers are told instead of the latency that counts.
    """
    known = tables.known(tables.latency_ms[device], tables.map50_95[data])
    latency, accuracy = tables.latency_ms[device][known], tables.map50_95[data][known]
    points = np.stack([_scaled(latency), 1 - accuracy / accuracy.max()], axis=1)
    seen = points[:, 0] if predicted_ms is None else _scaled(predicted_ms[known])
    rows = {tables.names[k]: i for i, k in enumerate(known)}
    return Problem(device, data, rows, seen, accuracy, points, pareto.hypervolume(points, REFERENCE))


def _scaled(latency_ms: np.ndarray) -> np.ndarray:
    logs = np.log(latency_ms)
    return np.asarray((logs - logs.min()) / (logs.max() - logs.min()))
