"""What a training run can be told, and what it tells afterwards."""

import msgspec

from nas.data import AugmentSettings
from nas.train.device import Accelerator, Precision
from nas.train.loss import LossSettings


class TrainSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The recipe. The defaults train a small detector from scratch on a few hundred images within 40 epochs."""

    size: int = 160  # px, side of the square input
    epochs: int = 40
    batch: int = 16
    lr: float = 2e-3  # peak rate of AdamW
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
    patience: int = 0  # stop after so many epochs without a better mAP and go back to the best weights; 0 trains to the end
    grad_clip: float = 10.0
    distill_gain: float = 1.0  # weight of the teacher, where there is one
    loss: LossSettings = LossSettings()
    augment: AugmentSettings = AugmentSettings()


class EpochRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One epoch. Losses are means over its steps, gains included; mAP is that of the moving average, where it was evaluated."""

    epoch: int  # from 1
    lr: float  # at the last step
    box_loss: float
    class_loss: float
    dfl_loss: float
    distill_loss: float
    seconds: float  # training and evaluation; the only column that differs between two runs of one seed
    map: float | None = None
    map50: float | None = None


class History(msgspec.Struct, frozen=True, kw_only=True):
    """All epochs of a run, in order, and the one whose weights the model ended with."""

    epochs: tuple[EpochRecord, ...] = ()
    kept_epoch: int = 0
    stopped_early: bool = False

    @property
    def seconds(self) -> float:
        return sum(record.seconds for record in self.epochs)

    @property
    def kept(self) -> EpochRecord | None:
        """The record of the weights that the model ended with."""
        return next((record for record in self.epochs if record.epoch == self.kept_epoch), None)
