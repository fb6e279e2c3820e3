"""The loss of the detectors that are trained here, for proxies that need a gradient: task-aligned assignment (TOOD, arXiv:2108.07755),
CIoU (arXiv:2005.03572) and distribution focal loss (arXiv:2006.04388) on the positives, binary cross-entropy on every class score.

A probe holds a few images of a few boxes, so everything is a dense (boxes x anchor points) table per image; nas.train.loss is the
same function for training batches, and a test holds the two equal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from proxies.errors import ProxyError
from searchspaces.module import GraphModule

ALPHA, BETA, TOPK = 0.5, 6.0, 10  # of the assignment: t = score^ALPHA * IoU^BETA, the TOPK best points of each box
BOX_GAIN, CLASS_GAIN, DFL_GAIN = 7.5, 0.5, 1.5
OBJECTS, BIN_SLOPE = 5.0, 0.7  # of the start biases: objects expected on a level, fall of the box logits a bin
_SMALLEST = 1e-9


def detection_loss(
    maps: Sequence[Tensor], strides: Sequence[int], bins: int, boxes_xyxy: Sequence[Tensor], labels: Sequence[Tensor]
) -> Tensor:
    """Scalar loss of a batch: the sum over its images divided by the sum of all target scores (at least 1).

    maps: one (N, 4 * bins + classes, H, W) a stride, box channels first; boxes_xyxy: N of (n, 4) px; labels: N of (n,).
    """
    flat = torch.cat([x.flatten(2) for x in maps], 2).transpose(1, 2)  # (N, A, 4 * bins + classes)
    sides, logits = flat[..., : 4 * bins].unflatten(-1, (4, bins)), flat[..., 4 * bins :]
    if any(len(x) and int(x.max()) >= logits.shape[-1] for x in labels):
        raise ProxyError(f"the probe holds label {max(int(x.max()) for x in labels if len(x))}; the network has {logits.shape[-1]} classes")
    points, steps = _anchors([tuple(x.shape[2:]) for x in maps], strides)
    predicted = _boxes(_expected(sides), points, steps)  # (N, A, 4)

    total, norm = flat.new_zeros(()), flat.new_zeros(())
    for i, (boxes, classes) in enumerate(zip(boxes_xyxy, labels)):
        wanted = torch.zeros_like(logits[i])
        if not len(boxes):  # an image without objects pushes all scores down
            total = total + CLASS_GAIN * F.binary_cross_entropy_with_logits(logits[i], wanted, reduction="sum")
            continue
        anchor, owner, weight = _assigned(predicted[i].detach(), logits[i].detach(), boxes, classes, points, min(strides))
        wanted[anchor, classes[owner]] = weight
        true = boxes[owner]
        distances = torch.cat((points[anchor] - true[:, :2], true[:, 2:] - points[anchor]), 1) / steps[anchor, None]  # l, t, r, b
        box = ((1 - _ciou(predicted[i, anchor], true)) * weight).sum()
        dfl = (_focal(sides[i, anchor], distances).mean(1) * weight).sum()
        cls = F.binary_cross_entropy_with_logits(logits[i], wanted, reduction="sum")
        total = total + BOX_GAIN * box + CLASS_GAIN * cls + DFL_GAIN * dfl
        norm = norm + weight.sum()
    return total / norm.clamp(min=1)


@torch.no_grad()
def set_prior(model: GraphModule) -> None:
    """Gives a detector's last biases the values that training starts from: few objects, sides of one stride.

    Without them the cross-entropy of ten thousand empty cells at a score of one half is nearly all of the loss.  Scores start at
    OBJECTS among the cells of a level (Lin et al. 2017, arXiv:1708.02002, section 4.1), box logits fall from bin to bin.
    """
    bins = model.graph[model.graph.outputs[0]]["bins"]
    for box, scores in zip(model.maps[::2], model.maps[1::2]):
        classes, height, width = model.graph[scores].shape
        for name, values in ((box, (-BIN_SLOPE * torch.arange(bins)).repeat(4)), (scores, math.log(OBJECTS / classes / (height * width)))):
            bias = model.layers[name.replace(".", "/")].bias
            if isinstance(bias, Tensor):
                bias.copy_(torch.as_tensor(values).clamp(max=0))


def _anchors(sizes: Sequence[Sequence[int]], strides: Sequence[int]) -> tuple[Tensor, Tensor]:
    """(A, 2) cell centres x, y in px, level by level, row by row, and (A,) the stride of each."""
    points, steps = [], []
    for (height, width), stride in zip(sizes, strides, strict=True):
        y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        points.append(torch.stack((x, y), -1).reshape(-1, 2) * stride)
        steps.append(torch.full((height * width,), float(stride)))
    return torch.cat(points), torch.cat(steps)


def _expected(sides: Tensor) -> Tensor:
    """(..., 4, bins) logits -> (..., 4) mean distances in strides."""
    return sides.softmax(-1) @ torch.arange(sides.shape[-1], dtype=sides.dtype)


def _boxes(distances: Tensor, points: Tensor, steps: Tensor) -> Tensor:
    px = distances * steps[:, None]
    return torch.cat((points - px[..., :2], points + px[..., 2:]), -1)


def _assigned(predicted: Tensor, logits: Tensor, boxes: Tensor, classes: Tensor, points: Tensor, finest: int) -> tuple[Tensor, ...]:
    """The positives of one image: anchor (P,), the box each belongs to (P,) and its target score (P,) in 0..1.

    A box smaller than a cell of the finest level counts as that large when its points are looked up.
    """
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = ((boxes[:, 2:] - boxes[:, :2]) / 2).clamp(min=finest / 2)
    inside = ((points - centre[:, None]).abs() <= half[:, None]).all(-1)  # (n, A)
    overlap = _iou(predicted[None], boxes[:, None]).clamp(min=1e-6)
    log_t = ALPHA * F.logsigmoid(logits[:, classes].T) + BETA * overlap.log()
    ranked = torch.where(inside, log_t, -torch.inf)
    best = torch.zeros_like(inside).scatter_(1, ranked.topk(min(TOPK, ranked.shape[1]), 1).indices, True) & inside
    anchor = best.any(0).nonzero()[:, 0]
    owner = torch.where(best, overlap, -1.0).argmax(0)[anchor]  # a point that several boxes want goes to the one it overlaps most
    kept = torch.zeros_like(best)
    kept[owner, anchor] = True
    top_t, top_u = torch.where(kept, log_t, -torch.inf).amax(1), torch.where(kept, overlap, 0.0).amax(1)
    return anchor, owner, (log_t[owner, anchor] - top_t[owner]).exp() * top_u[owner]


def _focal(logits: Tensor, distances: Tensor) -> Tensor:
    """Cross-entropy to the two bins around each distance, shared linearly: (P, 4, bins), (P, 4) -> (P, 4)."""
    bins = logits.shape[-1]
    distances = distances.clamp(0, bins - 1 - 1e-3)
    left, part = distances.floor().long(), distances.frac()
    log_p = logits.log_softmax(-1)
    at_left, at_right = (log_p.gather(-1, at[..., None])[..., 0] for at in (left, left + 1))
    return -(at_left * (1 - part) + at_right * part)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


def _iou(a: Tensor, b: Tensor) -> Tensor:
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    overlap = (high - low).clamp(min=0).prod(-1)
    return overlap / (_area(a) + _area(b) - overlap).clamp(min=_SMALLEST)


def _ciou(predicted: Tensor, true: Tensor) -> Tensor:
    plain = _iou(predicted, true)
    low, high = torch.minimum(predicted[..., :2], true[..., :2]), torch.maximum(predicted[..., 2:], true[..., 2:])
    diagonal = (high - low).square().sum(-1).clamp(min=_SMALLEST)
    shift = (predicted[..., :2] + predicted[..., 2:] - true[..., :2] - true[..., 2:]).square().sum(-1) / 4
    angles = [torch.atan2(*(x[..., 2:] - x[..., :2]).clamp(min=1e-3).unbind(-1)) for x in (true, predicted)]
    v = (4 / math.pi**2) * (angles[0] - angles[1]).square()
    alpha = (v / (1 - plain + v).clamp(min=_SMALLEST)).detach()
    return plain - shift / diagonal - alpha * v
