"""The joint space `yolo`: blocks, downsampling, pooling and neck of all YOLO families, depths, widths, resolution, activations and
bit-widths of one detector.

YOLOv8n is a point of it (tests count its parameters); bits are a gene per stage, the stem and the last 1x1 stay at 8.  In `yolo_blocks`
each repeat of a stage's or the neck's block has bits of its own, and the stage's gene is for what stands around them.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from searchspaces.blocks import BLOCKS, POOLINGS, conv_bn_act, pool_down, repvgg
from searchspaces.graph import Builder, Graph, Ref
from searchspaces.heads import yolov8_head
from searchspaces.necks import Levels, bifpn, darknet_fpn, fpn, lateral_pan, pan, reduced_pan
from searchspaces.ops import FLOAT_BITS
from searchspaces.space import Arch, Choice, Space

ACTS = ("relu", "relu6", "leaky_relu", "hardswish", "silu")
PRECISIONS = ("w8a8", "w4a8", "w4a4", "w2a8", "w2a4", "w2a2", "w1a2", "w1a1")
STAGES = (1, 2, 3, 4)  # strides 4, 8, 16, 32
DEPTHS = (1, 2, 3)  # repeats of a block
WIDTHS = {1: (16, 24, 32, 48, 64), 2: (32, 48, 64, 96, 128), 3: (48, 64, 96, 128, 192, 256), 4: (64, 96, 128, 192, 256, 384, 512)}
PARTS = ("stage1", "stage2", "stage3", "stage4", "neck", "head")
REPEATED = (*PARTS[:4], "neck", "pan")  # parts of which a block is repeated; pan leads back up in the neck
NECKS = ("pan", "fpn", "reduced_pan", "lateral_pan", "bifpn", "darknet_fpn")
UPWARD = ("pan", "reduced_pan", "lateral_pan", "bifpn")  # these lead back up, through blocks of pan.depth
HALVED = frozenset({"sppcsp", "sppcspc"})  # poolings that are as wide inside as outside: half the stage's width, as in their papers
DOWNS = ("conv", "repvgg", "pool")
EDGE_BITS = 8  # the stem and the last 1x1: low bits there cost the most accuracy and save the least


def bits(precision: str) -> tuple[int, int]:
    """(weight bits, activation bits) of a precision's name: 'w4a8' -> (4, 8), 'fp32' -> (32, 32)."""
    if precision == "fp32":
        return FLOAT_BITS, FLOAT_BITS
    weights, activations = precision[1:].split("a")
    return int(weights), int(activations)


def block_bits(arch: Arch, part: str) -> list[tuple[int, int]]:
    """Of each repeat of a part's block, where the space has genes for them."""
    genes = [f"{part}.block{k}.precision" for k in DEPTHS]
    return [bits(arch[gene]) for gene in genes if gene in arch.genes]


def precisions_of(arch: Arch, part: str) -> set[str]:
    """Those of one of PARTS and of its blocks."""
    own = (part, "pan") if part == "neck" else (part,)
    return {arch[gene] for gene in arch.genes if gene.endswith(".precision") and gene.partition(".")[0] in own}


def build_yolo(arch: Arch, classes: int, g: Builder | None = None) -> Graph:
    """Input (3, resolution, resolution) RGB in 0..1; output dfl_decode (4 + classes, anchors, 1) at strides 8, 16 and 32.

    `g` adds the nodes, a plain Builder where it is None.
    """
    g = g or Builder()
    quantized = arch["stage1.precision"] != "fp32"
    edge = EDGE_BITS if quantized else FLOAT_BITS

    with g.precision(edge, edge):
        image = g.input(3, arch["resolution"], arch["resolution"])
        with g.scope("stem"):
            x = conv_bn_act(g, image, arch["stem.width"], 3, stride=2, act=arch["stem.act"])

    levels = _backbone(g, x, arch)
    with g.scope("neck"), g.precision(*bits(arch["neck.precision"])):
        outs = _neck(g, arch, levels)
    with g.scope("head"), g.precision(*bits(arch["head.precision"])):
        decoded = yolov8_head(g, outs, classes, act=arch["head.act"], box_width=arch["head.box"],
                              class_width=max(arch["head.cls"], min(classes, 100)), last_bits=edge)
    return g.graph(decoded)


def _backbone(g: Builder, x: Ref, arch: Arch) -> list[Ref]:
    """The maps of the four stages, pooled at the top."""
    pooling = arch["top"]
    levels: list[Ref] = []
    for stage in STAGES:
        part = f"stage{stage}"
        width, act = arch[f"{part}.width"], arch[f"{part}.act"]
        with g.scope(part), g.precision(*bits(arch[f"{part}.precision"])):
            x = _down(g, x, width, arch["backbone.down"], act)
            x = _blocks(g, x, width, arch, part, "backbone.block", act=act, shortcut=True)
            if stage == STAGES[-1] and pooling != "none":
                x = POOLINGS[pooling](g, x, width // 2 if pooling in HALVED else width, act=act)
        levels.append(x)
    return levels


def _blocks(g: Builder, x: Ref, channels: int, arch: Arch, part: str, kind: str, *, act: str, shortcut: bool) -> Ref:
    """The block that the gene `kind` names, as often as the part's depth says, each repeat at its own bits."""
    with g.precisions(block_bits(arch, part)):
        return BLOCKS[arch[kind]](g, x, channels, arch[f"{part}.depth"], act=act, shortcut=shortcut)


def _down(g: Builder, x: Ref, channels: int, kind: str, act: str) -> Ref:
    """Half the size at stride 2, `channels` out."""
    if kind == "repvgg":
        return repvgg(g, x, channels, stride=2, act=act)
    return pool_down(g, x, channels // 2, act=act) if kind == "pool" else conv_bn_act(g, x, channels, 3, stride=2, act=act)


def _neck(g: Builder, arch: Arch, levels: list[Ref]) -> Levels:
    neck, act = arch["neck"], arch["neck.act"]
    p2, p3, p4, p5 = levels
    w3, w4, w5 = (arch[f"stage{stage}.width"] for stage in STAGES[1:])
    if neck == "darknet_fpn":
        with g.precisions([bits(arch["neck.precision"]), *block_bits(arch, "neck")]):  # one more than the depth says
            return darknet_fpn(g, (p3, p4, p5), (w3, w4, w5), arch["neck.depth"], act=act)
    fuse, fuse_up = (partial(_blocks, arch=arch, part=part, kind="neck.block", act=act, shortcut=False) for part in ("neck", "pan"))
    if neck == "fpn":
        return fpn(g, (p3, p4, p5), fuse)
    down = partial(_down, kind=arch["neck.down"], act=act)
    if neck == "bifpn":
        return bifpn(g, (p2, p3, p4, p5), (w3 // 2, w4 // 2, w5 // 2), fuse, fuse_up, down, act=act)
    if neck == "reduced_pan":
        return reduced_pan(g, (p3, p4, p5), (w3, w4, w5), fuse, fuse_up, down, act=act)
    if neck == "pan":
        return pan(g, (p3, p4, p5), fuse, fuse_up, down)

    def out(g: Builder, x: Ref, channels: int) -> Ref:
        return repvgg(g, x, channels, act=act) if arch["neck.out"] == "repvgg" else conv_bn_act(g, x, channels, 3, act=act)

    return lateral_pan(g, (p3, p4, p5), (w3, w4, w5), fuse, fuse_up, down, out, act=act)


YOLO = Space(
    name="yolo",
    choices=(
        Choice("resolution", tuple(range(96, 481, 32))),
        Choice("backbone.block", tuple(BLOCKS)),
        Choice("backbone.down", DOWNS),
        Choice("top", (*POOLINGS, "none")),
        Choice("neck", NECKS),
        Choice("neck.block", tuple(BLOCKS), when=("neck", tuple(neck for neck in NECKS if neck != "darknet_fpn"))),
        Choice("neck.down", DOWNS, when=("neck", UPWARD)),
        Choice("neck.out", ("conv", "repvgg"), when=("neck", ("lateral_pan",))),
        Choice("stem.width", (8, 16, 24, 32)),
        Choice("stem.act", ACTS),
        *(Choice(f"stage{s}.width", WIDTHS[s]) for s in STAGES),
        *(Choice(f"stage{s}.depth", (1, 2, 3)) for s in STAGES),
        *(Choice(f"stage{s}.act", ACTS) for s in STAGES),
        Choice("neck.depth", DEPTHS),
        Choice("pan.depth", DEPTHS, when=("neck", UPWARD)),
        Choice("neck.act", ACTS),
        Choice("head.box", (32, 48, 64)),
        Choice("head.cls", (32, 48, 64, 96, 128)),
        Choice("head.act", ACTS),
        *(Choice(f"{part}.precision", PRECISIONS) for part in PARTS),
    ),
    build=build_yolo,
)


def _when(part: str, k: int) -> tuple[str, tuple[object, ...]] | None:
    """Where the k-th repeat of a part's block is there."""
    if k > 1:
        return f"{part}.depth", DEPTHS[k - 1 :]
    return ("neck", UPWARD) if part == "pan" else None


YOLO_BLOCKS = Space(
    name="yolo_blocks",
    choices=(*YOLO.choices, *(Choice(f"{part}.block{k}.precision", PRECISIONS, _when(part, k)) for part in REPEATED for k in DEPTHS)),
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
