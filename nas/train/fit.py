"""Train a detector, from scratch or onward (fine-tuning, quantization-aware training), with a checkpoint after each epoch."""

import contextlib
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from nas.data import Batch, Dataset, Loader, val_batches
from nas.train import checkpoint
from nas.train.assign import Targets
from nas.train.device import compute_type, pick_device
from nas.train.errors import TrainError
from nas.train.evaluate import images_to, predict
from nas.train.loss import detection_loss, distillation_loss
from nas.train.metrics import coco_map
from nas.train.optim import Ema, ParamGroups, adamw, lr_factor, param_groups
from nas.train.settings import EpochRecord, History, TrainSettings

CHECKPOINT = "checkpoint.safetensors"
Measure = Callable[[nn.Module], dict[str, float]]


def fit(
    model: nn.Module,
    dataset: Dataset,
    settings: TrainSettings,
    *,
    out: Path | None = None,
    teacher: nn.Module | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    groups: ParamGroups | None = None,
    measure: Measure | None = None,
    until: int | None = None,
) -> History:
    """Train in place; the model ends on the CPU with the averaged weights, in eval mode.

    With `out`, the run is kept in out/checkpoint.safetensors after each epoch and goes on from there: a run that was killed and called
    again with the same arguments ends with the same bits on the same machine and thread count, and a finished one returns at once.
    `until` stops after so many epochs, in the middle of the schedule; a later call goes on there and ends with the same bits.
    `teacher` returns raw maps of the model's shapes. `groups` replaces the default AdamW groups (see optim.param_groups).
    `measure` is asked after each epoch what it finds of the moving average in eval mode; its answers are kept in the history.
    Fake-quantizers need nothing special: their steps are parameters named ...scale or ...zero_point and are not decayed.
    Raises TrainError for an empty split, a loss that is not finite, a checkpoint of other settings or a full disk.
    """
    if not dataset.splits.get("train"):
        raise TrainError(f"data set '{dataset.name}' has no training images; its splits: {_sizes(dataset)}")
    run = _Run(model, dataset, settings, teacher, groups, measure)
    path = out / CHECKPOINT if out is not None else None
    if path is not None and path.exists():
        run.restore(path)
    while not run.finished and (until is None or len(run.history.epochs) < until):
        record = run.epoch()
        if path is not None:
            run.save(path)
        if on_epoch is not None:
            on_epoch(record)
    return run.close()


class _Run:
    """A training run between two epochs."""

    def __init__(
        self, model: nn.Module, dataset: Dataset, settings: TrainSettings, teacher: nn.Module | None, groups: ParamGroups | None,
        measure: Measure | None,
    ) -> None:  # fmt: skip
        self.settings, self.dataset = settings, dataset
        self.device = pick_device(settings.accelerator)
        self.compute = compute_type(self.device, settings.precision)
        layout = torch.channels_last if settings.channels_last else torch.contiguous_format
        self.model = model.to(self.device, memory_format=layout)  # type: ignore[call-overload]
        self.measure = measure
        self.teacher = teacher.to(self.device).eval() if teacher is not None else None
        make = groups or (lambda m: param_groups(m, settings.weight_decay))
        self.optimizer = adamw(make(self.model), settings.lr)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.ema = Ema(self.model, settings.ema_decay, settings.ema_ramp)
        self.best: dict[str, Tensor] = {}
        self.best_map = -1.0
        self.history = History()
        samples, repeat = dataset.splits["train"], settings.repeat_rare
        batch = settings.batch_of(len(samples))
        self.loader = Loader(samples, settings.size, batch, settings.augment, settings.seed, repeat_rare=repeat)
        self.val = val_batches(dataset.splits.get("val", ()), settings.size, batch)
        torch.manual_seed(settings.seed)

    @property
    def finished(self) -> bool:
        return len(self.history.epochs) >= self.settings.epochs or self.history.stopped_early

    def epoch(self) -> EpochRecord:
        """One pass over the training split, and an evaluation where one is due."""
        start, cpu_start = time.perf_counter(), time.process_time()
        index = len(self.history.epochs)
        losses = self._train(index)
        ap, ap50 = self._evaluate(index)
        figures = self.measure(self.ema.model) if self.measure is not None else {}
        record = EpochRecord(
            epoch=index + 1,
            lr=self.optimizer.param_groups[0]["lr"],
            box_loss=losses[0],
            class_loss=losses[1],
            dfl_loss=losses[2],
            distill_loss=losses[3],
            seconds=time.perf_counter() - start,
            cpu_seconds=time.process_time() - cpu_start,
            map=ap,
            map50=ap50,
            figures=figures,
        )
        self._note(record)
        return record

    def _train(self, index: int) -> list[float]:
        """All steps of an epoch; the means of the box, class, DFL and distillation losses."""
        s = self.settings
        augment = s.augment.without_mosaic() if index >= s.epochs - s.close_mosaic else s.augment
        per_epoch = len(self.loader)
        total, warmup = s.epochs * per_epoch, round(s.warmup_epochs * per_epoch)
        sums = [0.0] * 4
        self.model.train()
        for position, batch in enumerate(self.loader.epoch(index, augment)):
            step = index * per_epoch + position
            self._set_lr(lr_factor(step, total, warmup, s.lr_final))
            values = self._step(batch, f"epoch {index + 1}, step {position + 1}")
            sums = [a + b for a, b in zip(sums, values)]
        return [value / per_epoch for value in sums]

    def _step(self, batch: Batch, where: str) -> list[float]:
        """One update from one batch; the four losses."""
        s, classes = self.settings, len(self.dataset.classes)
        images = images_to(batch.images, self.device)
        with self._autocast():
            maps = self.model(images)
        loss = detection_loss(maps, _targets(batch, self.device), classes, s.loss)
        total, extra = loss.total, torch.zeros(())
        if self.teacher is not None:
            with torch.no_grad(), self._autocast():
                taught = self.teacher(images)
            extra = s.distill_gain * distillation_loss(maps, taught, classes)
            total = total + extra
        values = [float(v) for v in (loss.box, loss.cls, loss.dfl, extra.detach())]
        if not all(map(math.isfinite, values)):
            raise TrainError(
                f"{where}: the loss is not finite (box {values[0]:g}, class {values[1]:g}, dfl {values[2]:g}, teacher {values[3]:g}); "
                f"try a lower lr than {s.lr:g} or precision='fp32'"
            )
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, s.grad_clip)
        if not torch.isfinite(norm):
            raise TrainError(f"{where}: the gradient is not finite; try a lower lr than {s.lr:g} or precision='fp32'")
        self.optimizer.step()
        self.ema.update()
        return values

    def _autocast(self) -> contextlib.AbstractContextManager[None]:
        low = self.compute is torch.bfloat16
        return torch.autocast(self.device.type, dtype=torch.bfloat16) if low else contextlib.nullcontext()

    def _set_lr(self, factor: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.lr * group["lr_scale"] * factor

    def _evaluate(self, index: int) -> tuple[float | None, float | None]:
        """(mAP, mAP50) of the moving average on the validation split, where this epoch is evaluated."""
        s = self.settings
        due = s.val_every and ((index + 1) % s.val_every == 0 or index + 1 == s.epochs)
        if not due or not any((~sample.crowd).any() for sample in self.val.samples):
            return None, None
        classes = self.dataset.classes
        found = predict(self.ema.model, self.val, s.size, len(classes), accelerator=s.accelerator, precision=s.precision)
        metrics = coco_map(self.val.samples, found, classes)
        return metrics.map, metrics.map50

    def _note(self, record: EpochRecord) -> None:
        """Add a record to the history; with patience, keep the best weights and see whether to stop."""
        s, kept, stop = self.settings, record.epoch, False
        if s.patience:
            kept = self.history.kept_epoch
            if record.map is not None and record.map > self.best_map:
                kept, self.best_map = record.epoch, record.map
                self.best = {name: value.clone() for name, value in self.ema.model.state_dict().items()}
            stop = self.best_map >= 0 and record.epoch - kept >= s.patience
        self.history = History(epochs=(*self.history.epochs, record), kept_epoch=kept, stopped_early=stop)

    def save(self, path: Path) -> None:
        """Write everything that the next epoch depends on."""
        tensors = {
            **{f"model/{k}": v for k, v in self.model.state_dict().items()},
            **{f"ema/{k}": v for k, v in self.ema.model.state_dict().items()},
            **{f"best/{k}": v for k, v in self.best.items()},
            **{f"optimizer/{k}": v for k, v in checkpoint.optimizer_tensors(self.model, self.optimizer).items()},
            "rng/cpu": torch.get_rng_state(),
        }
        if self.device.type == "cuda":
            tensors["rng/cuda"] = torch.cuda.get_rng_state(self.device)
        state = {
            "settings": msgspec.to_builtins(self.settings),
            "classes": list(self.dataset.classes),
            "history": msgspec.to_builtins(self.history),
            "best_map": self.best_map,
            "ema_updates": self.ema.updates,
        }
        checkpoint.save(path, tensors, state)

    def restore(self, path: Path) -> None:
        """Go on from a file that `save` wrote for the same model, settings and classes."""
        tensors, state = checkpoint.load(path)
        self._check_same(path, state)
        try:
            self.model.load_state_dict(checkpoint.section(tensors, "model/"))
            self.ema.model.load_state_dict(checkpoint.section(tensors, "ema/"))
        except RuntimeError as error:
            raise TrainError(f"{path}: the checkpoint is of another model: {error}") from error
        checkpoint.restore_optimizer(self.model, self.optimizer, checkpoint.section(tensors, "optimizer/"))
        self.best = {name: value.to(self.device) for name, value in checkpoint.section(tensors, "best/").items()}
        self.history = msgspec.convert(state["history"], History)
        self.best_map, self.ema.updates = state["best_map"], state["ema_updates"]
        torch.set_rng_state(tensors["rng/cpu"])
        if self.device.type == "cuda" and "rng/cuda" in tensors:
            torch.cuda.set_rng_state(tensors["rng/cuda"], self.device)

    def _check_same(self, path: Path, state: dict[str, Any]) -> None:
        now = msgspec.to_builtins(self.settings)
        for name, value in now.items():
            if state["settings"].get(name) != value:
                was = state["settings"].get(name)
                raise TrainError(f"{path}: the run was started with {name}={was!r}, not {value!r}; use another folder or delete it")
        if state["classes"] != list(self.dataset.classes):
            raise TrainError(f"{path}: the run was started with classes {state['classes']}, not {list(self.dataset.classes)}")

    def close(self) -> History:
        """Give the model its final weights."""
        self.model.load_state_dict(self.best or self.ema.model.state_dict())
        self.model.to("cpu").eval()
        return self.history


def _targets(batch: Batch, device: torch.device) -> Targets:
    return Targets(
        torch.as_tensor(batch.boxes, dtype=torch.float32, device=device),
        torch.as_tensor(batch.labels, dtype=torch.int64, device=device),
        torch.as_tensor(batch.image_index, dtype=torch.int64, device=device),
    )


def _sizes(dataset: Dataset) -> str:
    return ", ".join(f"{name} {len(samples)}" for name, samples in dataset.splits.items()) or "none"
