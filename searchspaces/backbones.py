"""Backbones: an image to the maps (P2, P3, P4, P5) at strides 4, 8, 16 and 32, each a list of widths and repeats over blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from searchspaces.blocks import conv_bn_act, elan, pool_down
from searchspaces.graph import Builder, Ref

Pyramid = tuple[Ref, Ref, Ref, Ref]
Down = Callable[[Builder, Ref, int], Ref]  # (g, map, channels out) -> map of half the size
Stage = Callable[[Builder, Ref, int, int], Ref]  # (g, map, channels out, repeats) -> map of the same size


def staged(g: Builder, x: Ref, widths: Sequence[int], repeats: Sequence[int], *, down: Down, stage: Stage) -> Pyramid:
    """Four stages behind a stem of stride 2: `down` to the stage's width, then `stage`.  YOLOv3, 4, 5, 6 and 8 differ in these two."""
    maps: list[Ref] = []
    for number, (width, n) in enumerate(zip(widths, repeats, strict=True), start=1):
        with g.scope(f"stage{number}"):
            x = stage(g, down(g, x, width), width, n)
        maps.append(x)
    p2, p3, p4, p5 = maps
    return p2, p3, p4, p5


def elan_net(g: Builder, image: Ref, widths: Sequence[int], hidden: Sequence[int], *, stem: tuple[int, int, int], act: str) -> Pyramid:
    """Backbone of YOLOv7 (arXiv:2207.02696): 3x3, 3x3 s2, 3x3, 3x3 s2, then ELANs with two pairs of 3x3 and pool_down between them.

    `widths` and `hidden` of the ELANs; `stem` holds the widths of its first, second and third, and fourth conv.
    """
    with g.scope("stem"):
        x = conv_bn_act(g, image, stem[0], 3, act=act)
        x = conv_bn_act(g, x, stem[1], 3, stride=2, act=act)
        x = conv_bn_act(g, x, stem[1], 3, act=act)
    maps: list[Ref] = []
    for number, (width, chain) in enumerate(zip(widths, hidden, strict=True), start=1):
        with g.scope(f"stage{number}"):
            x = pool_down(g, x, g.channels(x) // 2, act=act) if maps else conv_bn_act(g, x, stem[2], 3, stride=2, act=act)
            x = elan(g, x, width, 2, act=act, shortcut=False, hidden=chain)
        maps.append(x)
    p2, p3, p4, p5 = maps
    return p2, p3, p4, p5
