"""Necks: (P3, P4, P5) of a backbone, or (P2, P3, P4, P5), to three maps for the head, at strides 8, 16 and 32."""

from __future__ import annotations

from collections.abc import Callable

from searchspaces.blocks import bifusion, bottleneck, conv_bn_act
from searchspaces.graph import Builder, Ref

Levels = tuple[Ref, Ref, Ref]
Widths = tuple[int, int, int]  # channels at strides 8, 16 and 32
Fuse = Callable[[Builder, Ref, int], Ref]  # (g, concatenated map, channels out) -> map


def fpn(g: Builder, levels: Levels, fuse: Fuse) -> Levels:
    """Feature pyramid (Lin et al. 2017, arXiv:1612.03144), top-down: upsample, concat with the level below, fuse."""
    p3, p4, p5 = levels
    with g.scope("p4_down"):
        n4 = fuse(g, g.concat(g.upsample(p5), p4), g.channels(p4))
    with g.scope("p3_down"):
        n3 = fuse(g, g.concat(g.upsample(n4), p3), g.channels(p3))
    return n3, n4, p5


def pan(g: Builder, levels: Levels, fuse: Fuse, fuse_up: Fuse, down: Fuse) -> Levels:
    """Path aggregation (Liu et al. 2018, arXiv:1803.01534) as in YOLOv8: fpn, then a stride-2 conv and a fuse per level up.

    `down` is the stride-2 conv of the way back up, `fuse_up` the block behind its concat.
    """
    n3, n4, p5 = fpn(g, levels, fuse)
    with g.scope("p4_up"):
        m4 = fuse_up(g, g.concat(down(g, n3, g.channels(n3)), n4), g.channels(levels[1]))
    with g.scope("p5_up"):
        m5 = fuse_up(g, g.concat(down(g, m4, g.channels(m4)), p5), g.channels(levels[2]))
    return n3, m4, m5


def reduced_pan(g: Builder, levels: Levels, widths: Widths, fuse: Fuse, fuse_up: Fuse, down: Fuse, *, act: str) -> Levels:
    """PAN of YOLOv5: a 1x1 to the width of the level below before each upsampling, read again by the way back up."""
    (p3, p4, p5), (w3, w4, w5) = levels, widths
    with g.scope("p4_down"):
        lateral5 = conv_bn_act(g, p5, w4, act=act)
        n4 = fuse(g, g.concat(g.upsample(lateral5), p4), w4)
    with g.scope("p3_down"):
        lateral4 = conv_bn_act(g, n4, w3, act=act)
        n3 = fuse(g, g.concat(g.upsample(lateral4), p3), w3)
    with g.scope("p4_up"):
        m4 = fuse_up(g, g.concat(down(g, n3, w3), lateral4), w4)
    with g.scope("p5_up"):
        m5 = fuse_up(g, g.concat(down(g, m4, w4), lateral5), w5)
    return n3, m4, m5


def lateral_pan(g: Builder, levels: Levels, widths: Widths, fuse: Fuse, fuse_up: Fuse, down: Fuse, out: Fuse, *, act: str) -> Levels:
    """PAN of YOLOv4 and YOLOv7 at half of `widths`: a 1x1 on both inputs of each top-down concat; `out` widens the maps for the head.

    `down` gets the half-width of the level that it leads to.
    """
    (p3, p4, p5), (h3, h4, h5) = levels, (width // 2 for width in widths)
    with g.scope("p4_down"):
        n4 = fuse(g, g.concat(conv_bn_act(g, p4, h4, act=act), g.upsample(conv_bn_act(g, p5, h4, act=act))), h4)
    with g.scope("p3_down"):
        n3 = fuse(g, g.concat(conv_bn_act(g, p3, h3, act=act), g.upsample(conv_bn_act(g, n4, h3, act=act))), h3)
    with g.scope("p4_up"):
        m4 = fuse_up(g, g.concat(down(g, n3, h4), n4), h4)
    with g.scope("p5_up"):
        m5 = fuse_up(g, g.concat(down(g, m4, h5), p5), h5)
    with g.scope("out"):
        return out(g, n3, widths[0]), out(g, m4, widths[1]), out(g, m5, widths[2])


def darknet_fpn(g: Builder, levels: Levels, widths: Widths, repeats: int, *, act: str) -> Levels:
    """Top-down neck of YOLOv3 (arXiv:1804.02767): 1x1 to half and 3x3 back in turn; the map that goes down is one of the halves."""
    (p3, p4, p5), (w3, w4, w5) = levels, widths
    with g.scope("p5"):
        y = bottleneck(g, p5, w5, act=act, shortcut=False, expansion=0.5)
        y = conv_bn_act(g, conv_bn_act(g, y, w5 // 2, act=act), w5, 3, act=act)
        y = conv_bn_act(g, y, w5 // 2, act=act)
        m5 = conv_bn_act(g, y, w5, 3, act=act)
    with g.scope("p4_down"):
        y = g.concat(g.upsample(conv_bn_act(g, y, w4 // 2, act=act)), p4)
        for _ in range(2):
            y = bottleneck(g, y, w4, act=act, shortcut=False, expansion=0.5)
        y = conv_bn_act(g, y, w4 // 2, act=act)
        m4 = conv_bn_act(g, y, w4, 3, act=act)
    with g.scope("p3_down"):
        y = g.concat(g.upsample(conv_bn_act(g, y, w3 // 2, act=act)), p3)
        for _ in g.repeats(1 + repeats):
            y = bottleneck(g, y, w3, act=act, shortcut=False, expansion=0.5)
    return y, m4, m5


def bifpn(g: Builder, levels: tuple[Ref, Ref, Ref, Ref], widths: Widths, fuse: Fuse, fuse_up: Fuse, down: Fuse, *,
          act: str) -> Levels:
    """RepBi-PAN of YOLOv6 3.0 (arXiv:2301.05586): top-down through `bifusion`, which also reads the level below, then up as a PAN."""
    (p2, p3, p4, p5), (w3, w4, w5) = levels, widths
    with g.scope("p4_down"):
        lateral5 = conv_bn_act(g, p5, w4, act=act)
        n4 = fuse(g, bifusion(g, lateral5, p4, p3, w4, act=act), w4)
    with g.scope("p3_down"):
        lateral4 = conv_bn_act(g, n4, w3, act=act)
        n3 = fuse(g, bifusion(g, lateral4, p3, p2, w3, act=act), w3)
    with g.scope("p4_up"):
        m4 = fuse_up(g, g.concat(down(g, n3, w3), lateral4), w4)
    with g.scope("p5_up"):
        m5 = fuse_up(g, g.concat(down(g, m4, w4), lateral5), w5)
    return n3, m4, m5
