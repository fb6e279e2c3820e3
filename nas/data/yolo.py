"""YOLO data sets: a data.yaml, folders (or lists) of images, and one text file of normalized boxes per image.

data.yaml    path (optional), train, val, test: folder, list file or a list of these; names: list or {id: name}; nc: optional count
labels       .../images/a.jpg -> .../labels/a.txt, or a.txt beside the image; per line "class cx cy w h", or "class x1 y1 x2 y2 x3 y3 ..."
             (a polygon, whose bounding box is taken); all coordinates are fractions of the upright image
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import yaml

from nas.data.core import DataError, Dataset, Problem, RawBox, Sample, image_size, is_image_name, make_sample, natural_key

_KEYS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


def find_data_yaml(root: Path) -> Path | None:
    """data.yaml in a folder, or its only YAML file that has `names`."""
    for name in ("data.yaml", "data.yml"):
        if (root / name).is_file():
            return root / name
    others = [file for file in sorted(root.glob("*.y*ml")) if re.search(r"^names\s*:", file.read_text(errors="replace"), re.MULTILINE)]
    return others[0] if len(others) == 1 else None


def load_yolo(file: Path) -> Dataset:
    """Read the data set that a data.yaml describes."""
    text = _text(file)
    settings = _settings(file, text)
    classes = _classes(file, text, settings)
    problems: list[Problem] = []
    splits: dict[str, tuple[Sample, ...]] = {}
    for split, keys in _KEYS.items():
        key = next((k for k in keys if settings.get(k)), None)
        if key is None:
            continue
        images = _images(file, text, settings, key, problems)
        samples = [_read_or_report(image, classes, problems) for image in images]
        splits[split] = tuple(sample for sample in samples if sample is not None)
        if bare := [image for image in images if not label_file(image).is_file()]:
            share = f"{len(bare)} of {len(images)} {split} images"
            message = f"{share} have no label file, so they count as background; the first would be {label_file(bare[0])}"
            problems.append(Problem(str(file), _line_of(text, key), message, "note" if len(bare) < len(images) else "warning"))
    return Dataset(file.parent.resolve().name, file.parent, "yolo", classes, splits, tuple(problems))


def parse_labels(file: Path, classes: int, width: int, height: int) -> list[RawBox]:
    """The boxes of one label file in pixels. Raises DataError naming file and line."""
    boxes = []
    for number, line in enumerate(_text(file).splitlines(), 1):
        if not line.strip():
            continue
        values = _numbers(file, number, line)
        label, coordinates = values[0], values[1:]
        if label != int(label) or not 0 <= label < classes:
            raise DataError(f"{file}:{number}: class {label:g} is not one of the {classes} classes 0..{classes - 1}")
        if len(coordinates) == 4:
            cx, cy, w, h = coordinates
            xyxy = (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
        else:
            xs, ys = coordinates[0::2], coordinates[1::2]
            xyxy = (min(xs), min(ys), max(xs), max(ys))
        if max(map(abs, coordinates)) > 2.0:
            raise DataError(f"{file}:{number}: '{line.strip()}' is not normalized; coordinates are fractions of the image, 0..1")
        boxes.append(RawBox((xyxy[0] * width, xyxy[1] * height, xyxy[2] * width, xyxy[3] * height), int(label), number))
    return boxes


def label_file(image: Path) -> Path:
    """Where the labels of an image stand: the last folder named images becomes labels; beside the image where that does not exist."""
    parts = list(image.parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            moved = Path(*parts[:i], "labels", *parts[i + 1 :]).with_suffix(".txt")
            if moved.is_file() or not image.with_suffix(".txt").is_file():
                return moved
            break
    return image.with_suffix(".txt")


def _numbers(file: Path, number: int, line: str) -> list[float]:
    try:
        values = [float(word) for word in line.split()]
    except ValueError:
        raise DataError(f"{file}:{number}: '{line.strip()}' is not a line of numbers: class cx cy w h") from None
    if not all(map(math.isfinite, values)):
        raise DataError(f"{file}:{number}: '{line.strip()}' holds a number that is not finite")
    if len(values) != 5 and (len(values) < 7 or len(values) % 2 == 0):
        raise DataError(f"{file}:{number}: {len(values)} numbers, expected 5 (class cx cy w h) or a class and a polygon")
    return values


def _read_or_report(image: Path, classes: tuple[str, ...], problems: list[Problem]) -> Sample | None:
    """The sample, or None with an "error" in problems. An image without a label file has no objects, which YOLO takes as background."""
    labels = label_file(image)
    try:
        width, height = image_size(image)
        boxes = parse_labels(labels, len(classes), width, height) if labels.is_file() else []
    except DataError as error:
        source = labels if str(error).startswith(str(labels)) else image
        problems.append(Problem.of(error, source))
        return None
    return make_sample(image, (width, height), boxes, labels, problems)


def _settings(file: Path, text: str) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise DataError(f"{file}:{line}: not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise DataError(f"{file}: not valid YAML: {error}") from None
    if not isinstance(settings, dict):
        raise DataError(f"{file}:1: holds no settings; expected train, val and names")
    if "train" not in settings:
        raise DataError(f"{file}: has no 'train'; found: {', '.join(map(str, settings)) or 'nothing'}")
    return settings


def _classes(file: Path, text: str, settings: dict[str, Any]) -> tuple[str, ...]:
    names, line = settings.get("names"), _line_of(text, "names")
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise DataError(f"{file}:{line}: names must number the classes 0..{len(names) - 1}, found {sorted(map(str, names))}")
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list) or not names:
        raise DataError(f"{file}:{line}: needs names, a list of classes or {{0: name, ...}}")
    classes = tuple(str(name) for name in names)
    if len(set(classes)) != len(classes):
        twice = next(name for name in classes if classes.count(name) > 1)
        raise DataError(f"{file}:{line}: class '{twice}' is named twice")
    if "nc" in settings and settings["nc"] != len(classes):
        raise DataError(f"{file}:{_line_of(text, 'nc')}: nc is {settings['nc']}, but {len(classes)} names are given")
    return classes


def _images(file: Path, text: str, settings: dict[str, Any], key: str, problems: list[Problem]) -> list[Path]:
    """The images of a split, sorted by name within each folder; entries of a list file keep their order."""
    entries = settings[key] if isinstance(settings[key], list) else [settings[key]]
    found: list[Path] = []
    for entry in entries:
        place = _existing(file, settings, str(entry))
        if place is None:
            raise DataError(f"{file}:{_line_of(text, key)}: {key}: '{entry}' is neither a folder nor a list file")
        if place.is_dir():
            found += sorted(filter(is_image_name, place.rglob("*")), key=natural_key)
        else:
            found += _listed(place, problems)
    return found


def _listed(file: Path, problems: list[Problem]) -> list[Path]:
    found = []
    for number, line in enumerate(_text(file).splitlines(), 1):
        if not line.strip():
            continue
        image = file.parent / line.strip()
        if image.is_file():
            found.append(image)
        else:
            problems.append(Problem(str(file), number, f"no such image: {line.strip()}", "error"))
    return found


def _existing(file: Path, settings: dict[str, Any], entry: str) -> Path | None:
    """An entry below `path`, or below data.yaml's folder. Exports often state a `path` or a leading ../ of another machine."""
    bases = [file.parent / str(settings["path"])] if settings.get("path") else []
    bases.append(file.parent)
    candidates = [base / entry for base in bases]
    if entry.startswith("../"):
        candidates.append(file.parent / entry.removeprefix("../"))
    return next((c for c in candidates if c.is_dir() or c.is_file()), None)


def _line_of(text: str, key: str) -> int:
    return next((n for n, line in enumerate(text.splitlines(), 1) if re.match(rf"{key}\s*:", line)), 1)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: not a text file that can be read ({error})") from None
