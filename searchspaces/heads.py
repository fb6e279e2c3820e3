"""Heads: maps of the neck to raw outputs, and their decoding."""

from __future__ import annotations

from collections.abc import Sequence

from searchspaces.blocks import conv_bn_act
from searchspaces.graph import Builder, Ref

BINS = 16  # distribution focal loss bins a side (Li et al. 2020, arXiv:2006.04388)


def yolov8_head(g: Builder, levels: Sequence[Ref], classes: int, *, act: str, box_width: int, class_width: int,
                strides: Sequence[int] = (8, 16, 32), last_bits: int = 8) -> Ref:
    """Decoupled anchor-free head of YOLOv8.  Per level a box branch (3x3, 3x3, 1x1 to 4 sides of 16 bins) and a class
    branch (3x3, 3x3, 1x1 to logits); only the last 1x1 has a bias, and it is held at `last_bits` where the rest is quantized.
    """
    maps: list[Ref] = []
    for stride, x in zip(strides, levels):
        for branch, width, outputs in (("box", box_width, 4 * BINS), ("cls", class_width, classes)):
            with g.scope(f"s{stride}.{branch}"):
                y = conv_bn_act(g, x, width, 3, act=act)
                y = conv_bn_act(g, y, width, 3, act=act)
                with g.precision(last_bits, last_bits):
                    maps.append(g.conv2d(y, outputs, 1, bias=True))
    return g.add_node("dfl_decode", *maps, strides=tuple(strides), bins=BINS, classes=classes)
