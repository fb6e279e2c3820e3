"""The nano detectors of published families as points of the joint spaces: as they are, and scaled in width and resolution."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from types import MappingProxyType
from typing import Any

from searchspaces.space import Arch, Space
from searchspaces.yolo import PARTS, YOLO

FAMILIES: Mapping[str, str] = MappingProxyType({"yolov5n": "c3", "yolov8n": "c2f"})  # family -> its block
SIDES = tuple(range(96, 481, 32))  # px of the input
FACTORS = (0.5, 0.75, 1.0, 1.5, 2.0)  # of the width of every layer


def nano(block: str, size: int, act: str, precision: str) -> Arch:
    """The nano detector of a family as a point of `yolo`, with one activation and one precision: 'c3' is YOLOv5n, 'c2f' YOLOv8n."""
    widths, depths = (32, 64, 128, 256), (1, 2, 3 if block == "c3" else 2, 1)
    base = YOLO.repair({}).genes
    return YOLO.arch({
        **base, "resolution": size, "backbone.block": block, "neck.block": block, "neck": "pan", "stem.width": 16,
        **{f"stage{i}.width": width for i, width in enumerate(widths, 1)}, **{f"stage{i}.depth": n for i, n in enumerate(depths, 1)},
        **{name: act for name in base if name.endswith(".act")}, "head.box": 64, "head.cls": 64,
        **{f"{part}.precision": precision for part in PARTS},
    })  # fmt: skip


def scaled(space: Space, block: str, act: str, precision: str) -> Iterator[Arch]:
    """A nano detector at every side and width, as near as the space has them; no network comes twice."""
    found = []
    for size, factor in product(SIDES, FACTORS):
        genes: dict[str, Any] = dict(nano(block, size, act, precision).genes)
        genes |= {name: factor * width for name, width in genes.items() if name.endswith(".width")}
        genes |= {choice.name: precision for choice in space.choices if choice.name.endswith(".precision")}
        found.append(space.repair(genes))
    yield from dict.fromkeys(found)
