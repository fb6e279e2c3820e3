"""Necks: (P3, P4, P5) of a backbone to three maps for the head, at strides 8, 16 and 32."""

from __future__ import annotations

from collections.abc import Callable

from searchspaces.graph import Builder, Ref

Levels = tuple[Ref, Ref, Ref]
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
