"""Task-aligned assignment of anchor points to objects (Feng et al. 2021, TOOD, arXiv:2108.07755, section 3.3).

Each object takes the `topk` points with the highest t = s^alpha * u^beta among the points inside it (s: the predicted score of its
class, u: IoU of the predicted box); a point wanted by several objects goes to the one that it overlaps most. The target score of a
positive is t / max t of its object * max u of its object. Everything runs on the list of (object, point inside it) pairs, which is
some hundred times shorter than objects x points, and on log t, since u^6 of a small overlap underflows float32.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from nas.train.boxes import Grid, iou

ALPHA, BETA, TOPK = 0.5, 6.0, 10
_SMALLEST_IOU = 1e-6  # a point without overlap still ranks by its score


@dataclass(frozen=True)
class Targets:
    """The objects of a batch."""

    boxes_xyxy: Tensor  # (K, 4) float32, px of the network's input
    labels: Tensor  # (K,) int64
    image_index: Tensor  # (K,) int64, which image of the batch


@dataclass(frozen=True)
class Assignment:
    """The positives, one row each; every (image, anchor) occurs at most once."""

    image: Tensor  # (P,) int64
    anchor: Tensor  # (P,) int64
    target: Tensor  # (P,) int64, row of Targets
    score: Tensor  # (P,) float32 in 0..1


@torch.no_grad()
def assign(
    boxes_xyxy: Tensor, class_logits: Tensor, targets: Targets, cells: Grid, *, topk: int = TOPK, min_cells: float = 1.0
) -> Assignment:
    """Predicted boxes (N, A, 4) px and class logits (N, A, classes), float32 -> Assignment.

    An object smaller than `min_cells` cells of the finest level counts as that large when its points are looked up, so that a tiny
    object always has one.
    """
    target, anchor = _pairs_inside(targets.boxes_xyxy, cells, min_cells)
    image = targets.image_index[target]
    u = iou(boxes_xyxy[image, anchor], targets.boxes_xyxy[target]).clamp(min=_SMALLEST_IOU)
    log_t = ALPHA * F.logsigmoid(class_logits[image, anchor, targets.labels[target]]) + BETA * u.log()

    order, rank = _ranked(target, log_t)
    best = order[rank < topk]
    point = image[best] * boxes_xyxy.shape[1] + anchor[best]
    order, rank = _ranked(point, u[best])
    kept = best[order[rank == 0]]

    image, anchor, target, u, log_t = image[kept], anchor[kept], target[kept], u[kept], log_t[kept]
    top_t = _max_of_group(log_t, target, len(targets.labels))[target]
    top_u = _max_of_group(u, target, len(targets.labels))[target]
    return Assignment(image, anchor, target, (log_t - top_t).exp() * top_u)


def _pairs_inside(boxes_xyxy: Tensor, cells: Grid, min_cells: float) -> tuple[Tensor, Tensor]:
    """(object, anchor) for every anchor point within an object, sorted by object."""
    centre = (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2
    half = ((boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]) / 2).clamp(min=min_cells / 2 * float(cells.strides[0]))
    low, high = (centre - half)[:, None], (centre + half)[:, None]  # (K, 1, 2)
    inside = ((cells.points >= low) & (cells.points <= high)).all(-1)  # (K, A)
    target, anchor = inside.nonzero(as_tuple=True)
    return target, anchor


def _ranked(group: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Order by group, then by falling value, and each element's rank in its group; equal values keep their order."""
    order = value.argsort(descending=True, stable=True)
    order = order[group[order].argsort(stable=True)]
    ordered = group[order]
    position = torch.arange(len(order), device=order.device)
    first = torch.searchsorted(ordered, ordered)
    return order, position - first


def _max_of_group(value: Tensor, group: Tensor, groups: int) -> Tensor:
    start = torch.full((groups,), -torch.inf, device=value.device)
    return start.scatter_reduce(0, group, value, reduce="amax")
