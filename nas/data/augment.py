"""Geometry and colour for training: letterbox, mosaic, flips, HSV and random affine, on uint8 RGB images and boxes in pixels.

Mosaic, colour and affine follow the practice of the YOLO line (Bochkovskiy et al. 2020, arXiv:2004.10934). Random numbers come in as `rng`.
A box under rotation is bounded as the ellipse it encloses (Kalra et al. 2021, arXiv:2110.13488), since the box around rotated corners
grows with every degree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import msgspec
import numpy as np

from nas.data.core import Dataset

FILL = 114                            # grey around letterboxed and moved images; deployment uses the same value
_MIN_SIDE = 2.0                       # pixels; smaller remainders of a box are no target

Example = tuple[np.ndarray, np.ndarray, np.ndarray]           # image (H, W, 3) uint8, boxes (M, 4) float32 xyxy pixels, labels (M,) int64


class AugmentSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How strongly to augment. Probabilities are 0..1; the defaults suit small data sets."""

    mosaic: float = 1.0               # probability of four images in one
    scale: float = 0.5                # scale is drawn log-uniformly from 1/(1+scale) .. 1+scale
    translate: float = 0.1            # fraction of the image size, each way
    rotate_deg: float = 0.0           # degrees, each way
    flip_horizontal: float = 0.5      # probability
    flip_vertical: float = 0.0        # probability
    hue: float = 0.015                # fraction of the colour circle, each way
    saturation: float = 0.7           # gain is drawn from 1-s .. 1+s
    value: float = 0.4                # gain is drawn from 1-v .. 1+v
    min_visible: float = 0.2          # a box of which less than this fraction of the area stays inside is dropped

    def __post_init__(self) -> None:
        for name in ("mosaic", "flip_horizontal", "flip_vertical", "min_visible", "saturation", "value", "translate"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name}={getattr(self, name)} is outside 0..1")
        if self.scale < 0 or not 0 <= self.hue <= 0.5 or not 0 <= self.rotate_deg <= 180:
            raise ValueError(f"scale={self.scale}, hue={self.hue}, rotate_deg={self.rotate_deg}: expected >= 0, 0..0.5 and 0..180")

    def without_mosaic(self) -> AugmentSettings:
        """The same with whole images, for the last epochs of a training."""
        return msgspec.structs.replace(self, mosaic=0.0)


def settings_for(dataset: Dataset) -> AugmentSettings:
    """The defaults, but no flips where a mirrored object is another one or none: the embedded digits."""
    return AugmentSettings(flip_horizontal=0.0) if dataset.name == "digits" else AugmentSettings()


@dataclass(frozen=True)
class Letterbox:
    """Where an image of width x height lies in a size x size square: x' = x * scale_x + pad_x, y' likewise."""

    width: int
    height: int
    size: int
    inner: tuple[int, int]            # (width, height) of the resized image
    pad: tuple[int, int]              # (left, top)

    @classmethod
    def fit(cls, width: int, height: int, size: int) -> Letterbox:
        ratio = min(size / width, size / height)
        inner = (max(1, round(width * ratio)), max(1, round(height * ratio)))
        return cls(width, height, size, inner, ((size - inner[0]) // 2, (size - inner[1]) // 2))

    def apply(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (M, 4) of the image -> boxes in the square."""
        return (boxes * self._scale() + self._offset()).astype(np.float32)

    def invert(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (M, 4) in the square -> boxes of the image, clipped to it."""
        back = (boxes - self._offset()) / self._scale()
        return clip(back, self.width, self.height)

    def _scale(self) -> np.ndarray:
        return np.array([self.inner[0] / self.width, self.inner[1] / self.height] * 2)

    def _offset(self) -> np.ndarray:
        return np.array([*self.pad, *self.pad], np.float64)


def fit_inside(image: np.ndarray, size: int) -> np.ndarray:
    """The image resized so that its longer side is `size`; area averaging when it shrinks, bilinear when it grows."""
    height, width = image.shape[:2]
    inner = Letterbox.fit(width, height, size).inner
    if inner == (width, height):
        return image
    return cv2.resize(image, inner, interpolation=cv2.INTER_AREA if inner[0] < width else cv2.INTER_LINEAR)


def pad_to_square(inner: np.ndarray, box: Letterbox) -> np.ndarray:
    """An image that fit_inside has resized, in the grey square of its letterbox."""
    square = np.full((box.size, box.size, 3), FILL, np.uint8)
    (left, top), (width, height) = box.pad, box.inner
    square[top : top + height, left : left + width] = inner
    return square


def letterbox(image: np.ndarray, boxes: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, Letterbox]:
    """Resize with the aspect ratio kept and centre in a grey size x size square; returns the boxes in it, and the way back."""
    box = Letterbox.fit(image.shape[1], image.shape[0], size)
    return pad_to_square(fit_inside(image, size), box), box.apply(boxes), box


def flip_horizontal(image: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Left and right exchanged."""
    width = image.shape[1]
    return cv2.flip(image, 1), boxes[:, [2, 1, 0, 3]] * _f32(-1, 1, -1, 1) + _f32(width, 0, width, 0)


def flip_vertical(image: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Top and bottom exchanged."""
    height = image.shape[0]
    return cv2.flip(image, 0), boxes[:, [0, 3, 2, 1]] * _f32(1, -1, 1, -1) + _f32(0, height, 0, height)


def shift_hsv(image: np.ndarray, rng: np.random.Generator, settings: AugmentSettings) -> np.ndarray:
    """Hue turned, saturation and value scaled by random amounts."""
    turn, gain_s, gain_v = rng.uniform(-1, 1, 3) * (settings.hue, settings.saturation, settings.value)
    if settings.hue == settings.saturation == settings.value == 0:
        return image
    ramp = np.arange(256, dtype=np.float32)
    table = np.empty((1, 256, 3), np.uint8)
    table[0, :, 0] = (ramp + turn * 180) % 180               # OpenCV keeps the hue of uint8 images in 0..179
    table[0, :, 1] = np.clip(ramp * (1 + gain_s), 0, 255)
    table[0, :, 2] = np.clip(ramp * (1 + gain_v), 0, 255)
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    return cv2.cvtColor(cv2.LUT(hsv, table), cv2.COLOR_HSV2RGB)


def mosaic(examples: Sequence[Example], size: int, rng: np.random.Generator) -> Example:
    """Four images, none larger than size x size, around a random centre of a (2 size, 2 size) canvas; boxes may reach outside."""
    canvas = np.full((2 * size, 2 * size, 3), FILL, np.uint8)
    cx, cy = (int(v) for v in rng.integers(size // 2, 2 * size - size // 2 + 1, 2))
    all_boxes, all_labels = [], []
    for quadrant, (image, boxes, labels) in enumerate(examples):
        height, width = image.shape[:2]
        x = cx - width if quadrant % 2 == 0 else cx
        y = cy - height if quadrant < 2 else cy
        x1, y1, x2, y2 = max(x, 0), max(y, 0), min(x + width, 2 * size), min(y + height, 2 * size)
        canvas[y1:y2, x1:x2] = image[y1 - y : y2 - y, x1 - x : x2 - x]
        all_boxes.append(boxes + _f32(x, y, x, y))
        all_labels.append(labels)
    return canvas, np.concatenate(all_boxes).astype(np.float32), np.concatenate(all_labels)


def affine(example: Example, size: int, rng: np.random.Generator, settings: AugmentSettings) -> Example:
    """Random scale, rotation and shift about the centre of the image, seen through a size x size window around it."""
    image, boxes, labels = example
    height, width = image.shape[:2]
    reach = np.log1p(settings.scale)
    scale = float(np.exp(rng.uniform(-reach, reach)))
    angle = np.deg2rad(rng.uniform(-settings.rotate_deg, settings.rotate_deg))
    shift_x, shift_y = rng.uniform(-settings.translate, settings.translate, 2) * size
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    matrix = np.array([[cos, -sin, 0.0], [sin, cos, 0.0]])
    matrix[:, 2] = (size / 2 + shift_x, size / 2 + shift_y) - matrix[:, :2] @ (width / 2, height / 2)
    # OpenCV puts pixel centres at whole numbers, boxes have them at halves
    pixel_matrix = matrix.copy()
    pixel_matrix[:, 2] += matrix[:, :2] @ (0.5, 0.5) - 0.5
    moved = cv2.warpAffine(image, pixel_matrix, (size, size), flags=cv2.INTER_LINEAR, borderValue=(FILL, FILL, FILL))
    return moved, transform_boxes(boxes, matrix), labels


def transform_boxes(boxes: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Boxes (M, 4) under a (2, 3) affine map, each bounding the image of its inscribed ellipse; exact where nothing rotates."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]) / 2
    centres = centres @ matrix[:, :2].T + matrix[:, 2]
    half = np.sqrt((half**2) @ (matrix[:, :2] ** 2).T)
    return np.concatenate((centres - half, centres + half), axis=1).astype(np.float32)


def clip(boxes: np.ndarray, width: float, height: float) -> np.ndarray:
    """Boxes (M, 4) cut to 0..width, 0..height."""
    return np.clip(boxes, 0, _f32(width, height, width, height)).astype(np.float32)


def clip_and_drop(example: Example, min_visible: float) -> Example:
    """Cut boxes to the image; drop those with a side below 2 pixels or with less than `min_visible` of their area left."""
    image, boxes, labels = example
    inside = clip(boxes, image.shape[1], image.shape[0])
    sides, left = boxes[:, 2:] - boxes[:, :2], inside[:, 2:] - inside[:, :2]
    keep = (left.min(axis=1) >= _MIN_SIDE) & (left.prod(axis=1) >= min_visible * sides.prod(axis=1))
    return image, inside[keep], labels[keep]


def augment(examples: Sequence[Example], size: int, rng: np.random.Generator, settings: AugmentSettings) -> Example:
    """One training example of size x size from one image, or from four as a mosaic. Images must fit in size x size (see fit_inside)."""
    whole = clip_and_drop(mosaic(examples, size, rng), settings.min_visible) if len(examples) == 4 else examples[0]
    image, boxes, labels = clip_and_drop(affine(whole, size, rng, settings), settings.min_visible)
    image = shift_hsv(image, rng, settings)
    if rng.random() < settings.flip_horizontal:
        image, boxes = flip_horizontal(image, boxes)
    if rng.random() < settings.flip_vertical:
        image, boxes = flip_vertical(image, boxes)
    return image, boxes, labels


def _f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)
