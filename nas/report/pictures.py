"""Validation images with true and predicted boxes, as data URIs for the page."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from nas.data import Dataset, Sample, read_image
from nas.predict import draw, opened

PICTURES = 6
SCORE = 0.25  # boxes below it are not drawn
LONGEST = 360  # px of a picture's longer side on the page
JPEG_QUALITY = 88


@dataclass(frozen=True)
class Picture:
    """One image twice: true boxes and predicted ones, as data URIs of JPEGs; `width` and `height` are theirs in px."""

    name: str
    true: str
    predicted: str
    true_count: int
    predicted_count: int
    width: int
    height: int


def pictures(artifact: Path, dataset: Dataset, count: int = PICTURES, score: float = SCORE) -> list[Picture]:
    """Images spread evenly over the validation images that hold objects.  Raises what reading an artifact or an image raises."""
    find, classes = opened(artifact, score)
    chosen = spread([sample for sample in dataset.val if len(sample.boxes_xyxy)] or list(dataset.val), count)
    return [_picture(sample, find(read_image(sample)), classes) for sample in chosen]


def spread(samples: list[Sample], count: int) -> list[Sample]:
    """`count` of them, evenly spaced, the same on every call."""
    return [samples[i] for i in sorted({int(k) for k in np.linspace(0, len(samples) - 1, min(count, len(samples))).round()})]


def data_uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _picture(sample: Sample, found: tuple[np.ndarray, np.ndarray, np.ndarray], classes: tuple[str, ...]) -> Picture:
    image = read_image(sample)
    boxes, scores, labels = found
    scale = LONGEST / max(image.shape[:2])
    width, height = (max(1, round(side * scale)) for side in (image.shape[1], image.shape[0]))
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    return Picture(
        name=sample.image.name,
        true=_jpeg(draw(small, sample.boxes_xyxy * scale, None, sample.labels, classes)),
        predicted=_jpeg(draw(small, boxes * scale, scores, labels, classes)),
        true_count=len(sample.boxes_xyxy),
        predicted_count=len(boxes),
        width=width,
        height=height,
    )


def _jpeg(image: np.ndarray) -> str:
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return data_uri(data.tobytes(), "jpeg")
