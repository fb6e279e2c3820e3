"""load(): any data set to a Dataset, the format found by looking."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from nas.data.coco import find_coco, load_coco
from nas.data.core import DataError, Dataset, Problem, natural_key
from nas.data.digits import digits_folder
from nas.data.voc import is_voc, load_voc
from nas.data.yolo import find_data_yaml, load_yolo

VAL_FRACTION = 0.2
_SPLIT_SEED = 0                       # the same split on every machine and in every run
_SHOWN_ERRORS = 5


def load(where: str | Path, *, strict: bool = True) -> Dataset:
    """Read a VOC folder, a YOLO folder or data.yaml, a COCO folder or JSON file, or the embedded set "digits".

    With `strict`, an annotation or image that cannot be read raises DataError naming file and line; without, it is left out and stands in
    `problems` with severity "error". A data set without validation images gets a seeded 80/20 split of train, said in `problems`.
    Images are not decoded here, only their headers are read.
    """
    dataset = _read(where)
    errors = [problem for problem in dataset.problems if problem.severity == "error"]
    if strict and errors:
        more = f"\n... and {len(errors) - _SHOWN_ERRORS} more" if len(errors) > _SHOWN_ERRORS else ""
        raise DataError("\n".join(map(str, errors[:_SHOWN_ERRORS])) + more)
    if not dataset.splits.get("train"):
        found = ", ".join(f"{split} {len(samples)}" for split, samples in dataset.splits.items()) or "none"
        raise DataError(f"{dataset.root}: no training images (images found: {found})")
    if not any(len(sample.labels) for sample in dataset.train):
        raise DataError(f"{dataset.root}: none of the {len(dataset.train)} training images has a box")
    dataset = _with_val(dataset)
    if not any(len(sample.labels) for sample in dataset.val):
        raise DataError(f"{dataset.root}: none of the {len(dataset.val)} validation images has a box, so no mAP can be measured")
    return _report_crowd(_report_missing_classes(dataset))


def _read(where: str | Path) -> Dataset:
    if str(where) == "digits":
        return replace(load_yolo(digits_folder() / "data.yaml"), name="digits")
    path = Path(where)
    if path.is_file():
        if path.suffix.lower() in (".yaml", ".yml"):
            return load_yolo(path)
        if path.suffix.lower() == ".json":
            folder = path.resolve().parent
            return load_coco(folder.parent if folder.name == "annotations" else folder, {"train": path})
        raise DataError(f"{path}: not a data set; expected a folder, a data.yaml, a COCO .json file, or 'digits'")
    if not path.is_dir():
        raise DataError(f"{path}: no such folder or file; expected a folder, a data.yaml, a COCO .json file, or 'digits'")
    if (file := find_data_yaml(path)) is not None:
        return load_yolo(file)
    if is_voc(path):
        return load_voc(path)
    if files := find_coco(path):
        return load_coco(path, files)
    held = ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) or "nothing"
    raise DataError(
        f"{path}: no data set found in it (it holds {held}); expected data.yaml (YOLO), Annotations/*.xml with JPEGImages (VOC), "
        "or annotations/*.json (COCO)"
    )


def _with_val(dataset: Dataset) -> Dataset:
    """Where there is no validation split, hold out a fifth of train."""
    if dataset.splits.get("val"):
        return dataset
    samples = sorted(dataset.train, key=lambda sample: natural_key(sample.image))
    held_out = max(1, round(VAL_FRACTION * len(samples)))
    if len(samples) <= held_out:
        raise DataError(f"{dataset.root}: one training image and no validation split; at least 2 images are needed to hold one out")
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(samples))
    val = tuple(samples[i] for i in sorted(order[:held_out]))
    train = tuple(samples[i] for i in sorted(order[held_out:]))
    message = f"no validation split: {held_out} of the {len(samples)} training images are held out for it (seed {_SPLIT_SEED})"
    split = replace(dataset, splits={**dataset.splits, "train": train, "val": val})
    return split.with_problems([Problem(str(dataset.root), None, message, "note")])


def _report_missing_classes(dataset: Dataset) -> Dataset:
    counts = np.zeros(len(dataset.classes), np.int64)
    for sample in dataset.train:
        counts += np.bincount(sample.labels[~sample.crowd], minlength=len(counts))
    missing = [name for name, count in zip(dataset.classes, counts) if count == 0]
    if not missing:
        return dataset
    shown = ", ".join(missing[:8]) + (f" and {len(missing) - 8} more" if len(missing) > 8 else "")
    message = f"{len(missing)} of {len(counts)} classes have no box in train and cannot be learned: {shown}"
    return dataset.with_problems([Problem(str(dataset.root), None, message)])


def _report_crowd(dataset: Dataset) -> Dataset:
    count = sum(int(sample.crowd.sum()) for samples in dataset.splits.values() for sample in samples)
    if not count:
        return dataset
    message = f"{count} crowd or difficult regions: not trained on, ignored in evaluation"
    return dataset.with_problems([Problem(str(dataset.root), None, message, "note")])
