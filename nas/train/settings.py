"""What a training run can be told, and what it tells afterwards."""

from __future__ import annotations

import msgspec

from nas.data import AugmentSettings
from nas.train.device import Accelerator, Precision
from nas.train.errors import TrainError
from nas.train.loss import LossSettings

_STEPS = 128  # of an epoch: with more of them a batch grows


class TrainSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The recipe. The defaults train a small detector from scratch on a few hundred images within 40 epochs."""

    size: int = 160  # px, side of the square input
    epochs: int = 40
    batch: int = 0  # images of a step; 0: by their number, see batch_of
    lr: float = 3e-3  # peak rate of AdamW
    lr_final: float = 0.01  # share of the peak rate at the end of the cosine
    weight_decay: float = 0.05
    warmup_epochs: float = 3.0
    ema_decay: float = 0.99
    ema_ramp: float = 10.0  # updates until the average begins to be slow
    close_mosaic: int = 10  # epochs at the end without mosaic
    accelerator: Accelerator = "auto"
    precision: Precision = "auto"
    channels_last: bool = True
    seed: int = 0
    val_every: int = 5  # epochs between two evaluations; the last epoch is always evaluated, 0 evaluates none
    repeat_rare: float = 0.0  # images of a class that is in less than this share of them are shown more often (see nas.data.Loader)
    patience: int = 0  # stop after so many epochs without a better mAP and go back to the best weights; 0 trains to the end
    grad_clip: float = 10.0
    distill_gain: float = 1.0  # weight of the teacher, where there is one
    loss: LossSettings = LossSettings()
    augment: AugmentSettings = AugmentSettings()

    def __post_init__(self) -> None:
        if self.size < 32 or self.size % 32:
            raise TrainError(f"size={self.size}: expected a multiple of 32, the coarsest stride")
        for name, least in (("epochs", 1), ("batch", 0), ("val_every", 0), ("patience", 0), ("close_mosaic", 0)):
            if getattr(self, name) < least:
                raise TrainError(f"{name}={getattr(self, name)}: expected at least {least}")
        if not (self.lr > 0 and self.grad_clip > 0 and 0 <= self.ema_decay < 1 and self.weight_decay >= 0):
            found = f"lr={self.lr}, grad_clip={self.grad_clip}, ema_decay={self.ema_decay}, weight_decay={self.weight_decay}"
            raise TrainError(f"{found}: expected lr and grad_clip above 0, ema_decay in 0..1 and weight_decay at least 0")
        if not 0 <= self.repeat_rare <= 1:
            raise TrainError(f"repeat_rare={self.repeat_rare}: expected a share of the images, 0..1")
        if self.patience and not self.val_every:
            raise TrainError(f"patience={self.patience} needs evaluations; val_every is 0")

    def batch_of(self, images: int) -> int:
        """Images of a step where there are so many to train on: as set, or from 4 up to 16 such that an epoch has 128 steps or fewer.

        On few images more steps matter more: a YOLOv8n at 160 px reaches .55 mAP in 60 epochs on the 205 of BCCD with steps of 4 (two
        seeds), .53 with steps of 8 (three), for 3 % more time on a CPU.
        """
        return self.batch or next((batch for batch in (4, 8) if images <= _STEPS * batch), 16)


class EpochRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One epoch. Losses are means over its steps, gains included; mAP is that of the moving average, where it was evaluated."""

    epoch: int  # from 1
    lr: float  # at the last step
    box_loss: float
    class_loss: float
    dfl_loss: float
    distill_loss: float
    seconds: float  # training and evaluation; with cpu_seconds all that differs between two runs of one seed
    cpu_seconds: float = 0.0  # of all threads
    map: float | None = None
    map50: float | None = None
    figures: dict[str, float] = {}  # what the caller of `fit` asked to be measured of the moving average


class History(msgspec.Struct, frozen=True, kw_only=True):
    """All epochs of a run, in order, and the one whose weights the model ended with."""

    epochs: tuple[EpochRecord, ...] = ()
    kept_epoch: int = 0
    stopped_early: bool = False

    @property
    def seconds(self) -> float:
        return sum(record.seconds for record in self.epochs)

    @property
    def cpu_seconds(self) -> float:
        return sum(record.cpu_seconds for record in self.epochs)

    @property
    def kept(self) -> EpochRecord | None:
        """The record of the weights that the model ended with."""
        return next((record for record in self.epochs if record.epoch == self.kept_epoch), None)

    def then(self, later: History) -> History:
        """This history and that of a training that went on from its weights, epochs counted through."""
        before = len(self.epochs)
        records = tuple(msgspec.structs.replace(record, epoch=before + record.epoch) for record in later.epochs)
        return History(epochs=(*self.epochs, *records), kept_epoch=before + later.kept_epoch, stopped_early=later.stopped_early)
