"""Blocks: functions that add nodes to a Graph, named as in the papers.  x is (C, H, W); `channels` is the output's C.

Written from the published descriptions of the YOLO families.  A block is written once: the torch module, the MAC count,
the memory plan and the compiled kernels all come from the nodes it adds.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

from searchspaces.graph import Builder, Ref


class Block(Protocol):
    def __call__(self, g: Builder, x: Ref, channels: int, repeats: int, *, act: str, shortcut: bool) -> Ref: ...


def norm_act(g: Builder, x: Ref, act: str | None) -> Ref:
    """Batch-norm (eps 1e-3) and activation; `act` None leaves the activation out."""
    y = g.batchnorm(x)
    return g.activation(y, act) if act else y


def conv_bn_act(g: Builder, x: Ref, channels: int, kernel: int = 1, *, stride: int = 1, act: str | None, groups: int = 1) -> Ref:
    """Conv without bias, batch-norm, activation; 'same' padding."""
    return g.conv_bn_act(x, channels, kernel, stride=stride, act=act, groups=groups)


def bottleneck(g: Builder, x: Ref, channels: int, *, act: str, shortcut: bool, kernels: tuple[int, int] = (1, 3),
               expansion: float = 1.0) -> Ref:
    """Two convs with an optional residual sum; `expansion` scales the channels between them."""
    y = conv_bn_act(g, x, int(channels * expansion), kernels[0], act=act)
    y = conv_bn_act(g, y, channels, kernels[1], act=act)
    return g.add(x, y) if shortcut and g.channels(x) == channels else y


def bottlenecks(g: Builder, x: Ref, channels: int, repeats: int, *, act: str, shortcut: bool) -> Ref:
    """Stage of YOLOv3's Darknet-53 (arXiv:1804.02767): residual bottlenecks, 1x1 to half the channels and 3x3 back."""
    for _ in g.repeats(repeats):
        x = bottleneck(g, x, channels, act=act, shortcut=shortcut, expansion=0.5)
    return x


def c3(g: Builder, x: Ref, channels: int, repeats: int, *, act: str, shortcut: bool) -> Ref:
    """Cross-stage block of YOLOv5: two 1x1 branches, bottlenecks (1x1, 3x3) on one, concat, 1x1."""
    hidden = channels // 2
    left = conv_bn_act(g, x, hidden, act=act)
    for _ in g.repeats(repeats):
        left = bottleneck(g, left, hidden, act=act, shortcut=shortcut)
    right = conv_bn_act(g, x, hidden, act=act)
    return conv_bn_act(g, g.concat(left, right), channels, act=act)


def c2f(g: Builder, x: Ref, channels: int, repeats: int, *, act: str, shortcut: bool) -> Ref:
    """Block of YOLOv8: 1x1, split; each bottleneck is two 3x3 on half the channels; concat of all 2 + n pieces, 1x1."""
    hidden = channels // 2
    y = conv_bn_act(g, x, 2 * hidden, act=act)
    pieces = [g.slice(y, 0, hidden), g.slice(y, hidden, 2 * hidden)]
    for _ in g.repeats(repeats):
        pieces.append(bottleneck(g, pieces[-1], hidden, act=act, shortcut=shortcut, kernels=(3, 3)))
    return conv_bn_act(g, g.concat(*pieces), channels, act=act)


def elan(g: Builder, x: Ref, channels: int, repeats: int, *, act: str, shortcut: bool, hidden: int = 0) -> Ref:
    """Efficient layer aggregation (YOLOv7, arXiv:2207.02696): two 1x1, a chain of 3x3 pairs, concat of every pair and both 1x1, 1x1.

    `hidden` is the chain's width, half the output where 0; ELAN has no residual sums, so `shortcut` does not matter.
    """
    hidden = hidden or channels // 2
    side = conv_bn_act(g, x, hidden, act=act)
    pieces = [side, conv_bn_act(g, x, hidden, act=act)]
    for _ in g.repeats(repeats):
        y = conv_bn_act(g, pieces[-1], hidden, 3, act=act)
        pieces.append(conv_bn_act(g, y, hidden, 3, act=act))
    return conv_bn_act(g, g.concat(*reversed(pieces)), channels, act=act)


def elan_w(g: Builder, x: Ref, channels: int, repeats: int, *, act: str, shortcut: bool) -> Ref:
    """ELAN of YOLOv7's neck: two 1x1 of the output's width, 2 * repeats 3x3 of half of it in a chain, concat of all, 1x1.

    No residual sums, so `shortcut` does not matter.
    """
    side = conv_bn_act(g, x, channels, act=act)
    pieces = [side, conv_bn_act(g, x, channels, act=act)]
    for _ in g.repeats(repeats):
        for _ in range(2):
            pieces.append(conv_bn_act(g, pieces[-1], channels // 2, 3, act=act))
    return conv_bn_act(g, g.concat(*reversed(pieces)), channels, act=act)


def csp(g: Builder, x: Ref, channels: int, repeats: int, *, act: str, shortcut: bool) -> Ref:
    """Cross-stage-partial block of Scaled-YOLOv4 (arXiv:2011.08036): 1x1, bottlenecks and a bare 1x1 beside a bare 1x1; concat,
    batch-norm, act, 1x1.

    Batch-norm and activation act on each channel alone, so they are written before the concat, once per branch: the same
    function with the same parameters, and each folds into its conv.
    """
    hidden = channels // 2
    left = conv_bn_act(g, x, hidden, act=act)
    for _ in g.repeats(repeats):
        left = bottleneck(g, left, hidden, act=act, shortcut=shortcut)
    left = conv_bn_act(g, left, hidden, act=act)
    right = conv_bn_act(g, x, hidden, act=act)
    return conv_bn_act(g, g.concat(left, right), channels, act=act)


def csp2(g: Builder, x: Ref, channels: int, repeats: int, *, act: str, shortcut: bool) -> Ref:
    """CSP of Scaled-YOLOv4's neck: a 1x1, then bottlenecks beside a bare 1x1, all at full width; concat, batch-norm, act, 1x1.

    The batch-norm is written before the concat as in `csp`; on the bottlenecks' branch it follows an activation, so it stays.
    """
    x = conv_bn_act(g, x, channels, act=act)
    left = x
    for _ in g.repeats(repeats):
        left = bottleneck(g, left, channels, act=act, shortcut=shortcut)
    right = conv_bn_act(g, x, channels, act=act)
    return conv_bn_act(g, g.concat(norm_act(g, left, act), right), channels, act=act)


def repvgg(g: Builder, x: Ref, channels: int, *, stride: int = 1, act: str = "relu", identity: bool = True) -> Ref:
    """RepVGG (arXiv:2101.03697): 3x3 + 1x1 (+ batch-norm alone where shapes agree), sum, activation; merge_rep makes one 3x3 of it."""
    branches = [conv_bn_act(g, x, channels, 3, stride=stride, act=None), conv_bn_act(g, x, channels, 1, stride=stride, act=None)]
    if identity and stride == 1 and g.channels(x) == channels:
        branches.append(g.batchnorm(x))
    return g.activation(g.add(*branches, rep=True), act)


def rep_stack(g: Builder, x: Ref, channels: int, repeats: int, *, act: str, shortcut: bool) -> Ref:
    """Block of YOLOv6 small (arXiv:2209.02976): RepVGG after RepVGG.  Their batch-norm branches are shortcuts, whatever `shortcut` is."""
    for _ in g.repeats(repeats):
        x = repvgg(g, x, channels, act=act)
    return x


def csp_rep(g: Builder, x: Ref, channels: int, repeats: int, *, act: str, shortcut: bool, expansion: float = 0.5, rep: bool = True) -> Ref:
    """Block of YOLOv6 medium and large: two 1x1 to int(channels * expansion); on one, `repeats` pairs of 3x3 beside a skip that a
    learnable scalar weighs; concat, 1x1.  The 3x3 are RepVGG where `rep`, else plain."""
    hidden = int(channels * expansion)
    left = conv_bn_act(g, x, hidden, act=act)
    for _ in g.repeats(repeats):
        y = left
        for _ in range(2):
            y = repvgg(g, y, hidden, act=act) if rep else conv_bn_act(g, y, hidden, 3, act=act)
        left = g.add(y, g.scale(left)) if shortcut else y
    right = conv_bn_act(g, x, hidden, act=act)
    return conv_bn_act(g, g.concat(left, right), channels, act=act)


def pool_down(g: Builder, x: Ref, channels: int, *, act: str) -> Ref:
    """Downsampling of YOLOv7 to 2 * channels: (max-pool, 1x1) beside (1x1, 3x3 at stride 2), concat."""
    left = conv_bn_act(g, g.maxpool(x, 2, stride=2, padding=0), channels, act=act)
    right = conv_bn_act(g, conv_bn_act(g, x, channels, act=act), channels, 3, stride=2, act=act)
    return g.concat(right, left)


def bifusion(g: Builder, top: Ref, same: Ref, below: Ref, channels: int, *, act: str) -> Ref:
    """Bi-directional fusion of YOLOv6 3.0 (arXiv:2301.05586): the map above through a transposed conv, the same level through a
    1x1, the level below through a 1x1 and a 3x3 at stride 2; concat, 1x1."""
    up = g.conv_transpose2d(top, channels)
    lateral = conv_bn_act(g, same, channels, act=act)
    down = conv_bn_act(g, conv_bn_act(g, below, channels, act=act), channels, 3, stride=2, act=act)
    return conv_bn_act(g, g.concat(up, lateral, down), channels, act=act)


def sppf(g: Builder, x: Ref, channels: int, *, act: str, kernel: int = 5) -> Ref:
    """Spatial pyramid pooling, fast (YOLOv5): 1x1 to half, three chained max-pools, concat of four, 1x1."""
    return conv_bn_act(g, _chained_pools(g, conv_bn_act(g, x, g.channels(x) // 2, act=act), kernel), channels, act=act)


def csp_sppf(g: Builder, x: Ref, channels: int, *, act: str) -> Ref:
    """SPPF of YOLOv6 small in a cross-stage block: two 1x1 to half; one goes 3x3, 1x1, three chained pools, 1x1, 3x3; concat, 1x1."""
    hidden = channels // 2
    y = conv_bn_act(g, conv_bn_act(g, conv_bn_act(g, x, hidden, act=act), hidden, 3, act=act), hidden, act=act)
    y = conv_bn_act(g, conv_bn_act(g, _chained_pools(g, y, 5), hidden, act=act), hidden, 3, act=act)
    return conv_bn_act(g, g.concat(conv_bn_act(g, x, hidden, act=act), y), channels, act=act)


def sppcsp(g: Builder, x: Ref, channels: int, *, act: str) -> Ref:
    """SPP of Scaled-YOLOv4 in a cross-stage block of the output's width, beside a bare 1x1; concat, batch-norm, act, 1x1.

    The batch-norm is written before the concat as in `csp2`.
    """
    left = norm_act(g, _spp(g, x, channels, act=act), act)
    return conv_bn_act(g, g.concat(left, conv_bn_act(g, x, channels, act=act)), channels, act=act)


def sppcspc(g: Builder, x: Ref, channels: int, *, act: str) -> Ref:
    """SPP of YOLOv7: as sppcsp, with a full conv at the side and nothing between concat and 1x1."""
    left = _spp(g, x, channels, act=act)
    return conv_bn_act(g, g.concat(left, conv_bn_act(g, x, channels, act=act)), channels, act=act)


def _spp(g: Builder, x: Ref, channels: int, *, act: str) -> Ref:
    """1x1, 3x3, 1x1, concat with max-pools of 5, 9 and 13, 1x1, 3x3."""
    y = conv_bn_act(g, conv_bn_act(g, conv_bn_act(g, x, channels, act=act), channels, 3, act=act), channels, act=act)
    y = g.concat(y, *(g.maxpool(y, kernel) for kernel in (5, 9, 13)))
    return conv_bn_act(g, conv_bn_act(g, y, channels, act=act), channels, 3, act=act)


def _chained_pools(g: Builder, x: Ref, kernel: int) -> Ref:
    pieces = [x]
    for _ in range(3):
        pieces.append(g.maxpool(pieces[-1], kernel))
    return g.concat(*pieces)


# Every block with the signature of Block, every pooling (g, x, channels, act), by the names that search spaces use.
BLOCKS: dict[str, Callable[..., Ref]] = {
    "c2f": c2f, "c3": c3, "elan": elan, "elan_w": elan_w, "csp": csp, "csp2": csp2, "darknet": bottlenecks, "repvgg": rep_stack,
    "csp_rep": csp_rep, "csp_skip": partial(csp_rep, rep=False),
}  # fmt: skip
POOLINGS: dict[str, Callable[..., Ref]] = {"sppf": sppf, "csp_sppf": csp_sppf, "sppcsp": sppcsp, "sppcspc": sppcspc}
