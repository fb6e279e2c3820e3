"""The float detector that tables of accuracy start from, trained once for each seed, and how a net is judged."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from nas.bench.accuracy.core import Cell, Figures, Plan, gmacs
from nas.bench.networks import detector
from nas.data import Dataset, val_batches
from nas.finalist import Recipe, train_float
from nas.model import Model, load, save
from nas.train import Targets, coco_map, detection_loss, predict
from searchspaces import YOLO, Graph
from searchspaces.module import GraphModule, to_torch
from searchspaces.quantizers import floated

SIZE = 160  # px, side of the input
_BATCH = 16


def network(classes: int) -> Graph:
    """YOLOv8n with SiLU everywhere, the net of every table that starts from a trained one."""
    return YOLO.build(detector("c2f", SIZE, "silu", "w8a8"), classes)


def recipe(plan: Plan, seed: int, epochs: int) -> Recipe:
    """`epochs` of them, float or quantized."""
    return Recipe(epochs=epochs, qat_share=1.0, accelerator=plan.accelerator, seed=seed)


def float_file(plan: Plan, seed: int) -> Path:
    return plan.shared("float") / f"yolov8n-s{seed}.safetensors"


def float_model(plan: Plan, dataset: Dataset, seed: int) -> Model:
    """The trained float net of a seed; trained here where no table has done so yet, going on where that was cut off."""
    path = float_file(plan, seed)
    if not path.exists():
        graph = network(len(dataset.classes))
        settings = recipe(plan, seed, plan.epochs).for_float(graph.of("input")[0].shape[-1], dataset, quantized=False)
        model, _ = train_float(graph, dataset, settings, path.with_suffix(""), lambda stage, record: None)
        save(model, path)
    return load(path)


def float_cell(plan: Plan, dataset: Dataset, seed: int) -> Cell:
    """The training of that net as the cell of a table; no work where it is done."""
    graph = network(len(dataset.classes))

    def run(folder: Path) -> Figures:
        model = float_model(plan, dataset, seed)
        return judged(to_torch(floated(model.graph), model.weights), dataset, model.size, plan.accelerator)

    images = 0 if float_file(plan, seed).exists() else plan.epochs * len(dataset.train)
    return Cell(f"float-s{seed}", images * gmacs(graph), run)


def judged(net: GraphModule, dataset: Dataset, size: int, accelerator: str) -> dict[str, float]:
    """{'loss', 'map50', 'map'} of a net on the validation split, from one pass: the training loss without its teacher, and COCO's APs."""
    maps: list[list[Tensor]] = []
    hook = net.register_forward_hook(lambda _, inputs, found: maps.append(found))
    batches = val_batches(dataset.val, size, _BATCH)
    found = predict(net, batches, size, len(dataset.classes), accelerator=accelerator)  # type: ignore[arg-type]
    hook.remove()
    losses = []
    for batch, seen in zip(batches, maps):
        boxes = [box.apply(sample.boxes_xyxy[~sample.crowd]) for sample, box in zip(batch.samples, batch.letterboxes)]
        labels = torch.cat([torch.from_numpy(sample.labels[~sample.crowd]) for sample in batch.samples])
        images = torch.repeat_interleave(torch.arange(len(boxes)), torch.tensor([len(b) for b in boxes]))
        targets = Targets(torch.cat([torch.from_numpy(b).float() for b in boxes]), labels, images)
        losses.append(float(detection_loss([m.cpu() for m in seen], targets, len(dataset.classes)).total))
    metrics = coco_map(dataset.val, found, dataset.classes)
    return {"loss": sum(losses) / len(losses), "map50": metrics.map50, "map": metrics.map}
