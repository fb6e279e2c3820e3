"""From a head's raw maps to boxes: distribution focal decoding and class-wise non-maximum suppression.

This file is the definition; `csrc/runtime/detect.cpp` does the same float32 operations in the same order, so both give
the same bits. Nothing here uses a fused multiply-add, a platform `exp` or a pairwise sum.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Labels = NDArray[np.int32]

PRE_NMS = 3000          # candidates kept by score before suppression, as COCO evaluations of YOLO models do
_F = np.float32
_LOWEST, _HIGHEST = _F(-87.0), _F(88.0)                         # exp stays a normal, finite float32 in this range
_LOG2E, _LN2_HIGH, _LN2_LOW = _F(1.44269504), _F(0.693359375), _F(-2.12194440e-4)
# Minimax polynomial of (exp(r) - 1 - r) / r^2 on |r| <= ln2/2 (Cephes expf, Moshier 1992).
_POLYNOMIAL = tuple(_F(c) for c in (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1))


def exp(x: Floats) -> Floats:
    """exp(x) in float32 for any shape: clamped to [-87, 88], NaN counts as -87; relative error below 2e-7."""
    x = np.where(x > _LOWEST, x, _LOWEST)
    x = np.where(x < _HIGHEST, x, _HIGHEST)
    n = np.floor(x * _LOG2E + _F(0.5))
    r = x - n * _LN2_HIGH
    r = r - n * _LN2_LOW
    p = np.full_like(r, _POLYNOMIAL[0])
    for c in _POLYNOMIAL[1:]:
        p = p * r + c
    p = p * (r * r) + r
    p = p + _F(1.0)
    two_to_n = ((n.astype(np.int32) + 127) << 23).view(np.float32)
    return np.asarray(p * two_to_n, dtype=np.float32)


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + exp(-x)) in float32, any shape."""
    return np.asarray(_F(1.0) / (_F(1.0) + exp(-x)), dtype=np.float32)


def expectation(logits: Floats) -> Floats:
    """Mean of softmax(logits) over the bins 0, 1, .. on axis 0: (bins, ...) -> (...), summed in ascending order."""
    highest = logits[0]
    for row in logits[1:]:
        highest = np.where(row > highest, row, highest)
    total, weighted = np.zeros_like(highest), np.zeros_like(highest)
    for k, row in enumerate(logits):
        e = exp(row - highest)
        total = total + e
        weighted = weighted + e * _F(k)
    return np.asarray(weighted / total, dtype=np.float32)


def decode(maps: Sequence[Floats], strides: Sequence[int], bins: int, classes: int) -> tuple[Floats, Floats]:
    """Boxes and class scores of every cell of every level.

    maps are float32 (C, H, W), two per level: box logits (4 * bins, H, W), sides l, t, r, b, then class logits
    (classes, H, W). A side is the expectation over its bins, in cells from the centre of the cell.
    Returns boxes_xyxy (A, 4) in input pixels and scores (A, classes) in 0..1; anchors run level, row, column.
    """
    boxes, scores = [], []
    for level, stride in enumerate(strides):
        box, cls = (np.asarray(m, dtype=np.float32) for m in maps[2 * level : 2 * level + 2])
        h, w = box.shape[1:]
        left, top, right, bottom = expectation(box.reshape(4, bins, h, w).swapaxes(0, 1))
        cx = np.arange(w, dtype=np.float32)[None, :] + _F(0.5)
        cy = np.arange(h, dtype=np.float32)[:, None] + _F(0.5)
        s = _F(stride)
        xyxy = np.stack([(cx - left) * s, (cy - top) * s, (cx + right) * s, (cy + bottom) * s], axis=-1)
        boxes.append(xyxy.reshape(h * w, 4))
        scores.append(sigmoid(cls).reshape(classes, h * w).T)
    return np.concatenate(boxes), np.ascontiguousarray(np.concatenate(scores))


def nms(
    boxes_xyxy: Floats, scores: Floats, score_threshold: float = 0.001, iou_threshold: float = 0.6, max_detections: int = 300
) -> tuple[Floats, Floats, Labels]:
    """Greedy suppression within each class; an anchor may give a box for several classes.

    boxes_xyxy (A, 4), scores (A, C). Candidates are the pairs with score > score_threshold, the best 3000 by score
    descending, then by index (anchor * C + class) ascending. A candidate goes when a kept one of its class overlaps it
    with IoU > iou_threshold. Returns boxes (D, 4), scores (D,), labels (D,) int32, D <= max_detections, best first.
    """
    classes = scores.shape[1]
    flat = np.ascontiguousarray(scores, dtype=np.float32).reshape(-1)
    candidates = np.flatnonzero(flat > _F(score_threshold))
    order = candidates[np.argsort(-flat[candidates], kind="stable")][:PRE_NMS]
    labels = (order % classes).astype(np.int32)
    box = np.asarray(boxes_xyxy, dtype=np.float32)[order // classes]
    x1, y1, x2, y2 = box.T
    area = (x2 - x1) * (y2 - y1)
    alive = np.ones(len(order), dtype=bool)
    kept: list[int] = []
    for i in range(len(order)):
        if len(kept) == max_detections:
            break
        if not alive[i]:
            continue
        kept.append(i)
        rest = slice(i + 1, None)
        width = np.maximum(np.minimum(x2[i], x2[rest]) - np.maximum(x1[i], x1[rest]), _F(0.0))
        height = np.maximum(np.minimum(y2[i], y2[rest]) - np.maximum(y1[i], y1[rest]), _F(0.0))
        inter = width * height
        union = area[i] + area[rest] - inter
        alive[rest] &= ~((inter > _F(iou_threshold) * union) & (labels[rest] == labels[i]))
    return box[kept], flat[order[kept]], labels[kept]
