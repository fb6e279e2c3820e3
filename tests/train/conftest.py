"""A detector of 40 thousand weights and a handful of pictures of digits, so that a whole training takes seconds."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from nas.data import Dataset, Sample

CLASSES = ("two", "seven")


def block(c_in: int, c_out: int, stride: int = 2) -> nn.Sequential:
    conv = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out, eps=1e-3, momentum=0.1), nn.SiLU())


class TinyDetector(nn.Module):
    """Three levels, each a convolution of the one above, with one 1x1 to boxes and classes."""

    def __init__(self, classes: int = len(CLASSES), width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(block(3, width), block(width, width * 2), block(width * 2, width * 2))
        self.levels = nn.ModuleList((block(width * 2, width * 2, 1), block(width * 2, width * 2), block(width * 2, width * 2)))
        self.heads = nn.ModuleList(nn.Conv2d(width * 2, 64 + classes, 1) for _ in range(3))

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        x, maps = self.stem(images), []
        for level, head in zip(self.levels, self.heads):
            x = level(x)
            maps.append(head(x))
        return maps


def draw_digits(folder: Path, images: int = 8, size: int = 64) -> Dataset:
    """Pictures with one or two digits on grey noise, written to the folder; the same images serve as both splits."""
    rng = np.random.default_rng(0)
    samples = []
    for number in range(images):
        picture = rng.integers(60, 110, (size, size, 3)).astype(np.uint8)
        boxes, labels = [], []
        for place in range(1 + number % 2):
            label, x, y = int(rng.integers(2)), int(rng.integers(2, 12)) + 32 * place, int(rng.integers(28, 60))
            cv2.putText(picture, "27"[label], (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.9, (250, 240, 90), 2)
            boxes.append((x, y - 21, x + 18, y + 2))
            labels.append(label)
        path = folder / f"{number}.png"
        cv2.imwrite(str(path), picture)
        samples.append(Sample(path, size, size, np.array(boxes, np.float32), np.array(labels), np.zeros(len(labels), bool)))
    return Dataset("drawn", folder, "voc", CLASSES, {"train": tuple(samples), "val": tuple(samples)})


@pytest.fixture
def digits(tmp_path: Path) -> Dataset:
    return draw_digits(tmp_path)


@pytest.fixture
def tiny() -> Callable[[], TinyDetector]:
    """Makes the same untrained detector each time."""

    def make() -> TinyDetector:
        torch.manual_seed(0)
        return TinyDetector()

    return make


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
