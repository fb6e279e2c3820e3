"""A data set of sixteen pictures and a device priced by roofline: a whole job in seconds."""

import cv2
import numpy as np
import pytest

from searchspaces import SPACES, YOLO, Space
from searchspaces.yolo import STAGES, WIDTHS

NARROW = {"resolution": [96], "stem.width": [8], "head.cls": [32], "head.box": [32]}
NARROW |= {"neck.depth": [1], "pan.depth": [1]}
NARROW |= {f"stage{s}.{gene}": options[:2] for s in STAGES for gene, options in (("width", WIDTHS[s]), ("depth", [1]))}

DEVICE = """
name = "bench-edgenas"
board = "a test bench"
runtime = "edgenas, 1 thread"
precisions = ["w8a8", "w4a4", "w2a2"]
cores = 1
clock_ghz = 2.0
dram_gb_s = 10.0
slack = 2.0
macs_per_cycle = { w8a8 = 32.0, w4a4 = 32.0, w2a2 = 64.0 }
[sources]
cores = "made up"
clock_ghz = "made up"
dram_gb_s = "made up"
slack = "made up"
macs_per_cycle = "made up"
"""


@pytest.fixture(scope="session")
def squares(tmp_path_factory):
    """A YOLO data set: one bright square or disc a picture, 96 px."""
    root = tmp_path_factory.mktemp("squares")
    rng = np.random.default_rng(0)
    for split, count in (("train", 16), ("val", 6)):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for i in range(count):
            image = rng.integers(0, 60, (96, 96, 3), dtype=np.uint8)
            label, (x, y), half = i % 2, rng.integers(30, 66, 2), int(rng.integers(12, 24))
            if label:
                cv2.circle(image, (int(x), int(y)), half, (40, 220, 220), -1)
            else:
                cv2.rectangle(image, (int(x) - half, int(y) - half), (int(x) + half, int(y) + half), (220, 40, 40), -1)
            cv2.imwrite(str(root / "images" / split / f"{i:02d}.png"), image)
            line = f"{label} {x / 96:.6f} {y / 96:.6f} {2 * half / 96:.6f} {2 * half / 96:.6f}\n"
            (root / "labels" / split / f"{i:02d}.txt").write_text(line)
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [square, disc]\n")
    return root / "data.yaml"


@pytest.fixture
def narrow(monkeypatch):
    """The name of the joint space held to small networks."""
    monkeypatch.setitem(SPACES, "narrow", Space("narrow", YOLO.limited(NARROW).choices, YOLO.build))
    return "narrow"


@pytest.fixture(scope="session")
def device(tmp_path_factory):
    path = tmp_path_factory.mktemp("device") / "bench.toml"
    path.write_text(DEVICE)
    return path
