"""One finalist, from genes to a verified artifact.  Each step leaves a file; a step whose file is there is not done again."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import msgspec
import torch

from hwmodels.calibrate import random_weights
from hwmodels.device import Device
from nas.candidates import columns, deploy_form
from nas.compiler import compile as compile_plan
from nas.compiler import lower
from nas.compiler import save as save_artifact
from nas.data import Dataset, Sample, settings_for, val_batches
from nas.deploy.verify import Run, Verification, boxed, detector, exact_on, limits_met, measure
from nas.model import Model, load, save, write_whole
from nas.objectives import Objective, describe_misses, violations
from nas.quant import QatSettings, fake_quantized, quantize, reestimate_norms, rungs, without_steps
from nas.quant.choice import choose
from nas.quant.costs import LATENCY, SIZE
from nas.quant.errors import NothingFits
from nas.quant.precisions import mixed
from nas.runtime import Executor
from nas.runtime.executor import isa
from nas.train import Detections, EpochRecord, History, Metrics, TrainSettings, evaluate, fit, set_head_prior
from predictors import Estimate
from searchspaces import SPACES, Arch, Graph, Weights
from searchspaces.module import GraphModule, to_torch
from searchspaces.quantizers import floated, quantized
from searchspaces.rewrite import is_float, merge_rep
from searchspaces.yolo import bits

Note = Callable[[str, EpochRecord], None]
Start = Callable[[Weights], Weights]
Bits = Callable[[Model], Model]  # a float model with the bits on its graph that it is to be quantized at
LAYER_BITS = "layer_bits.json"  # of a finalist: layer -> precision, where they were chosen
LAYER_LIMITS = (LATENCY, SIZE)  # within which they can be
_AIM = 0.97  # of a limit, since what is measured after a training differs a little: 14 trained nets took .92 to 1.05 of before
# What fitted before its training is measured again so often, for minutes: the host is busy then, and another finalist takes longer.
_PATIENCE = 24
CHECKED_IMAGES = 2  # compared with the numpy reference bit for bit; it takes seconds an image


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a finalist is trained: `epochs` in all, `qat_share` of them quantized."""

    epochs: int = 40
    qat_share: float = 0.25
    accelerator: str = "auto"
    seed: int = 0
    train: TrainSettings = TrainSettings()
    qat: QatSettings = QatSettings()

    def for_float(self, size: int, dataset: Dataset, quantized: bool) -> TrainSettings:
        epochs = self.epochs - self.qat_epochs if quantized else self.epochs
        return msgspec.structs.replace(
            self.train,
            size=size,
            epochs=epochs,
            seed=self.seed,
            augment=settings_for(dataset),
            accelerator=self.accelerator,
            close_mosaic=min(self.train.close_mosaic, epochs // 3),
        )

    def for_qat(self, size: int, dataset: Dataset) -> TrainSettings:
        return msgspec.structs.replace(
            self.for_float(size, dataset, quantized=False),
            epochs=self.qat_epochs,
            lr=self.qat.lr,
            precision="fp32",
            weight_decay=self.qat.weight_decay,
            warmup_epochs=self.qat.warmup_epochs,
            close_mosaic=self.qat_epochs,
        )

    @property
    def qat_epochs(self) -> int:
        return max(1, round(self.epochs * self.qat_share))


class Finalist(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate that was taken further.  `verified` is None where it was given up before, for the reason in `failed`; `layer_bits` is
    layer -> precision where these were chosen anew."""

    trial: int
    genes: dict[str, Any]
    predicted: dict[str, float]
    verified: Verification | None = None
    failed: str = ""
    layer_bits: dict[str, str] = {}

    @property
    def bits_of_layers(self) -> str:
        """'31 w4a4, 12 w2a2', the most frequent first."""
        return ", ".join(f"{count} {precision}" for precision, count in Counter(self.layer_bits.values()).most_common())

    @property
    def met(self) -> bool:
        return self.verified is not None and self.verified.met


def calibration_batches(dataset: Dataset, size: int, batches: int, batch: int = 16) -> Iterator[torch.Tensor]:
    """Letterboxed training images (N, 3, size, size) in 0..1, the first of the split."""
    for found in val_batches(dataset.train[: batches * batch], size, batch):
        yield torch.from_numpy(found.images).float() / 255


def train_float(
    graph: Graph,
    dataset: Dataset,
    settings: TrainSettings,
    folder: Path,
    note: Note,
    start: Start | None = None,
    teacher: torch.nn.Module | None = None,
) -> tuple[Model, History]:
    """Train the float form of a graph; resumes from `folder`.  The model is merged: its quantizers come after that.

    From scratch, or from what `start` makes of random weights (a file's arrays in their places); `teacher` returns maps of its shapes.
    """
    net, history = train_net(graph, dataset, settings, folder, note, start, teacher)
    merged, weights = merge_rep(graph, net.weights())
    return Model(merged, weights, dataset.classes, "float"), history


def train_net(
    graph: Graph,
    dataset: Dataset,
    settings: TrainSettings,
    folder: Path,
    note: Note,
    start: Start | None = None,
    teacher: torch.nn.Module | None = None,
    until: int | None = None,
) -> tuple[GraphModule, History]:
    """The same before rep branches are merged; `until` stops after so many epochs, from where the next call goes on."""
    torch.manual_seed(settings.seed)
    net = to_torch(floated(graph))
    set_head_prior(net, len(dataset.classes), settings.size)
    if start is not None:
        net.load(start(net.weights()))
    history = fit(net, dataset, settings, out=folder, teacher=teacher, on_epoch=lambda record: note("float", record), until=until)
    return net, history


def train_quantized(
    model: Model, dataset: Dataset, settings: TrainSettings, qat: QatSettings, folder: Path, note: Note
) -> tuple[Model, History]:
    """Quantization-aware training of a float model down to the bits of its graph; resumes from `folder`."""
    batches = list(calibration_batches(dataset, settings.size, qat.calibration_batches))
    stages = rungs(model.graph, qat.ladder)
    weights, done = model.weights, History()
    for left, graph in zip(range(len(stages), 0, -1), stages):
        epochs = max(1, (settings.epochs - len(done.epochs)) // left)
        here = folder / f"{left}" if left > 1 else folder
        part = msgspec.structs.replace(settings, epochs=epochs, close_mosaic=min(settings.close_mosaic, epochs))
        torch.manual_seed(settings.seed)
        onward = partial(_fit_quantized, dataset=dataset, settings=part, folder=here, note=note)
        net, history = quantize(graph, weights, batches, onward, distill=qat.distill, teacher=model.weights)
        weights, done = without_steps(net.weights()), done.then(history)
    if qat.norm_batches:
        reestimate_norms(net, calibration_batches(dataset, settings.size, qat.norm_batches))
    return Model(model.graph, net.weights(), dataset.classes, "quantized"), done


def _fit_quantized(
    net: torch.nn.Module, teacher: torch.nn.Module | None, dataset: Dataset, settings: TrainSettings, folder: Path, note: Note
) -> History:
    return fit(net, dataset, settings, out=folder, teacher=teacher, on_epoch=lambda record: note("quantized", record))


def develop(
    arch: Arch, dataset: Dataset, recipe: Recipe, folder: Path, provenance: Mapping[str, object], note: Note, bits: Bits | None = None
) -> Path:
    """Train, quantize and compile one candidate; the artifact's path.  Goes on where an earlier call was cut off.

    `bits` chooses those of each layer anew when the float training is over.
    """
    graph = SPACES[arch.space].build(arch, len(dataset.classes))
    needs_qat = not is_float(quantized(graph))
    size, artifact = int(arch["resolution"]), folder / "model.edge"
    if not (folder / "float.safetensors").exists():
        model, history = train_float(graph, dataset, recipe.for_float(size, dataset, needs_qat), folder / "float", note)
        _keep(folder, "float", model, history)
    if needs_qat and not (folder / "quantized.safetensors").exists():
        start = load(folder / "float.safetensors")
        start = bits(start) if bits is not None else start
        model, history = train_quantized(start, dataset, recipe.for_qat(size, dataset), recipe.qat, folder / "quantized", note)
        _keep(folder, "quantized", model, history)
    if not artifact.exists():
        compile_model(load(folder / ("quantized.safetensors" if needs_qat else "float.safetensors")), artifact, provenance)
    return artifact


def _keep(folder: Path, stage: str, model: Model, history: History) -> None:
    """The history before the model: a model that exists has its history."""
    write_whole(folder / f"{stage}.history.json", msgspec.json.encode(history))
    save(model, folder / f"{stage}.safetensors")


def compile_model(model: Model, path: Path, provenance: Mapping[str, object]) -> None:
    """Compile a float or quantized model to an artifact."""
    graph = quantized(model.graph) if model.stage == "quantized" else floated(model.graph)
    save_artifact(compile_plan(graph, model.weights, classes=model.classes, provenance=dict(provenance)), path)


def export_for_runtime(folder: Path) -> None:
    """model.onnx beside the artifact, for a device whose runtime is not ours: quantized where the finalist is."""
    from nas.compiler.onnx import export

    quantized = folder / "quantized.safetensors"
    model = load(quantized if quantized.exists() else folder / "float.safetensors")
    export(model.graph, model.weights, folder / "model.onnx", classes=model.classes, quantized=quantized.exists())


def trial_run(arch: Arch, dataset: Dataset, path: Path, limit_ms: float = inf) -> dict[str, float]:
    """What an untrained candidate really costs on this machine, before a minute of training goes into it; its artifact stays at `path`."""
    graph = deploy_form(arch, len(dataset.classes))
    save_artifact(lower(graph, random_weights(graph), classes=dataset.classes, provenance={"untrained": True}), path)
    return costs_of(measure(path, limit_ms=limit_ms))


def misses_untrained(arch: Arch, dataset: Dataset, folder: Path, objectives: Sequence[Objective]) -> str:
    """What the untrained candidate misses when it is compiled and measured, once; '' where it fits.

    Its latency has to stay a little below the limit: what is measured at it now may be above it after the training, and is then lost.
    """
    aims = [replace(o, limit=_AIM * o.limit) if o.name == LATENCY and o.limit is not None else o for o in objectives]
    note = folder / "untrained.json"
    if note.exists():
        measured = json.loads(note.read_text())
    else:
        folder.mkdir(parents=True, exist_ok=True)
        limit_ms = next((o.limit for o in aims if o.name == LATENCY and o.limit is not None), inf)
        measured = trial_run(arch, dataset, folder / "untrained.edge", limit_ms)
        (folder / "untrained.edge").unlink()
        write_whole(note, json.dumps(measured).encode())
    near = f"{LATENCY} is {measured[LATENCY]:.4g} ms untrained, too near the limit" if violations(measured, aims) else ""
    return describe_misses(measured, objectives) or near


def with_layer_bits(model: Model, dataset: Dataset, device: Device, limits: Mapping[str, float], folder: Path) -> Model:
    """A float model with the bits for each layer that it minds least within the limits, chosen once and kept as layer_bits.json.

    As it is where no such bits keep every limit when the whole is measured.  `limits`: of 'latency_ms' and 'size_mb' one at least.
    """
    if not (folder / LAYER_BITS).exists():
        write_whole(folder / LAYER_BITS, json.dumps(_least_minded(model, dataset, device, limits, folder)).encode())
    chosen = layer_bits(folder)
    return replace(model, graph=mixed(model.graph, chosen)) if chosen else model


def _tried(model: Model, dataset: Dataset, path: Path, limit_ms: float) -> dict[str, float]:
    """The measured costs of a float model at the bits of its graph, before it is trained with them."""
    net = fake_quantized(model.graph, model.weights, calibration_batches(dataset, model.size, 1, 4))
    compile_model(Model(model.graph, net.weights(), dataset.classes, "quantized"), path, {"untrained": True})
    found = costs_of(measure(path, limit_ms=limit_ms))
    path.unlink()
    return found


def layer_bits(folder: Path) -> dict[str, str]:
    """layer -> precision of a finalist's folder; empty where the genes' bits stand."""
    kept = folder / LAYER_BITS
    return dict(json.loads(kept.read_text())) if kept.exists() else {}


def _least_minded(model: Model, dataset: Dataset, device: Device, limits: Mapping[str, float], folder: Path) -> dict[str, str]:
    images = list(calibration_batches(dataset, model.size, 2))
    within = {name: _AIM * limits[name] for name in LAYER_LIMITS if name in limits}
    # Codes of one bit are worse together than one layer alone tells: a net on BCCD had .469 mAP with them, .488 without, within one limit.
    offered = [p for p in device.precisions if bits(p)[1] > 1]
    try:
        chosen = choose(model.graph, model.weights, images, len(dataset.classes), device, within, precisions=offered).precisions
    except NothingFits:
        return {}
    limit_ms = limits.get(LATENCY, inf) if device.is_local else inf
    measured = _tried(replace(model, graph=mixed(model.graph, chosen)), dataset, folder / "untrained.edge", limit_ms)
    if not device.is_local:
        measured.pop("latency_ms")
    return {} if violations(measured, columns(limits)) else chosen


def verify(
    path: Path,
    dataset: Dataset,
    *,
    limits: Mapping[str, float],
    predicted: Estimate | None = None,
    split: str = "val",
    elsewhere: bool = False,
    threads: int = 1,
    tuned: bool = False,
) -> Verification:
    """From the artifact alone: bit-exactness, mAP on a split, latency, RAM and size, and the limits judged on them.

    `elsewhere`: the limits are those of another device, whose latency cannot be measured here; it is judged as predicted.
    """
    limit_ms = inf if elsewhere else limits.get(LATENCY, inf)
    run = measure(path, threads=threads, tuned=tuned, limit_ms=limit_ms, retries=_PATIENCE)
    samples = dataset.splits[split]
    exact = exact_on(path, run.executor, boxed(samples[:CHECKED_IMAGES], run.executor.metadata.input_size[0]))
    metrics = scored(run.executor, samples, dataset)
    found = costs_of(run)
    if elsewhere:
        found.pop("latency_ms")
    return Verification(
        bit_exact=exact,
        checked_images=min(CHECKED_IMAGES, len(samples)),
        map=metrics.map,
        map50=metrics.map50,
        per_class={name: (float(ap), float(ap50)) for name, (ap, ap50) in metrics.per_class.items()},
        latency_ms=run.timing.median_ms,
        latency_q1_ms=run.timing.q1_ms,
        latency_q3_ms=run.timing.q3_ms,
        latency_runs=len(run.timing.samples_ms),
        throttled=run.timing.throttled,
        predicted_ms=predicted.mean_ms if predicted else None,
        predicted_low_ms=predicted.low_ms if predicted else None,
        predicted_high_ms=predicted.high_ms if predicted else None,
        ram_kib=run.ram_kib,
        scratch_kib=run.scratch_kib,
        size_mb=run.size_mb,
        threads=threads,
        constraints=limits_met(limits, found, {"latency_ms": predicted.mean_ms} if predicted else {}),
        isa=isa(),
    )


def scored(executor: Executor, samples: Sequence[Sample], dataset: Dataset) -> Metrics:
    """mAP of an artifact on samples, by this machine's engine."""
    look = detector(executor)
    return evaluate(lambda image: Detections(*look(image)), samples, dataset.classes)


def costs_of(run: Run) -> dict[str, float]:
    """The measured columns that a user can limit."""
    return {"latency_ms": run.timing.median_ms, "ram_kib": run.ram_kib, "flash_kib": run.size_mb * 1e6 / 1024, "size_mb": run.size_mb}
