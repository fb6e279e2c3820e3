"""The trainings of a study: those of one seed start from the same weights, whatever their bits.  What is finished is not done again."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import msgspec
import torch
from torch import nn

from nas.data import Dataset, Loader, val_batches
from nas.data import load as load_data
from nas.finalist import calibration_batches
from nas.generalization.core import FLOAT, Cell, GeneralizationError, Point, Study, StudySettings
from nas.generalization.measures import flatness, spread, theory, trained_noise
from nas.model import Model, load, save, write_whole
from nas.progress import Progress, Silent, Task
from nas.provenance import commit, cpu_name, versions
from nas.quant import QatSettings, at_precision, fake_quantized
from nas.train import EpochRecord, History, detection_loss, fit, mean_loss, pick_device, set_head_prior, targets_of
from nas.train.evaluate import images_to
from searchspaces import SPACES, Graph, Weights
from searchspaces.module import GraphModule, merged_start, to_torch
from searchspaces.quantizers import floated, quantized
from searchspaces.rewrite import merge_rep

LOSS_IMAGES = 512  # of each split at most, spread over it, on which losses are taken after every epoch
SETTINGS, HISTORY, MODEL, FIGURES = "study.json", "history.json", "model.safetensors", "figures.json"
_TIMED = 3  # steps of training, of which the quickest counts
_PASSES = {True: 3000, False: 200}  # batches that measuring a float net and a quantized one takes, roughly


def run(settings: StudySettings, out: Path, progress: Progress | None = None) -> Study:
    """Do whatever of the study is not done yet, and read the whole.

    out/study.json holds the settings, out/trainings/<bits>-seed<n> a training: checkpoint, then history and model, then figures.  Bits
    and seeds may be added later.  Raises GeneralizationError where the folder holds a study of other settings.
    """
    progress = progress or Silent()
    dataset = load_data(settings.data)
    _claim(out, settings)
    todo = [(bits, seed) for bits in settings.bits for seed in range(settings.seeds) if not (_folder(out, bits, seed) / FIGURES).exists()]
    if todo:
        seconds = {kind: _seconds(settings, dataset, kind) for kind in {bits == FLOAT for bits, _ in todo}}
        minutes = sum(seconds[bits == FLOAT] for bits, _ in todo) / 60
        count = f"{len(todo)} of {len(settings.bits) * settings.seeds} trainings to do, {settings.epochs} epochs each"
        progress.say(f"{count}: about {max(1, round(minutes))} min on this machine")
        with progress.task("epochs", len(todo) * settings.epochs) as task:
            for bits, seed in todo:
                _make(settings, dataset, bits, seed, _folder(out, bits, seed), task)
    files = [_folder(out, bits, seed) / FIGURES for bits in settings.bits for seed in range(settings.seeds)]
    return Study(settings, [msgspec.json.decode(file.read_bytes(), type=Cell) for file in files], _about(dataset, settings))


def start(settings: StudySettings, dataset: Dataset, seed: int) -> tuple[Graph, Weights]:
    """The graph with its rep branches merged, and the float weights from which every bit-width of a seed starts."""
    torch.manual_seed(seed)
    graph, weights = merged_start(_graph(settings, dataset), next(calibration_batches(dataset, settings.size, 1)))
    net = to_torch(floated(graph), weights)
    set_head_prior(net, len(dataset.classes), settings.size)
    return graph, net.weights()


def net_of(settings: StudySettings, dataset: Dataset, bits: str, seed: int) -> tuple[Graph, GraphModule]:
    """The net of one training before its first step, and its graph with bits; quantizers are fitted to the start weights and to
    training images.
    """
    graph, weights = start(settings, dataset, seed)
    if bits == FLOAT:
        return graph, to_torch(floated(graph), weights)
    graph = at_precision(graph, f"w{bits}a{bits}")
    return graph, fake_quantized(graph, weights, calibration_batches(dataset, settings.size, QatSettings().calibration_batches))


def _make(settings: StudySettings, dataset: Dataset, bits: str, seed: int, folder: Path, task: Task) -> None:
    if not (folder / MODEL).exists():
        _train(settings, dataset, bits, seed, folder, task)
    else:
        task.advance(settings.epochs)
    model = load(folder / MODEL)
    net = to_torch(quantized(model.graph) if model.stage == "quantized" else floated(model.graph), model.weights).eval()
    history = msgspec.json.decode((folder / HISTORY).read_bytes(), type=History)
    noise, rises = theory(net, model.graph, dataset, settings.size, seed) if bits == FLOAT else (trained_noise(net), [])
    cell = Cell(bits, seed, tuple(map(_point, history.epochs)), flatness(net, dataset, settings.size, seed), tuple(noise), tuple(rises))
    write_whole(folder / FIGURES, msgspec.json.encode(cell))


def _train(settings: StudySettings, dataset: Dataset, bits: str, seed: int, folder: Path, task: Task) -> None:
    graph, net = net_of(settings, dataset, bits, seed)
    recipe, done = settings.recipe(seed, dataset), 0
    splits = {
        f"{split}_loss": val_batches(spread(dataset.splits[split], LOSS_IMAGES), settings.size, 2 * recipe.batch_of(len(dataset.train)))
        for split in ("train", "val")
    }

    def measured(model: nn.Module) -> dict[str, float]:
        return {
            name: mean_loss(model, images, settings.size, len(dataset.classes), accelerator=recipe.accelerator)
            for name, images in splits.items()
        }

    def on_epoch(record: EpochRecord) -> None:
        nonlocal done
        done += 1
        task.advance(1, f"{bits} seed {seed}: loss {record.figures['train_loss']:.2f}, val {record.figures['val_loss']:.2f}")

    history = fit(net, dataset, recipe, out=folder / "checkpoint", on_epoch=on_epoch, measure=measured)
    task.advance(settings.epochs - done)
    write_whole(folder / HISTORY, msgspec.json.encode(history))
    save(Model(graph, net.weights(), dataset.classes, "float" if bits == FLOAT else "quantized"), folder / MODEL)
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)


def _point(record: EpochRecord) -> Point:
    return Point(record.epoch, record.figures["train_loss"], record.figures["val_loss"], record.map, record.map50)


def _seconds(settings: StudySettings, dataset: Dataset, is_float: bool) -> float:
    """Of one training and what is measured of it, by a few steps of an untrained net here and now."""
    graph = merge_rep(_graph(settings, dataset))[0]
    recipe, classes = settings.recipe(0, dataset), len(dataset.classes)
    device = pick_device(recipe.accelerator)
    net = to_torch(floated(graph) if is_float else quantized(at_precision(graph, "w8a8"))).train()
    net = net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    batch_size = recipe.batch_of(len(dataset.train))
    batch = next(iter(val_batches(dataset.train, settings.size, batch_size)))
    images, targets = images_to(batch.images, device), targets_of(batch, device)
    spent: list[tuple[float, float]] = []
    for _ in range(_TIMED):
        before = time.perf_counter()
        loss = detection_loss(net(images), targets, classes).total
        middle = time.perf_counter()
        loss.backward()
        spent.append((middle - before, time.perf_counter() - middle))
    forward, backward = (min(times) for times in zip(*spent))
    seen = sum(min(LOSS_IMAGES, len(dataset.splits[split])) for split in ("train", "val"))
    epoch = len(Loader(dataset.train, settings.size, batch_size)) * (forward + backward) + seen / len(batch.samples) * forward
    return settings.epochs * epoch + _PASSES[is_float] * forward


def _graph(settings: StudySettings, dataset: Dataset) -> Graph:
    return SPACES["yolo"].build(settings.arch, len(dataset.classes))


def _folder(out: Path, bits: str, seed: int) -> Path:
    return out / "trainings" / f"{bits}-seed{seed}"


def _claim(out: Path, settings: StudySettings) -> None:
    """Write the settings beside what comes of them, or see that those that stand there differ in bits and seeds alone."""
    path = out / SETTINGS
    said = msgspec.to_builtins(settings)
    if path.exists():
        try:
            found = msgspec.to_builtins(msgspec.json.decode(path.read_bytes(), type=StudySettings))
        except (msgspec.MsgspecError, GeneralizationError) as fault:
            raise GeneralizationError(f"{path} holds no settings of a study: {fault}") from None
        for name in said.keys() - {"bits", "seeds"}:
            if found[name] != said[name]:
                raise GeneralizationError(f"{out} holds a study with {name}={found[name]!r}, not {said[name]!r}; give another --out")
    write_whole(path, msgspec.json.encode(settings))


def _about(dataset: Dataset, settings: StudySettings) -> dict[str, object]:
    graph = _graph(settings, dataset)
    parameters = sum(p.numel() for p in to_torch(floated(graph)).parameters())
    return {
        "data": dataset.name,
        "images": {split: len(samples) for split, samples in dataset.splits.items()},
        "parameters": parameters,
        "cpu": cpu_name(),
        "commit": commit() or "not a checkout",
        "versions": versions(),
    }
