"""`edgenas devices fit`: a device file from a table of measured networks, and which networks to measure for it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from hwmodels.device import Device, known
from hwmodels.workload import Workload, workload
from predictors import choose, fit_device, rows
from predictors.ensemble import FEW
from searchspaces import SPACES, Graph
from searchspaces import yolobench as named
from searchspaces.quantizers import quantized
from searchspaces.rewrite import deployed
from searchspaces.tables import TableError, read
from searchspaces.yolo import with_precisions

UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


class FitSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `edgenas devices fit` was asked for.

    name        of the device; its parts should say board, runtime and precision: 'raspi4-tflite-int8'
    precision   of the networks that were timed: 'fp32', or 'w8a8' for 8-bit integers
    source      who measured, and how
    key, column of the table: the networks' names or files, and their times in `unit`
    classes     of the heads of networks that are given by name
    transfer    use the fitted devices that are known as features, where few networks were measured
    """

    name: str
    board: str
    runtime: str
    precision: str = "fp32"
    source: str
    key: str = "model_name"
    column: str = "ms"
    unit: str = "ms"
    classes: int = 80
    transfer: bool = True


def fit_table(path: Path, settings: FitSettings) -> Device:
    """The device that a table tells of: CSV, a network a row, named as in YOLOBench or by a file, and its time.

    A file, relative to the table, holds a graph (Graph.to_json) or {"space": ..., "genes": ...}.  Raises TableError naming row and
    column, and PredictorError for too few networks.
    """
    if settings.unit not in UNITS:
        raise TableError(f"no unit '{settings.unit}' of time; units: {', '.join(UNITS)}")
    found: list[tuple[Workload, str, str]] = []
    table = read(path, [settings.column], key=settings.key, positive=True,
                 check=lambda name: found.append(_network(name, path.parent, settings.classes)))  # fmt: skip
    loads, groups, families = zip(*found)
    wrong = {op.precision for load in loads for op in load.ops if op.macs} - {settings.precision, "fp32"}
    if wrong:
        raise TableError(f"{path}: networks of {sorted(wrong)[0]} cannot make a device of {settings.precision}")
    relatives = [device for device in known().values() if device.networks and device.name != settings.name] if settings.transfer else []
    return fit_device(
        loads,
        UNITS[settings.unit] * table[settings.column],
        groups=np.unique(groups, return_inverse=True)[1],
        families=np.unique(families, return_inverse=True)[1] if len(set(families)) >= _FEWEST_FAMILIES else None,
        relatives=[device for device in relatives if device.networks and not device.networks.relatives],
        asked=_library(settings.classes) if len(loads) <= FEW else (),
        source=settings.source,
        name=settings.name,
        board=settings.board,
        runtime=settings.runtime,
        precisions=(settings.precision,),
    )


_FEWEST_FAMILIES = 4  # fewer tell nothing about families that were not measured


def to_measure(count: int, measured: Sequence[str] = (), classes: int = 80, device: str = "") -> list[str]:
    """Names of YOLOBench networks, in the order in which measuring them teaches most about all of them, given what was `measured`.

    Raises YOLOBench's error for an unknown name.  `device`: one that must not lend its predictions, as it is measured itself.
    """
    for name in measured:
        named.check(name)
    names = list(named.names())
    relatives = [d for d in known().values() if d.networks and not d.networks.relatives and d.name != device]
    every = rows(_library(classes), relatives)
    return [names[i] for i in choose(every, count, measured=[names.index(name) for name in measured])]


def _library(classes: int) -> list[Workload]:
    """YOLOBench's networks, in the order of their names; takes seconds."""
    return [workload(deployed(named.build(name, classes, deploy=True))) for name in named.names()]


def _network(name: str, folder: Path, classes: int) -> tuple[Workload, str, str]:
    """The deployed network's workload, and the names of its architecture and family; raises ValueError saying what is wrong."""
    if not name.endswith(".json"):
        named.check(name)
        architecture = name.rsplit("_", 1)[0]
        family = next(family for family in named.FAMILIES if name.startswith(family))
        return workload(deployed(named.build(name, classes, deploy=True))), architecture, family
    try:
        text = (folder / name).read_text(encoding="utf-8")
        data = json.loads(text)
    except OSError as fault:
        raise ValueError(f"{folder / name}: {fault.strerror}") from None
    except ValueError as fault:
        raise ValueError(f"{folder / name} is no JSON: {fault}") from None
    if isinstance(data, dict) and isinstance(data.get("genes"), dict):
        if (space := SPACES.get(data.get("space", ""))) is None:
            raise ValueError(f"{name}: no space '{data.get('space', '')}'; spaces: {', '.join(SPACES)}")
        floats = all(option == "fp32" for gene, option in data["genes"].items() if gene.endswith(".precision"))
        arch = (with_precisions(space, ["fp32"]) if floats else space).arch(data["genes"])
        graph = space.build(arch, int(data.get("classes", classes)))
        alike = {gene: option for gene, option in arch.genes.items() if gene != "resolution"}
        return workload(deployed(quantized(graph))), json.dumps(alike, sort_keys=True), data["space"]
    return workload(deployed(quantized(Graph.from_json(text)))), name, "graphs"
