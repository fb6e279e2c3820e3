"""COCO JSON: one file per split (or one for all), with images, annotations [x, y, width, height] and categories of any ids.

Class indices follow the order of category ids. `iscrowd` regions are kept and marked, everything else about an annotation is not needed.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

from nas.data.core import SPLITS, DataError, Dataset, Problem, RawBox, Sample, image_size, make_sample, natural_key

_SPLIT_WORDS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def find_coco(root: Path) -> dict[str, Path]:
    """split -> JSON file in a folder: annotations/*.json, *.json or <split>/_annotations.coco.json; a lone file of no split is "train"."""
    files = [*sorted((root / "annotations").glob("*.json")), *sorted(root.glob("*.json")), *sorted(root.glob("*/_annotations.coco.json"))]
    files = [file for file in files if _mentions_images(file)]
    found: dict[str, Path] = {}
    for file in files:
        split = _split_of(file)
        if split is not None and split in found:
            both = f"{found[split].relative_to(root)} and {file.relative_to(root)}"
            raise DataError(f"{root}: {both} both look like '{split}'; give one file, or move the other away")
        if split is not None:
            found[split] = file
    if not found and len(files) == 1:
        found["train"] = files[0]
    if not found and files:
        shown = ", ".join(str(file.relative_to(root)) for file in files[:4])
        raise DataError(f"{root}: {len(files)} JSON files, none named after train, val or test ({shown}); give one of them")
    return found


def load_coco(root: Path, files: dict[str, Path]) -> Dataset:
    """Read one JSON file per split; all must have the same categories."""
    problems: list[Problem] = []
    splits: dict[str, tuple[Sample, ...]] = {}
    categories: dict[int, str] = {}
    for split in SPLITS:
        if split not in files:
            continue
        content = _content(files[split])
        here = _categories(files[split], content)
        if categories and here != categories:
            raise DataError(f"{files[split]}: categories differ from those of {next(iter(files.values()))}")
        categories = here
        splits[split] = _samples(files[split], content, {key: i for i, key in enumerate(sorted(here))}, problems)
    classes = tuple(categories[key] for key in sorted(categories))
    return Dataset(root.resolve().name, root, "coco", classes, splits, tuple(problems))


def _samples(file: Path, content: dict[str, Any], index: dict[int, int], problems: list[Problem]) -> tuple[Sample, ...]:
    records = {}
    for position, record in enumerate(content["images"]):
        if not isinstance(record, dict) or "id" not in record or not isinstance(record.get("file_name"), str):
            raise DataError(f"{file}: images[{position}] needs id and file_name")
        if record["id"] in records:
            raise DataError(f"{file}: image id {record['id']} is used twice")
        records[record["id"]] = record
    boxes: dict[Any, list[RawBox]] = defaultdict(list)
    for position, annotation in enumerate(content["annotations"]):
        box = _box(file, position, annotation, index, records)
        boxes[annotation["image_id"]].append(box)

    roots = _image_roots(file)
    samples = []
    for key, record in records.items():
        image = next((root / record["file_name"] for root in roots if (root / record["file_name"]).is_file()), None)
        if image is None:
            looked = ", ".join(sorted({root.as_posix() for root in roots}))
            problems.append(Problem(str(file), None, f"image {key}: no file '{record['file_name']}' in {looked}", "error"))
            continue
        try:
            size = image_size(image)
        except DataError as error:
            problems.append(Problem.of(error, image))
            continue
        stated = (record.get("width", size[0]), record.get("height", size[1]))
        if stated != size:
            problems.append(Problem(str(file), None, f"image {key} is stated as {stated[0]}x{stated[1]}, but is {size[0]}x{size[1]}"))
        samples.append(make_sample(image, size, boxes[key], Path(f"{file} (image {key})"), problems))
    return tuple(sorted(samples, key=lambda sample: natural_key(sample.image)))


def _box(file: Path, position: int, annotation: Any, index: dict[int, int], images: dict[Any, Any]) -> RawBox:
    if not isinstance(annotation, dict):
        raise DataError(f"{file}: annotations[{position}] is not an object")
    name = f"{file}: annotation {annotation.get('id', f'[{position}]')}"
    if annotation.get("image_id") not in images:
        raise DataError(f"{name}: image_id {annotation.get('image_id')} is not in images")
    if annotation.get("category_id") not in index:
        raise DataError(f"{name}: category_id {annotation.get('category_id')} is not in categories")
    bbox = annotation.get("bbox")
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(isinstance(v, int | float) and math.isfinite(v) for v in bbox):
        raise DataError(f"{name}: bbox is {bbox}, expected [x, y, width, height]")
    x, y, w, h = bbox
    return RawBox((x, y, x + w, y + h), index[annotation["category_id"]], None, bool(annotation.get("iscrowd", 0)))


def _content(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise DataError(f"{file}:{error.lineno}: not valid JSON: {error.msg}") from None
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{file}: not a JSON file that can be read ({error})") from None
    if not isinstance(content, dict):
        raise DataError(f"{file}:1: expected an object with images, annotations and categories")
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            raise DataError(f"{file}: has no list '{key}'; a COCO file has images, annotations and categories")
    return content


def _categories(file: Path, content: dict[str, Any]) -> dict[int, str]:
    categories: dict[int, str] = {}
    for position, record in enumerate(content["categories"]):
        if not isinstance(record, dict) or not isinstance(record.get("id"), int) or "name" not in record:
            raise DataError(f"{file}: categories[{position}] needs an integer id and a name")
        if record["id"] in categories:
            raise DataError(f"{file}: category id {record['id']} is used twice")
        categories[record["id"]] = str(record["name"])
    return categories


def _split_of(file: Path) -> str | None:
    """The split that a file is named after ("instances_train2017.json"), or its folder ("valid/_annotations.coco.json")."""
    name = file.parent.name if file.name == "_annotations.coco.json" else file.stem
    words = "".join(c if c.isalpha() else " " for c in name.lower()).split()
    return next((_SPLIT_WORDS[word] for word in words if word in _SPLIT_WORDS), None)


def _mentions_images(file: Path) -> bool:
    """Whether a JSON file looks like COCO object annotations, without parsing it; caption and keypoint files are left aside."""
    if file.name.startswith(("captions_", "person_keypoints_", "stuff_", "panoptic_")):
        return False
    try:
        data = file.read_bytes()
    except OSError:
        return False
    return b'"images"' in data or b'"annotations"' in data


def _image_roots(file: Path) -> list[Path]:
    """Folders that file_name may be relative to, most specific first."""
    tail = file.stem.rpartition("_")[2]                       # instances_train2017 -> train2017
    tops = [file.parent, file.parent.parent]
    return [folder for top in tops for folder in (top / "images" / tail, top / tail, top / "images", top) if folder.is_dir()]
