"""The 968 detectors of YOLOBench (arXiv:2307.13901) by name: 88 architectures of YOLOv3 to YOLOv8, 11 resolutions each.

Every one carries YOLOv8's anchor-free head.  Parameters in training form and MACs in deploy form are the benchmark's.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from math import ceil

from searchspaces.backbones import elan_net, staged
from searchspaces.blocks import (
    bottleneck,
    bottlenecks,
    c2f,
    c3,
    conv_bn_act,
    csp,
    csp2,
    csp_rep,
    csp_sppf,
    elan_w,
    norm_act,
    pool_down,
    rep_stack,
    repvgg,
    sppcsp,
    sppcspc,
    sppf,
)
from searchspaces.graph import Builder, Graph, Ref
from searchspaces.heads import yolov8_head
from searchspaces.necks import Levels, bifpn, darknet_fpn, lateral_pan, pan, reduced_pan
from searchspaces.ops import FLOAT_BITS, GraphError
from searchspaces.rewrite import merge_rep

CLASSES = 20  # PASCAL VOC; the benchmark's latency was measured with a head for 80
RESOLUTIONS = tuple(range(160, 481, 32))
RESOLUTION = 320  # of an architecture's name alone
LETTERS = {"n": (0.33, 0.25), "s": (0.33, 0.5), "m": (0.67, 0.75), "l": (1.0, 1.0)}  # (depth, width)
WIDTHS = {"25": 0.25, "5": 0.5, "75": 0.75, "1": 1.0}
DEPTHS = {"33": 0.33, "67": 0.67, "1": 1.0}
DEPTHS_6 = {"33": 0.33, "6": 0.6, "1": 1.0}
FAMILIES = ("yolo3", "yolo4", "yolo5", "yolo6s", "yolo6m", "yolo6l", "yolo7", "yolo8")
_CAP = 1024  # channels before the width factor
_CAP_8 = ((0.33, 1024), (0.67, 768), (1.0, 512))  # YOLOv8's falls with depth


@dataclass(frozen=True)
class Name:
    """A detector's name, read: depth (up to 1) and width are the factors on repeats and channels, resolution the input's side in pixels."""

    family: str
    depth: float
    width: float
    resolution: int

    def channels(self, channels: int) -> int:
        """Scaled, in multiples of 8."""
        cap = next(cap for depth, cap in _CAP_8 if self.depth <= depth) if self.family == "yolo8" else _CAP
        return ceil(min(channels, cap) * self.width / 8) * 8

    def repeats(self, repeats: int) -> int:
        """Scaled, at least one; a block that stands once stays."""
        return max(1, round(repeats * self.depth)) if repeats > 1 else repeats


@cache
def architectures() -> tuple[str, ...]:
    """The 88 names without resolution, in the order of the tables."""
    return tuple(sorted(_grid()))


@cache
def names() -> tuple[str, ...]:
    """The 968 names, in the order of the tables."""
    return tuple(f"{architecture}_{resolution}" for architecture in architectures() for resolution in RESOLUTIONS)


@cache
def _grid() -> dict[str, tuple[str, float, float]]:
    """Architecture name -> (family, depth, width)."""
    letters = {factors: letter for letter, factors in LETTERS.items()}
    grid: dict[str, tuple[str, float, float]] = {}
    for family in FAMILIES:
        if family == "yolo7":  # depth has no effect, so only the lettered pairs exist
            grid |= {family + letter: (family, *factors) for letter, factors in LETTERS.items()}
            continue
        six = family.startswith("yolo6")
        for d, depth in (DEPTHS_6 if six else DEPTHS).items():
            for w, width in WIDTHS.items():
                letter = letters.get((depth, width), f"d{d}w{w}")
                grid[f"{family}-d{d}w{w}" if six else family + letter] = family, depth, width
    return grid


def parse(name: str) -> Name:
    """'yolo5d33w75_320' read; a name without resolution is at 320 px.  Raises GraphError for a name that is not of the benchmark."""
    architecture, mark, size = name.partition("_")
    if architecture not in _grid():
        near = difflib.get_close_matches(architecture, architectures(), n=3, cutoff=0.6)
        known = f"near it: {', '.join(near)}" if near else f"families: {', '.join(FAMILIES)}, as in 'yolo8n' or 'yolo6s-d33w25'"
        raise GraphError(f"'{name}' is no YOLOBench model: unknown architecture '{architecture}'; {known}")
    if mark and size not in map(str, RESOLUTIONS):
        raise GraphError(f"'{name}' is no YOLOBench model: resolution '{size}' is not one of {', '.join(map(str, RESOLUTIONS))}")
    return Name(*_grid()[architecture], int(size) if mark else RESOLUTION)


def check(name: str) -> None:
    """Raises GraphError, which says what would work, unless `name` is one of names()."""
    parse(name)
    if "_" not in name:
        raise GraphError(f"'{name}' is an architecture of YOLOBench, not a model: it lacks the resolution, as in '{name}_{RESOLUTION}'")


def build(name: str, num_classes: int = CLASSES, deploy: bool = False) -> Graph:
    """The detector of that name: input (3, resolution, resolution), output dfl_decode (4 + classes, anchors, 1) at strides 8, 16, 32.

    `deploy` merges the branches of re-parameterizable blocks.
    """
    graph = detector(parse(name), num_classes)
    return merge_rep(graph)[0] if deploy else graph


def detector(scale: Name, num_classes: int) -> Graph:
    """The detector of any depth, width and resolution, those between the benchmark's included; the resolution a multiple of 32."""
    if num_classes < 1:
        raise GraphError(f"a detector of {num_classes} classes: it takes one at least")
    g = Builder()
    body, act = _BODIES[scale.family]
    maps = body(g, g.input(3, scale.resolution, scale.resolution), scale)
    finest = g.channels(maps[0])
    with g.scope("head"):
        box, classes = max(16, finest // 4, 64), max(finest, num_classes)
        return g.graph(yolov8_head(g, maps, num_classes, act=act, box_width=box, class_width=classes, last_bits=FLOAT_BITS))


def _scaled(scale: Name, *channels: int) -> tuple[int, ...]:
    return tuple(map(scale.channels, channels))


def _outputs(scale: Name, p3: int = 256) -> tuple[int, int, int]:
    return scale.channels(p3), scale.channels(2 * p3), scale.channels(4 * p3)


def _conv(g: Builder, x: Ref, channels: int, *, act: str, kernel: int = 3, stride: int = 1) -> Ref:
    return conv_bn_act(g, x, channels, kernel, stride=stride, act=act)


_silu_down = partial(_conv, act="silu", stride=2)


def _darknet_stem(g: Builder, image: Ref, scale: Name) -> Ref:
    """Stem of YOLOv3 and YOLOv4: 3x3 at full size, 3x3 at stride 2, one residual bottleneck whatever the depth."""
    with g.scope("stem"):
        x = conv_bn_act(g, image, scale.channels(32), 3, act="silu")
        x = conv_bn_act(g, x, scale.channels(64), 3, stride=2, act="silu")
        return bottleneck(g, x, scale.channels(64), act="silu", shortcut=True, expansion=0.5)


def _darknet(g: Builder, image: Ref, scale: Name, block: Callable[..., Ref]) -> Levels:
    x, repeats = _darknet_stem(g, image, scale), [scale.repeats(n) for n in (2, 8, 8, 4)]
    stage = partial(block, act="silu", shortcut=True)
    return staged(g, x, _scaled(scale, 128, 256, 512, 1024), repeats, down=_silu_down, stage=stage)[1:]


def _yolo3(g: Builder, image: Ref, scale: Name) -> Levels:
    levels = _darknet(g, image, scale, bottlenecks)
    with g.scope("neck"):
        return darknet_fpn(g, levels, _outputs(scale), scale.repeats(2), act="silu")


def _yolo4(g: Builder, image: Ref, scale: Name) -> Levels:
    p3, p4, p5 = _darknet(g, image, scale, csp)
    with g.scope("top"):
        p5 = sppcsp(g, p5, scale.channels(512), act="silu")

    fuse = partial(csp2, repeats=scale.repeats(2), act="silu", shortcut=False)
    with g.scope("neck"):
        return lateral_pan(g, (p3, p4, p5), _outputs(scale), fuse, fuse, _silu_down, partial(_conv, act="silu"), act="silu")


def _yolo5(g: Builder, image: Ref, scale: Name) -> Levels:
    with g.scope("stem"):
        x = norm_act(g, g.conv2d(image, scale.channels(64), 6, stride=2, padding=2), "silu")
    widths, repeats = _scaled(scale, 128, 256, 512, 1024), [scale.repeats(n) for n in (3, 6, 9, 3)]
    _, p3, p4, p5 = staged(g, x, widths, repeats, down=_silu_down, stage=partial(c3, act="silu", shortcut=True))
    with g.scope("top"):
        p5 = sppf(g, p5, scale.channels(1024), act="silu")
    fuse = partial(c3, repeats=scale.repeats(3), act="silu", shortcut=False)
    with g.scope("neck"):
        return reduced_pan(g, (p3, p4, p5), _outputs(scale), fuse, fuse, _silu_down, act="silu")


def _yolo6(g: Builder, image: Ref, scale: Name) -> Levels:
    """6s: stacks of RepVGG.  6m: RepVGG inside cross-stage blocks.  6l: the same of plain convs with SiLU.  The necks' own convs: ReLU."""
    act = "silu" if scale.family == "yolo6l" else "relu"
    down = partial(_conv, act=act, stride=2) if scale.family == "yolo6l" else partial(repvgg, act=act, stride=2)
    expansion = 2 / 3 if scale.family == "yolo6m" else 0.5

    def stage(g: Builder, x: Ref, channels: int, repeats: int) -> Ref:
        if scale.family == "yolo6s":
            return rep_stack(g, x, channels, repeats, act=act, shortcut=True)
        pairs, rep = max(1, repeats // 2), scale.family == "yolo6m"
        return csp_rep(g, x, channels, pairs, act=act, shortcut=True, expansion=expansion, rep=rep)

    with g.scope("stem"):
        x = down(g, image, scale.channels(64))
    repeats = [scale.repeats(n) for n in (6, 12, 18, 6)]
    p2, p3, p4, p5 = staged(g, x, _scaled(scale, 128, 256, 512, 1024), repeats, down=down, stage=stage)
    with g.scope("top"):
        p5 = (csp_sppf if scale.family == "yolo6s" else sppf)(g, p5, scale.channels(1024), act=act)
    fuse = partial(stage, repeats=scale.repeats(12))
    with g.scope("neck"):
        return bifpn(g, (p2, p3, p4, p5), _outputs(scale, 128), fuse, fuse, partial(_conv, act="relu", stride=2), act="relu")


def _yolo7(g: Builder, image: Ref, scale: Name) -> Levels:
    stem = scale.channels(32), scale.channels(64), scale.channels(128)
    widths, hidden = _scaled(scale, 256, 512, 1024, 1024), _scaled(scale, 64, 128, 256, 256)
    _, p3, p4, p5 = elan_net(g, image, widths, hidden, stem=stem, act="silu")
    with g.scope("top"):
        p5 = sppcspc(g, p5, scale.channels(512), act="silu")

    def down(g: Builder, x: Ref, channels: int) -> Ref:
        return pool_down(g, x, channels // 2, act="silu")

    fuse = partial(elan_w, repeats=2, act="silu", shortcut=False)
    with g.scope("neck"):
        return lateral_pan(g, (p3, p4, p5), _outputs(scale), fuse, fuse, down, partial(repvgg, act="silu", identity=False), act="silu")


def _yolo8(g: Builder, image: Ref, scale: Name) -> Levels:
    with g.scope("stem"):
        x = conv_bn_act(g, image, scale.channels(64), 3, stride=2, act="silu")
    widths, repeats = _scaled(scale, 128, 256, 512, 1024), [scale.repeats(n) for n in (3, 6, 6, 3)]
    _, p3, p4, p5 = staged(g, x, widths, repeats, down=_silu_down, stage=partial(c2f, act="silu", shortcut=True))
    with g.scope("top"):
        p5 = sppf(g, p5, scale.channels(1024), act="silu")
    fuse = partial(c2f, repeats=scale.repeats(3), act="silu", shortcut=False)
    with g.scope("neck"):
        return pan(g, (p3, p4, p5), fuse, fuse, _silu_down)


_BODIES: dict[str, tuple[Callable[[Builder, Ref, Name], Levels], str]] = {  # body and the head's activation
    "yolo3": (_yolo3, "silu"), "yolo4": (_yolo4, "silu"), "yolo5": (_yolo5, "silu"), "yolo6s": (_yolo6, "relu"),
    "yolo6m": (_yolo6, "relu"), "yolo6l": (_yolo6, "relu"), "yolo7": (_yolo7, "silu"), "yolo8": (_yolo8, "silu"),
}  # fmt: skip
