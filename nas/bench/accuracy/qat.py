"""Tables `qat` and `ways`: what quantization-aware training keeps of a float net at each precision, as the trained module and as the
artifact, and what its parts are worth at two bits.

Every net starts from the float model of its seed that table `training` keeps, and trains half as many epochs again.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec

from nas.bench.accuracy.core import Cell, Figures, Plan, Table, gmacs, known
from nas.bench.accuracy.models import float_model, network, recipe
from nas.bench.accuracy.shown import aligned, mean_and_spread
from nas.bench.accuracy.training import SCORED, figures_of, scored_by_split, splits
from nas.data import Dataset
from nas.finalist import compile_model, scored, train_quantized
from nas.model import Model, load, save, write_whole
from nas.quant import QatSettings, at_precision
from nas.runtime import Executor
from nas.train import History
from searchspaces.module import to_torch
from searchspaces.quantizers import floated, quantized

# (activation, precision) -> the drop of mAP50 that is wanted at most, as measured on BCCD; None where there is no such bar
NETS: Mapping[tuple[str, str], float | None] = {
    ("silu", "w8a8"): 0.005,
    ("silu", "w4a4"): 0.02,
    ("silu", "w3a3"): 0.04,
    ("relu", "w2a2"): 0.08,
    ("relu", "w1a2"): None,
}
HARD = ("relu", "w2a2")  # the net on which ways of training are set side by side
USUAL = "usual"
WAYS: Mapping[str, QatSettings] = {
    USUAL: QatSettings(),
    "no-teacher": QatSettings(distill=False),
    "ladder-8-4": QatSettings(ladder=(8, 4)),
    "norms-anew": QatSettings(norm_batches=16),
}
APART = 0.002  # mAP50 that module and artifact may differ by


def _epochs(plan: Plan) -> int:
    return max(1, plan.epochs // 2)


def cells(plan: Plan, dataset: Dataset) -> Sequence[Cell]:
    images = _epochs(plan) * len(dataset.train)
    work = images * gmacs(network(plan, len(dataset.classes)))
    return [
        Cell(f"{act}-{precision}-s{seed}", 0.0, partial(_quantized, plan, dataset, act, precision, seed, QatSettings()), work)
        for seed in range(plan.seeds)
        for act, precision in NETS
    ]


def _ways(plan: Plan, dataset: Dataset) -> Sequence[Cell]:
    work = _epochs(plan) * len(dataset.train) * gmacs(network(plan, len(dataset.classes)))
    return [
        Cell(f"{way}-s{seed}", 0.0, partial(_quantized, plan, dataset, *HARD, seed, settings), work)
        for seed in range(plan.seeds)
        for way, settings in WAYS.items()
    ]


def _quantized(plan: Plan, dataset: Dataset, act: str, precision: str, seed: int, qat: QatSettings, folder: Path) -> Figures:
    """split -> scores of 'fp32', 'module' and 'artifact'; what table `qat` has found in the usual way already is taken from there."""
    done = known(plan, dataset, QAT).get(f"{act}-{precision}-s{seed}")
    if done is not None and qat == QatSettings():
        return done
    start = float_model(plan, dataset, seed, act)
    start = replace(start, graph=at_precision(start.graph, precision))
    model, history = _trained(start, plan, dataset, seed, qat, folder)
    artifact = folder / "model.edge"
    compile_model(model, artifact, {"float": f"{act}-s{seed}"})
    executor = Executor.load(artifact)
    found = {
        "fp32": scored_by_split(to_torch(floated(start.graph), start.weights), dataset, plan.accelerator),
        "module": scored_by_split(to_torch(quantized(model.graph), model.weights), dataset, plan.accelerator),
        "artifact": {split: figures_of(scored(executor, dataset.splits[split], dataset)) for split in splits(dataset)},
    }
    by_split = {split: {form: scores[split] for form, scores in found.items()} for split in splits(dataset)}
    return {"training_cpu_seconds": history.cpu_seconds, **by_split}


def _trained(start: Model, plan: Plan, dataset: Dataset, seed: int, qat: QatSettings, folder: Path) -> tuple[Model, History]:
    """The quantized model, kept in the folder; an interrupted training goes on."""
    file, kept, training = folder / "quantized.safetensors", folder / "history.json", folder / "training"
    if not kept.exists():
        asked = recipe(plan, seed, _epochs(plan))
        model, history = train_quantized(
            start, dataset, asked.for_qat(start.size, dataset), qat, training, lambda stage, record: None
        )
        save(model, file)
        write_whole(kept, msgspec.json.encode(history))
        shutil.rmtree(training)
    return load(file), msgspec.json.decode(kept.read_bytes(), type=History)


def text(cells: Mapping[str, Figures]) -> str:
    """A row for each net, precision and split: means over the seeds that are known, and the spread of the drop."""
    rows = []
    for (act, precision), bar in NETS.items():
        known = [figures for key, figures in cells.items() if key.startswith(f"{act}-{precision}-s")]
        for split in SCORED:
            if not (found := [figures[split] for figures in known if split in figures]):
                continue
            fp32, module, artifact = ([f[form] for f in found] for form in ("fp32", "module", "artifact"))
            apart = max(abs(m["map50"] - a["map50"]) for m, a in zip(module, artifact))
            rows.append({
                "act": act, "bits": precision, "split": split, "seeds": f"{len(found)}",
                "fp32 mAP50": mean_and_spread([f["map50"] for f in fp32]),
                "module mAP50": mean_and_spread([m["map50"] for m in module]), "mAP": mean_and_spread([m["map"] for m in module]),
                "artifact mAP50": mean_and_spread([a["map50"] for a in artifact]), "apart": f"{apart:.4f}",
                "drop": mean_and_spread([f["map50"] - a["map50"] for f, a in zip(fp32, artifact)]), "bar": "-" if bar is None else f"{bar}",
            })  # fmt: skip
    head = (f"qat   YOLOv8n after quantization-aware training, mean +-spread over seeds; drop: fp32 less artifact; "
            f"apart: most between module and artifact, wanted within {APART}")  # fmt: skip
    return "\n".join([head, *aligned(rows)])


def _ways_text(cells: Mapping[str, Figures]) -> str:
    """A row for each way: the artifact on the validation split, and what that is above the usual way from the same start."""
    rows = []
    for way in WAYS:
        val = {key.rpartition("-s")[2]: figures["val"]["artifact"] for key, figures in cells.items() if key.startswith(f"{way}-s")}
        paired = [(found, cells[f"{USUAL}-s{seed}"]["val"]["artifact"]) for seed, found in val.items() if f"{USUAL}-s{seed}" in cells]
        if paired:
            columns = {name: [found[name] for found in val.values()] for name in ("map50", "map")}
            gain = [found["map50"] - usual["map50"] for found, usual in paired]
            rows.append({"way": way, "seeds": f"{len(val)}", **{name: mean_and_spread(values) for name, values in columns.items()},
                         "gain of mAP50": "-" if way == USUAL else mean_and_spread(gain)})  # fmt: skip
    head = f"ways   {HARD[0]} YOLOv8n at {HARD[1]} by parts of the training, artifact on val, mean +-spread over seeds"
    return "\n".join([head, *aligned(rows)])


WAYS_TABLE = Table("ways", "what the parts of quantization-aware training are worth at two bits", _ways, _ways_text)
QAT = Table("qat", "what quantization-aware training keeps at each precision, module and artifact", cells, text)
