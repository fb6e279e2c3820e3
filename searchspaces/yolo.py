"""The joint space `yolo`: backbone block, neck, depths, widths, resolution, activations and bit-widths of one detector.

YOLOv8n is a point of it (tests count its parameters); bits are a gene per stage, the stem and the last 1x1 stay at 8.
"""

from __future__ import annotations

from collections.abc import Iterable

from searchspaces.blocks import BLOCKS, conv_bn_act, sppf
from searchspaces.graph import Builder, Graph, Ref
from searchspaces.heads import yolov8_head
from searchspaces.necks import fpn, pan
from searchspaces.ops import FLOAT_BITS
from searchspaces.space import Arch, Choice, Space

ACTS = ("relu", "relu6", "leaky_relu", "hardswish", "silu")
PRECISIONS = ("w8a8", "w4a8", "w4a4", "w2a8", "w2a4", "w2a2", "w1a2", "w1a1")
STAGES = (1, 2, 3, 4)  # strides 4, 8, 16, 32
WIDTHS = {1: (16, 24, 32, 48, 64), 2: (32, 48, 64, 96, 128), 3: (48, 64, 96, 128, 192, 256), 4: (64, 96, 128, 192, 256, 384, 512)}
PARTS = ("stage1", "stage2", "stage3", "stage4", "neck", "head")
EDGE_BITS = 8  # the stem and the last 1x1: low bits there cost the most accuracy and save the least


def bits(precision: str) -> tuple[int, int]:
    """(weight bits, activation bits) of a precision's name: 'w4a8' -> (4, 8), 'fp32' -> (32, 32)."""
    if precision == "fp32":
        return FLOAT_BITS, FLOAT_BITS
    weights, activations = precision[1:].split("a")
    return int(weights), int(activations)


def build_yolo(arch: Arch, classes: int) -> Graph:
    """Input (3, resolution, resolution) RGB in 0..1; output dfl_decode (4 + classes, anchors, 1) at strides 8, 16 and 32."""
    g = Builder()
    quantized = arch["stage1.precision"] != "fp32"
    edge = EDGE_BITS if quantized else FLOAT_BITS
    block = BLOCKS[arch["backbone.block"]]

    with g.precision(edge, edge):
        image = g.input(3, arch["resolution"], arch["resolution"])
        with g.scope("stem"):
            x = conv_bn_act(g, image, arch["stem.width"], 3, stride=2, act=arch["stem.act"])

    levels: list[Ref] = []
    for stage in STAGES:
        part = f"stage{stage}"
        width, act = arch[f"{part}.width"], arch[f"{part}.act"]
        with g.scope(part), g.precision(*bits(arch[f"{part}.precision"])):
            x = conv_bn_act(g, x, width, 3, stride=2, act=act)
            x = block(g, x, width, arch[f"{part}.depth"], act=act, shortcut=True)
            if stage == STAGES[-1]:
                x = sppf(g, x, width, act=act)
        levels.append(x)

    with g.scope("neck"), g.precision(*bits(arch["neck.precision"])):
        outs = _neck(g, arch, (levels[1], levels[2], levels[3]))
    with g.scope("head"), g.precision(*bits(arch["head.precision"])):
        decoded = yolov8_head(g, outs, classes, act=arch["head.act"], box_width=arch["head.box"],
                              class_width=max(arch["head.cls"], min(classes, 100)), last_bits=edge)
    return g.graph(decoded)


def _neck(g: Builder, arch: Arch, levels: tuple[Ref, Ref, Ref]) -> tuple[Ref, Ref, Ref]:
    block, act = BLOCKS[arch["backbone.block"]], arch["neck.act"]

    def fuse(g: Builder, x: Ref, channels: int) -> Ref:
        return block(g, x, channels, arch["neck.depth"], act=act, shortcut=False)

    def fuse_up(g: Builder, x: Ref, channels: int) -> Ref:
        return block(g, x, channels, arch["pan.depth"], act=act, shortcut=False)

    def down(g: Builder, x: Ref, channels: int) -> Ref:
        return conv_bn_act(g, x, channels, 3, stride=2, act=act)

    return pan(g, levels, fuse, fuse_up, down) if arch["neck"] == "pan" else fpn(g, levels, fuse)


YOLO = Space(
    name="yolo",
    choices=(
        Choice("resolution", tuple(range(96, 481, 32))),
        Choice("backbone.block", tuple(BLOCKS)),
        Choice("neck", ("pan", "fpn")),
        Choice("stem.width", (8, 16, 24, 32)),
        Choice("stem.act", ACTS),
        *(Choice(f"stage{s}.width", WIDTHS[s]) for s in STAGES),
        *(Choice(f"stage{s}.depth", (1, 2, 3)) for s in STAGES),
        *(Choice(f"stage{s}.act", ACTS) for s in STAGES),
        Choice("neck.depth", (1, 2, 3)),
        Choice("pan.depth", (1, 2, 3), when=("neck", ("pan",))),
        Choice("neck.act", ACTS),
        Choice("head.box", (32, 48, 64)),
        Choice("head.cls", (32, 48, 64, 96, 128)),
        Choice("head.act", ACTS),
        *(Choice(f"{part}.precision", PRECISIONS) for part in PARTS),
    ),
    build=build_yolo,
)


def with_precisions(space: Space, precisions: Iterable[str]) -> Space:
    """The space held to the precisions a device prices.  A device that prices 'fp32' alone gets a space of float networks."""
    wanted = list(precisions)
    names = [choice.name for choice in space.choices if choice.name.endswith(".precision")]
    if wanted == ["fp32"]:
        choices = tuple(Choice(c.name, ("fp32",)) if c.name in names else c for c in space.choices)
        return Space(space.name, choices, space.build)
    return space.limited(dict.fromkeys(names, wanted))
