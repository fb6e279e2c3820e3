"""The nouns of a data set (Sample, Problem, Dataset), how boxes are cleaned, and how an image is read.

Boxes are (x1, y1, x2, y2) in pixels of the upright image, x to the right and y down, 0 at the outer edge of the first pixel, so a box
that covers the whole image is (0, 0, width, height).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
SPLITS = ("train", "val", "test")

_EXIF_ORIENTATION = 0x0112            # EXIF 2.32, tag "Orientation", values 1..8
_OUTSIDE_TOLERANCE = 0.5              # pixels; rounding of normalized or 1-based coordinates stays below it


class DataError(ValueError):
    """A data set that cannot be used; the message names the file, and the line where there is one."""


@dataclass(frozen=True)
class Problem:
    """Something found in a data set. An "error" left an image out, a "warning" changed or dropped a box, a "note" is for information."""

    file: str
    line: int | None
    message: str
    severity: str = "warning"

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.message}"

    @classmethod
    def of(cls, error: DataError, file: Path) -> Problem:
        """The error as a Problem; the place "file:line: " that its message starts with becomes `file` and `line`."""
        match = re.match(re.escape(str(file)) + r"(?::(\d+))?: ", str(error))
        if match is None:
            return cls(str(file), None, str(error), "error")
        return cls(str(file), int(match[1]) if match[1] else None, str(error)[match.end() :], "error")


@dataclass(frozen=True, eq=False)
class Sample:
    """One image and its objects. `crowd` marks regions that are no training target and are ignored in evaluation."""

    image: Path
    width: int
    height: int
    boxes_xyxy: np.ndarray            # (M, 4) float32, pixels
    labels: np.ndarray                # (M,) int64, index into Dataset.classes
    crowd: np.ndarray                 # (M,) bool


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples by split ("train", "val" and, where the data has one, "test"), with everything that was noticed on reading."""

    name: str
    root: Path
    format: str                       # "voc", "yolo" or "coco"
    classes: tuple[str, ...]
    splits: dict[str, tuple[Sample, ...]]
    problems: tuple[Problem, ...] = ()

    @property
    def train(self) -> tuple[Sample, ...]:
        return self.splits["train"]

    @property
    def val(self) -> tuple[Sample, ...]:
        return self.splits["val"]

    def with_problems(self, problems: Iterable[Problem]) -> Dataset:
        return replace(self, problems=(*self.problems, *problems))


@dataclass(frozen=True)
class RawBox:
    """A box as a file states it, before cleaning; `line` is where it stands."""

    xyxy: tuple[float, float, float, float]
    label: int
    line: int | None = None
    crowd: bool = False


def make_sample(
    image: Path, size: tuple[int, int], boxes: Sequence[RawBox], source: Path, problems: list[Problem]
) -> Sample:
    """A Sample with boxes clipped to the image; boxes without an area are dropped. Both are added to `problems`, as found in `source`."""
    width, height = size
    kept: list[tuple[float, float, float, float]] = []
    labels: list[int] = []
    crowd: list[bool] = []
    for box in boxes:
        x1, y1, x2, y2 = box.xyxy
        shown = "(" + ", ".join(f"{v:g}" for v in box.xyxy) + ")"
        if x2 <= x1 or y2 <= y1:
            problems.append(Problem(str(source), box.line, f"box {shown} has no area; skipped"))
            continue
        cx1, cy1, cx2, cy2 = max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))
        if cx2 <= cx1 or cy2 <= cy1:
            problems.append(Problem(str(source), box.line, f"box {shown} is outside the {width}x{height} image; skipped"))
            continue
        if max(cx1 - x1, cy1 - y1, x2 - cx2, y2 - cy2) > _OUTSIDE_TOLERANCE:
            problems.append(Problem(str(source), box.line, f"box {shown} reaches outside the {width}x{height} image; clipped"))
        kept.append((cx1, cy1, cx2, cy2))
        labels.append(box.label)
        crowd.append(box.crowd)
    return Sample(
        image=image,
        width=width,
        height=height,
        boxes_xyxy=np.array(kept, np.float32).reshape(-1, 4),
        labels=np.array(labels, np.int64),
        crowd=np.array(crowd, bool),
    )


def image_header(path: Path) -> tuple[int, int, int]:
    """(width, height, EXIF orientation 1..8) from the file's header, no pixel decoded; width and height are those of the upright image."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            orientation = int(image.getexif().get(_EXIF_ORIENTATION, 1))
            kind = image.format
    except FileNotFoundError:
        raise DataError(f"{path}: no such image") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: not an image that can be read ({error})") from None
    if orientation not in range(1, 9):
        orientation = 1
    if kind == "TIFF" and orientation != 1:                   # decoders disagree on whether they have already turned it
        raise DataError(f"{path}: a TIFF stored with orientation {orientation}; save it upright, or as PNG or JPEG")
    return (height, width, orientation) if orientation >= 5 else (width, height, orientation)


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) of the upright image."""
    return image_header(path)[:2]


def read_image(sample: Sample | Path) -> np.ndarray:
    """The upright image as uint8 RGB (H, W, 3); grayscale becomes three equal channels. Raises DataError naming the file."""
    path = sample.image if isinstance(sample, Sample) else sample
    width, height, orientation = image_header(path)
    try:
        data = np.fromfile(path, np.uint8)
        pixels = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION) if data.size else None
    except (OSError, cv2.error) as error:
        raise DataError(f"{path}: not an image that can be read ({error})") from None
    if pixels is None:
        raise DataError(f"{path}: not an image that can be read (damaged, cut short, or of an unknown kind)")
    image = _upright(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), orientation)
    if image.shape[:2] != (height, width):
        raise DataError(f"{path}: decodes to {image.shape[1]}x{image.shape[0]}, but its header says {width}x{height}")
    return image


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation. Values 5..8 are stored transposed; 2, 3, 4, 6, 7, 8 also mirrored along one or both axes."""
    if orientation >= 5:
        image = image.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


def is_image_name(path: Path) -> bool:
    """Whether a file is named like an image; hidden files (such as the "._" copies of macOS) are not."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def natural_key(path: Path) -> tuple[str, str]:
    """Sort key that gives the same order on every file system."""
    return (path.name.lower(), path.as_posix())
