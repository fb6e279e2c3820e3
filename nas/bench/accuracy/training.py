"""Table `training`: what a YOLOv8n trained from scratch reaches, over seeds, on each split and for each class.

Its float models are kept for the tables that quantize them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from nas.bench.accuracy.core import Cell, Figures, Plan, Table, gmacs
from nas.bench.accuracy.models import ACTS, float_history, float_model, network
from nas.bench.accuracy.shown import aligned, mean_and_spread
from nas.data import Dataset
from nas.train import Metrics, coco_map, predict
from searchspaces.module import GraphModule, to_torch
from searchspaces.quantizers import floated

SCORED = ("val", "test")


def cells(plan: Plan, dataset: Dataset) -> Sequence[Cell]:
    work = plan.epochs * len(dataset.train) * gmacs(network(plan, len(dataset.classes)))
    return [
        Cell(f"{act}-s{seed}", work, partial(_trained, plan, dataset, act, seed)) for seed in range(plan.seeds) for act in ACTS
    ]


def _trained(plan: Plan, dataset: Dataset, act: str, seed: int, folder: Path) -> Figures:
    model = float_model(plan, dataset, seed, act)
    net = to_torch(floated(model.graph), model.weights)
    return {"training_cpu_seconds": float_history(plan, seed, act).cpu_seconds, **scored_by_split(net, dataset, plan.accelerator)}


def scored_by_split(net: GraphModule, dataset: Dataset, accelerator: str) -> dict[str, Any]:
    """split -> {'map50', 'map', 'ap50' of each class} of a module, for the validation split and for a test split where there is one."""
    found, size = {}, net.graph.of("input")[0].shape[-1]
    for split in splits(dataset):
        samples = dataset.splits[split]
        boxes = predict(net, samples, size, len(dataset.classes), accelerator=accelerator)  # type: ignore[arg-type]
        found[split] = figures_of(coco_map(samples, boxes, dataset.classes))
    return found


def splits(dataset: Dataset) -> list[str]:
    return [split for split in SCORED if any((~sample.crowd).any() for sample in dataset.splits.get(split, ()))]


def figures_of(metrics: Metrics) -> dict[str, Any]:
    return {"map50": metrics.map50, "map": metrics.map, "ap50": {name: ap50 for name, (_, ap50) in metrics.per_class.items()}}


def text(cells: Mapping[str, Figures]) -> str:
    """A row for each activation and split: mean and spread over the seeds that are known."""
    rows = []
    for act in ACTS:
        known = [figures for key, figures in cells.items() if key.startswith(f"{act}-s")]
        for split in SCORED:
            if not (found := [figures[split] for figures in known if split in figures]):
                continue
            columns = {"mAP50": [f["map50"] for f in found], "mAP": [f["map"] for f in found]}
            columns |= {name: [f["ap50"][name] for f in found] for name in found[0]["ap50"]}
            shown = {name: mean_and_spread(values) for name, values in columns.items()}
            spent = fmean(figures["training_cpu_seconds"] for figures in known)
            rows.append({"act": act, "split": split, "seeds": f"{len(found)}", **shown, "CPU s": f"{spent:.0f}"})
    head = "training   YOLOv8n from scratch in float: mAP50, mAP and AP50 of each class, mean +-spread over seeds"
    return "\n".join([head, *aligned(rows)])


TRAINING = Table("training", "YOLOv8n from scratch in float, by split and class", cells, text)
