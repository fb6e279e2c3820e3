"""Anchor points, the box distribution of the head, and overlaps between boxes (torch).

Boxes are xyxy in pixels of the network's input. A head predicts, for each anchor point and each of the four sides (l, t, r, b), a
distribution over `bins` distances in units of the level's stride (Li et al. 2020, Generalized Focal Loss, arXiv:2006.04388).
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from nas.train.errors import TrainError

STRIDES = (8, 16, 32)


@dataclass(frozen=True)
class Grid:
    """Anchor points of all levels, level by level, row by row."""

    points: Tensor  # (A, 2) x, y of the cell centres, px
    strides: Tensor  # (A,) px


@lru_cache(maxsize=64)
def grid(shapes: tuple[tuple[int, int], ...], strides: tuple[int, ...], device: torch.device) -> Grid:
    """Cell centres of maps with these (height, width)."""
    points, steps = [], []
    for (height, width), stride in zip(shapes, strides, strict=True):
        y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        points.append(torch.stack((x, y), dim=-1).reshape(-1, 2) * stride)
        steps.append(torch.full((height * width,), float(stride)))
    return Grid(torch.cat(points).to(device), torch.cat(steps).to(device))


def flatten_maps(maps: list[Tensor], classes: int, strides: tuple[int, ...] = STRIDES) -> tuple[Tensor, Tensor, Grid]:
    """Raw maps, a list of (N, 4*bins + classes, H, W) -> box logits (N, A, 4*bins), class logits (N, A, classes), float32; grid."""
    if len(maps) != len(strides):
        raise TrainError(f"the model returns {len(maps)} maps, expected one for each stride {strides}")
    channels = maps[0].shape[1]
    if channels <= classes or (channels - classes) % 4:
        raise TrainError(f"the model returns {channels} channels, which is not 4 * bins + {classes} classes")
    flat = torch.cat([m.permute(0, 2, 3, 1).reshape(m.shape[0], -1, channels).float() for m in maps], dim=1)
    sizes = tuple((m.shape[2], m.shape[3]) for m in maps)
    box, cls = flat.split((channels - classes, classes), dim=2)
    return box, cls, grid(sizes, strides, flat.device)


def expected_distances(box_logits: Tensor) -> Tensor:
    """Mean of the four distributions: (..., 4*bins) logits -> (..., 4) distances l, t, r, b in strides."""
    bins = box_logits.shape[-1] // 4
    weights = torch.arange(bins, dtype=box_logits.dtype, device=box_logits.device)
    return box_logits.unflatten(-1, (4, bins)).softmax(dim=-1) @ weights


def distances_to_boxes(distances: Tensor, points: Tensor, strides: Tensor) -> Tensor:
    """Distances (..., 4) in strides, points (..., 2) px, strides (...) px -> boxes_xyxy (..., 4) px."""
    px = distances * strides[..., None]
    return torch.cat((points - px[..., :2], points + px[..., 2:]), dim=-1)


def boxes_to_distances(boxes_xyxy: Tensor, points: Tensor, strides: Tensor) -> Tensor:
    """The inverse of `distances_to_boxes`; negative where the point lies outside the box."""
    px = torch.cat((points - boxes_xyxy[..., :2], boxes_xyxy[..., 2:] - points), dim=-1)
    return px / strides[..., None]


def decode(maps: list[Tensor], classes: int, strides: tuple[int, ...] = STRIDES) -> tuple[Tensor, Tensor]:
    """Raw maps -> boxes_xyxy (N, A, 4) px and scores (N, A, classes) in 0..1."""
    box, cls, cells = flatten_maps(maps, classes, strides)
    return distances_to_boxes(expected_distances(box), cells.points, cells.strides), cls.sigmoid()


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes_xyxy, element by element: (..., 4), (..., 4) -> (...); 0 for two empty boxes."""
    overlap = _overlap(a, b)
    union = _area(a) + _area(b) - overlap
    return overlap / union.clamp(min=1e-9)


def ciou(predicted: Tensor, true: Tensor) -> Tensor:
    """Complete IoU of boxes_xyxy, element by element, at most 1 (Zheng et al. 2020, arXiv:2005.03572, eq. 7 to 11).

    IoU - centre distance^2 / enclosing diagonal^2 - alpha * v, where v compares the aspect ratios and alpha carries no gradient.
    """
    plain = iou(predicted, true)
    low, high = torch.minimum(predicted[..., :2], true[..., :2]), torch.maximum(predicted[..., 2:], true[..., 2:])
    diagonal = (high - low).square().sum(-1).clamp(min=1e-9)
    shift = (predicted[..., :2] + predicted[..., 2:] - true[..., :2] - true[..., 2:]).square().sum(-1) / 4
    v = (4 / math.pi**2) * (_aspect(true) - _aspect(predicted)).square()
    with torch.no_grad():
        alpha = v / (1 - plain + v).clamp(min=1e-9)
    return plain - shift / diagonal - alpha * v


def _sides(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)


def _area(boxes: Tensor) -> Tensor:
    return _sides(boxes).prod(-1)


def _overlap(a: Tensor, b: Tensor) -> Tensor:
    return (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)


def _aspect(boxes: Tensor) -> Tensor:
    width, height = _sides(boxes).clamp(min=1e-3).unbind(-1)  # the clamp keeps the gradient finite at an empty box
    return torch.atan2(width, height)
