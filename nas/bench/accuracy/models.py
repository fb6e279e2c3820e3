"""The float detectors that tables of accuracy start from, trained once for each activation and seed, and how a net is judged."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

from nas.bench.accuracy.core import Cell, Figures, Plan, gmacs
from nas.data import Dataset, val_batches
from nas.finalist import Recipe, train_float
from nas.locks import alone
from nas.model import Model, load, save, write_whole
from nas.train import History, coco_map, mean_loss, predict
from searchspaces import YOLO, Graph
from searchspaces.module import GraphModule, to_torch
from searchspaces.nano import nano
from searchspaces.quantizers import floated

ACTS = ("silu", "relu")  # YOLOv8n as it was published, and with the activation that low bits want
_BATCH = 16


def network(plan: Plan, classes: int, act: str = ACTS[0]) -> Graph:
    """YOLOv8n with one activation everywhere, the net of every table that starts from a trained one."""
    return YOLO.build(nano("c2f", plan.size, act, "w8a8"), classes)


def recipe(plan: Plan, seed: int, epochs: int) -> Recipe:
    """`epochs` of them, float or quantized."""
    return Recipe(epochs=epochs, qat_share=1.0, accelerator=plan.accelerator, seed=seed)


def float_file(plan: Plan, seed: int, act: str = ACTS[0]) -> Path:
    return plan.shared("float") / f"yolov8n-{act}-s{seed}.safetensors"


def float_model(plan: Plan, dataset: Dataset, seed: int, act: str = ACTS[0]) -> Model:
    """The trained float net of a seed; trained here where no table has done so yet, going on where that was cut off.

    Where another process is at it, it is waited for.
    """
    path = float_file(plan, seed, act)
    if not path.exists():
        with alone(path.with_suffix(".lock")):
            if not path.exists():
                _train_float(plan, dataset, seed, act, path)
            path.with_suffix(".lock").unlink(missing_ok=True)  # who holds it next finds the file
    return load(path)


def _train_float(plan: Plan, dataset: Dataset, seed: int, act: str, path: Path) -> None:
    graph = network(plan, len(dataset.classes), act)
    settings = recipe(plan, seed, plan.epochs).for_float(graph.of("input")[0].shape[-1], dataset, quantized=False)
    model, history = train_float(graph, dataset, settings, path.with_suffix(""), lambda stage, record: None)
    write_whole(_history_file(path), msgspec.json.encode(history))
    save(model, path)
    shutil.rmtree(path.with_suffix(""))


def float_history(plan: Plan, seed: int, act: str = ACTS[0]) -> History:
    """Of a float net that was trained."""
    return msgspec.json.decode(_history_file(float_file(plan, seed, act)).read_bytes(), type=History)


def _history_file(path: Path) -> Path:
    return path.with_suffix(".history.json")


def float_cell(plan: Plan, dataset: Dataset, seed: int) -> Cell:
    """The training of that net as the cell of a table; no work where it is done."""
    graph = network(plan, len(dataset.classes))

    def run(folder: Path) -> Figures:
        model = float_model(plan, dataset, seed)
        return judged(to_torch(floated(model.graph), model.weights), dataset, model.size, plan.accelerator)

    images = 0 if float_file(plan, seed).exists() else plan.epochs * len(dataset.train)
    return Cell(f"float-s{seed}", images * gmacs(graph), run)


def judged(net: GraphModule, dataset: Dataset, size: int, accelerator: str) -> dict[str, float]:
    """{'loss', 'map50', 'map'} of a net on the validation split: the training loss without its teacher, and COCO's APs."""
    batches, classes = val_batches(dataset.val, size, _BATCH), len(dataset.classes)
    found = predict(net, batches, size, classes, accelerator=accelerator)  # type: ignore[arg-type]
    metrics = coco_map(dataset.val, found, dataset.classes)
    loss = mean_loss(net, batches, size, classes, accelerator=accelerator)  # type: ignore[arg-type]
    return {"loss": loss, "map50": metrics.map50, "map": metrics.map}
