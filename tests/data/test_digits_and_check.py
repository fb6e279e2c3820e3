"""The embedded digits, and the report on what a data set holds."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
from rich.console import Console

from nas.data import DataError, check, load
from nas.data import digits as digits_module


@pytest.fixture
def small_digits(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGENAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(digits_module, "COUNTS", {"train": 12, "val": 5})
    return tmp_path / "cache"


def test_digits_are_made_once_and_load_as_yolo(small_digits):
    dataset = load("digits")
    assert dataset.name == "digits" and dataset.format == "yolo" and dataset.classes == tuple("0123456789")
    assert (len(dataset.train), len(dataset.val)) == (12, 5)
    for sample in dataset.train + dataset.val:
        assert (sample.width, sample.height) == (192, 192) and 1 <= len(sample.labels) <= 6
        assert (sample.boxes_xyxy[:, 3] - sample.boxes_xyxy[:, 1]).min() > 15
    stamp = dataset.train[0].image.stat().st_mtime_ns
    assert load("digits").train[0].image.stat().st_mtime_ns == stamp
    assert [entry.name for entry in small_digits.iterdir()] == [digits_module._VERSION]


def test_digits_of_one_seed_are_equal_and_of_another_are_not(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        digits_module.write_digits(tmp_path / name, {"train": 2}, seed)
    first, again, other = ((tmp_path / name / "images/train/0001.jpg").read_bytes() for name in "abc")
    assert first == again != other


def test_a_digit_box_is_tight_around_its_ink(monkeypatch):
    glyphs, labels = digits_module._glyphs("train")
    grey = [np.full((200, 200, 3), 60, np.uint8)]
    for seed in range(10):
        image, boxes, _ = digits_module.compose(np.random.default_rng(seed), grey, glyphs, labels)
        background = np.median(image, axis=(0, 1))
        ink = np.abs(image.astype(float) - background).max(axis=2) > 40
        covered = np.zeros_like(ink)
        for x1, y1, x2, y2 in boxes.astype(int):
            covered[y1:y2, x1:x2] = True
            inside = ink[y1:y2, x1:x2]
            assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()
        assert not (cv2.medianBlur(ink.astype(np.uint8), 3) > covered).any()


def test_a_kill_while_digits_are_written_leaves_no_half_set(small_digits):
    program = (
        "import os, nas.data.digits as d\n"
        "d.COUNTS = {'train': 3, 'val': 2}\n"
        "whole = d.compose\n"
        "def dies(*args, calls=[]):\n"
        "    calls.append(1)\n"
        "    os._exit(9) if len(calls) == 3 else None\n"
        "    return whole(*args)\n"
        "d.compose = dies\n"
        "d.digits_folder()\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 9
    (left,) = small_digits.iterdir()
    assert ".partial-" in left.name
    assert (len(load("digits").train), len(load("digits").val)) == (12, 5)


def test_a_cache_that_cannot_be_written_says_how_to_choose_another(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("EDGENAS_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(DataError, match="cannot write the digits set: .*EDGENAS_CACHE"):
        load("digits")


def write_set(root, val_labels="1 0.5 0.5 0.3 0.3\n"):
    for seed, (split, stem, text) in enumerate(
        [("train", "a", "0 0.5 0.5 0.2 0.2\n0 0.5 0.5 0.2 0.2\n"), ("train", "b", "0 0.4 0.4 0.2 0.2\n"), ("val", "c", val_labels)]
    ):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (30, 40, 3), np.uint8)
        cv2.imwrite(str(root / "images" / split / f"{stem}.png"), pixels)
        (root / "labels" / split / f"{stem}.txt").write_text(text)
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat, dog]\n")
    return root


def test_check_counts_and_finds_duplicates_leaks_missing_classes_and_broken_images(tmp_path):
    root = write_set(tmp_path)
    (root / "images/val/d.png").write_bytes((root / "images/train/a.png").read_bytes())
    (root / "images/train/cut.png").write_bytes((root / "images/train/b.png").read_bytes()[:400])
    (root / "images/train/text.png").write_text("no image")
    report = check(root)
    assert not report.ok
    assert report.splits["train"].boxes_per_class == {"cat": 3, "dog": 0}
    assert report.splits["val"].images_without_boxes == 1
    np.testing.assert_allclose(report.splits["val"].box_size_px, [np.sqrt(12 * 9)] * 5, atol=0.06)
    for expected in (
        "2 equal boxes of class 'cat'",
        "in val, also in train as a.png: same file content",
        "classes have no box in train and cannot be learned: dog",
        "text.png: not an image",
        "cut.png: not an image",
        "have no label file",
        "none in val",
    ):
        assert any(expected in str(problem) for problem in report.problems), expected


def test_check_prints_every_problem_once_and_writes_json(tmp_path):
    report = check(write_set(tmp_path))
    console = Console(width=300, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    report.print(console)
    text = console.export_text()
    assert all(text.count(str(problem)) == 1 for problem in report.problems)
    content = json.loads(report.to_json())
    assert content["ok"] is True and content["splits"]["train"]["boxes"] == 3
    assert content["problems"][0].keys() == {"file", "line", "message", "severity"}


def test_validation_without_any_box_is_an_error(tmp_path):
    with pytest.raises(DataError, match="none of the 1 validation images has a box"):
        load(write_set(tmp_path, val_labels=""))
