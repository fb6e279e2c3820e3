"""Training and scoring of detectors: `fit`, `predict`, `coco_map`.

    history = fit(model, dataset, TrainSettings(epochs=40), out=Path("runs/x"))
    metrics = coco_map(dataset.val, predict(model, dataset.val, size=160, classes=len(dataset.classes)), dataset.classes)

A model is any nn.Module whose forward takes images (N, 3, S, S) in 0..1 and returns one raw map per stride (8, 16, 32) of
(N, 4 * bins + classes, H, W), box channels first.
"""

from nas.train.assign import Assignment, Targets, assign
from nas.train.device import compute_type, pick_device
from nas.train.errors import TrainError
from nas.train.evaluate import Detector, detect_all, evaluate, mean_loss, predict, targets_of
from nas.train.fit import fit
from nas.train.inherit import Inherited, inherit
from nas.train.loss import Losses, LossSettings, assigned, detection_loss, distillation_loss
from nas.train.metrics import Detections, Metrics, coco_map
from nas.train.optim import Ema, param_groups
from nas.train.prior import set_head_prior
from nas.train.settings import EpochRecord, History, TrainSettings
from nas.train.start import Started, start_from

__all__ = [
    "Assignment",
    "Detections",
    "Detector",
    "Ema",
    "EpochRecord",
    "History",
    "Inherited",
    "LossSettings",
    "Losses",
    "Metrics",
    "Started",
    "Targets",
    "TrainError",
    "TrainSettings",
    "assign",
    "assigned",
    "coco_map",
    "compute_type",
    "detect_all",
    "detection_loss",
    "distillation_loss",
    "evaluate",
    "fit",
    "inherit",
    "mean_loss",
    "param_groups",
    "pick_device",
    "predict",
    "set_head_prior",
    "start_from",
    "targets_of",
]
