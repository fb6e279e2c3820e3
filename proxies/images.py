"""The images that a probe holds where no data set is given: hand-written digits on photographs, or seeded noise."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

DIGITS = (2, 5)  # of an image, fewest and most
HEIGHTS = (0.08, 0.45)  # of a digit, as a fraction of the image; log-uniform, as object sizes are in photographs


def digits_on_photographs(rng: np.random.Generator, n: int, side: int) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """n images (n, 3, side, side) float32 RGB in 0..1, their boxes_xyxy as fractions and their digits 0..9.

    Real ink on real pixels: digits of scikit-learn (Alpaydin and Kaynak 1998, 8x8) on crops of its two sample photographs.  The
    same `rng` state gives the same scene at every side.
    """
    glyphs, photographs, numbers = _sources()
    images, boxes, labels = torch.empty(n, 3, side, side), [], []
    for i in range(n):
        images[i] = _resized(_crop(rng, photographs[int(rng.integers(len(photographs)))]), side, side)
        taken = torch.zeros(0, 4)
        shown: list[int] = []
        for _ in range(int(rng.integers(DIGITS[0], DIGITS[1] + 1))):
            pick = int(rng.integers(len(glyphs)))
            height = float(np.exp(rng.uniform(*np.log(HEIGHTS))))
            width = height * glyphs[pick].shape[1] / glyphs[pick].shape[0]
            x, y = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
            colour, light = rng.uniform(0, 0.25, 3), rng.random() < 0.5
            box = torch.tensor([x, y, x + width, y + height], dtype=torch.float32)
            if len(taken) and bool(((taken[:, :2] < box[2:]) & (box[:2] < taken[:, 2:])).all(1).any()):
                continue  # digits do not cover one another
            _paste(images[i], glyphs[pick], box, torch.tensor(1 - colour if light else colour, dtype=torch.float32))
            taken = torch.cat([taken, box[None]])
            shown.append(numbers[pick])
        boxes.append(taken)
        labels.append(torch.tensor(shown, dtype=torch.int64))
    return images, boxes, labels


def structured_noise(rng: np.random.Generator, n: int, side: int) -> Tensor:
    """(n, 3, side, side) in [0, 1] with the 1/f amplitude of photographs: white noise alone looks alike to every convolution."""
    total = torch.zeros(n, 3, side, side)
    cells = 2
    while cells <= side:
        field = torch.from_numpy(rng.standard_normal((n, 3, cells, cells)).astype(np.float32))
        total += F.interpolate(field, size=(side, side), mode="bilinear", align_corners=False) / cells
        cells *= 2
    low, high = total.amin((1, 2, 3), keepdim=True), total.amax((1, 2, 3), keepdim=True)
    return (total - low) / (high - low)


@cache
def _sources() -> tuple[list[Tensor], list[Tensor], list[int]]:
    """Ink of every digit, cropped to it, (h, w) in 0..1; photographs (3, H, W) in 0..1; what each digit shows."""
    from sklearn.datasets import load_digits, load_sample_images  # a second to import, and not needed with a data set

    bunch = load_digits()
    glyphs = []
    for image in bunch.images:
        rows, columns = np.nonzero(image.max(1) > 4)[0], np.nonzero(image.max(0) > 4)[0]
        glyphs.append(torch.from_numpy((image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] / 16).astype(np.float32)))
    photographs = [torch.tensor(p, dtype=torch.float32).permute(2, 0, 1) / 255 for p in load_sample_images().images]
    return glyphs, photographs, bunch.target.tolist()


def _crop(rng: np.random.Generator, photograph: Tensor) -> Tensor:
    """A square part of it, at least a third as high."""
    height, width = photograph.shape[1:]
    side = int(height * rng.uniform(1 / 3, 1))
    y, x = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
    return photograph[:, y : y + side, x : x + side]


def _resized(image: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(image[None], size=(height, width), mode="bilinear", antialias=True, align_corners=False)[0]


def _paste(image: Tensor, ink: Tensor, box_xyxy: Tensor, colour: Tensor) -> None:
    side = image.shape[-1]
    x1, y1, x2, y2 = (box_xyxy * side).round().int().tolist()
    x2, y2 = max(x2, x1 + 1), max(y2, y1 + 1)
    alpha = _resized(ink[None], y2 - y1, x2 - x1).clamp(0, 1)
    patch = image[:, y1:y2, x1:x2]
    patch += alpha[:, : patch.shape[1], : patch.shape[2]] * (colour[:, None, None] - patch)
