"""The detection loss: CIoU and distribution focal loss on the positives, binary cross-entropy on every class score."""

from dataclasses import dataclass

import msgspec
import torch
from torch import Tensor
from torch.nn import functional as F

from nas.train.assign import Assignment, Targets, assign
from nas.train.boxes import (
    STRIDES,
    Grid,
    boxes_to_distances,
    ciou,
    distances_to_boxes,
    expected_distances,
    flatten_maps,
)


class LossSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Gains of the parts, and how objects find their anchor points."""

    box_gain: float = 7.5
    class_gain: float = 1.0  # twice the usual .5: small classes are learned sooner (BCCD, 40 epochs: platelets AP50 .50 -> .57)
    dfl_gain: float = 1.5
    topk: int = 10
    min_cells: float = 1.0  # objects are matched as at least this many cells of the finest level wide and high


@dataclass(frozen=True)
class Losses:
    """Scalars, gains included; `total` carries the gradient."""

    total: Tensor
    box: Tensor
    cls: Tensor
    dfl: Tensor


def detection_loss(
    maps: list[Tensor], targets: Targets, classes: int, settings: LossSettings | None = None, strides: tuple[int, ...] = STRIDES,
    found: Assignment | None = None,
) -> Losses:  # fmt: skip
    """Raw maps, a list of (N, 4*bins + classes, H, W) in any float type -> Losses in float32.

    Each part is a sum over the batch divided by the sum of the target scores (at least 1), so that a batch without any object is
    finite: its box parts are 0, and its class part pushes all scores down.  Positives are assigned by these maps; with `found`, they and
    their scores are held as given, which makes the loss a smooth function of the maps.
    """
    settings = settings or LossSettings()
    box_logits, class_logits, cells = flatten_maps(maps, classes, strides)
    found = found or _assigned(box_logits, class_logits, cells, targets, settings)
    norm = found.score.sum().clamp(min=1.0)

    wanted = torch.zeros_like(class_logits)
    wanted[found.image, found.anchor, targets.labels[found.target]] = found.score
    cls = F.binary_cross_entropy_with_logits(class_logits, wanted, reduction="sum") / norm

    box, dfl = _box_losses(box_logits[found.image, found.anchor], found, targets, cells.points, cells.strides)
    box, cls, dfl = settings.box_gain * box / norm, settings.class_gain * cls, settings.dfl_gain * dfl / norm
    return Losses(box + cls + dfl, box.detach(), cls.detach(), dfl.detach())


def assigned(maps: list[Tensor], targets: Targets, classes: int, strides: tuple[int, ...] = STRIDES) -> Assignment:
    """The positives that detection_loss finds by these maps."""
    return _assigned(*flatten_maps(maps, classes, strides), targets, LossSettings())


@torch.no_grad()
def _assigned(box_logits: Tensor, class_logits: Tensor, cells: Grid, targets: Targets, settings: LossSettings) -> Assignment:
    boxes = distances_to_boxes(expected_distances(box_logits), cells.points, cells.strides)
    return assign(boxes, class_logits, targets, cells, topk=settings.topk, min_cells=settings.min_cells)


def _box_losses(logits: Tensor, found: Assignment, targets: Targets, points: Tensor, strides: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of 1 - CIoU and of the distribution focal loss over the positives, weighted by their target scores; logits (P, 4*bins)."""
    points, strides, true = points[found.anchor], strides[found.anchor], targets.boxes_xyxy[found.target]
    predicted = distances_to_boxes(expected_distances(logits), points, strides)
    box = ((1 - ciou(predicted, true)) * found.score).sum()
    dfl = distribution_focal_loss(logits.unflatten(-1, (4, -1)), boxes_to_distances(true, points, strides))
    return box, (dfl.mean(-1) * found.score).sum()


def distribution_focal_loss(logits: Tensor, distances: Tensor) -> Tensor:
    """Cross-entropy to the two bins around each distance, shared linearly (GFL, arXiv:2006.04388, eq. 6): (..., bins), (...) -> (...)."""
    bins = logits.shape[-1]
    distances = distances.clamp(0, bins - 1 - 1e-3)
    left = distances.floor()
    share = distances - left
    log_p = logits.log_softmax(dim=-1)
    at_left = log_p.gather(-1, left.long()[..., None]).squeeze(-1)
    at_right = log_p.gather(-1, left.long()[..., None] + 1).squeeze(-1)
    return -(at_left * (1 - share) + at_right * share)


def distillation_loss(maps: list[Tensor], teacher_maps: list[Tensor], classes: int, strides: tuple[int, ...] = STRIDES) -> Tensor:
    """How far the student's raw maps are from a teacher's of the same shape, a scalar.

    Cross-entropy to the teacher's class scores less the teacher's own entropy, and the Kullback-Leibler divergence of the side
    distributions (Zheng et al. 2022, Localization Distillation, arXiv:2102.12252); both weigh a point by the teacher's best score there.
    """
    box, cls, _ = flatten_maps(maps, classes, strides)
    true_box, true_cls, _ = flatten_maps([m.detach() for m in teacher_maps], classes, strides)
    scores = true_cls.sigmoid()
    weight = scores.amax(-1)  # (N, A)
    norm = weight.sum().clamp(min=1.0)
    excess = F.binary_cross_entropy_with_logits(cls, scores, reduction="sum") - F.binary_cross_entropy_with_logits(
        true_cls, scores, reduction="sum"
    )
    sides = F.kl_div(
        box.unflatten(-1, (4, -1)).log_softmax(-1), true_box.unflatten(-1, (4, -1)).log_softmax(-1), reduction="none", log_target=True
    )
    return (excess + (sides.sum(-1).mean(-1) * weight).sum()) / norm
