"""Blocks: functions that add nodes to a Graph, named as in the papers.  x is (C, H, W); `channels` is the output's C.

Written from the published descriptions of the YOLO families.  A block is written once: the torch module, the MAC count,
the memory plan and the compiled kernels all come from the nodes it adds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from searchspaces.graph import Builder, Ref


class Block(Protocol):
    def __call__(self, g: Builder, x: Ref, channels: int, repeats: int, *, act: str, shortcut: bool) -> Ref: ...


def conv_bn_act(g: Builder, x: Ref, channels: int, kernel: int = 1, *, stride: int = 1, act: str | None, groups: int = 1) -> Ref:
    """Conv without bias, batch-norm (eps 1e-3), activation; 'same' padding.  `act` None leaves the activation out."""
    y = g.batchnorm(g.conv2d(x, channels, kernel, stride=stride, groups=groups))
    return g.activation(y, act) if act else y


def bottleneck(g: Builder, x: Ref, channels: int, *, act: str, shortcut: bool, kernels: tuple[int, int] = (1, 3),
               expansion: float = 1.0) -> Ref:
    """Two convs with an optional residual sum; `expansion` scales the channels between them."""
    y = conv_bn_act(g, x, int(channels * expansion), kernels[0], act=act)
    y = conv_bn_act(g, y, channels, kernels[1], act=act)
    return g.add(x, y) if shortcut and g.channels(x) == channels else y


def c3(g: Builder, x: Ref, channels: int, repeats: int, *, act: str, shortcut: bool) -> Ref:
    """Cross-stage block of YOLOv5: two 1x1 branches, bottlenecks (1x1, 3x3) on one, concat, 1x1."""
    hidden = channels // 2
    left = conv_bn_act(g, x, hidden, act=act)
    for _ in range(repeats):
        left = bottleneck(g, left, hidden, act=act, shortcut=shortcut)
    right = conv_bn_act(g, x, hidden, act=act)
    return conv_bn_act(g, g.concat(left, right), channels, act=act)


def c2f(g: Builder, x: Ref, channels: int, repeats: int, *, act: str, shortcut: bool) -> Ref:
    """Block of YOLOv8: 1x1, split; each bottleneck is two 3x3 on half the channels; concat of all 2 + n pieces, 1x1."""
    hidden = channels // 2
    y = conv_bn_act(g, x, 2 * hidden, act=act)
    pieces = [g.slice(y, 0, hidden), g.slice(y, hidden, 2 * hidden)]
    for _ in range(repeats):
        pieces.append(bottleneck(g, pieces[-1], hidden, act=act, shortcut=shortcut, kernels=(3, 3)))
    return conv_bn_act(g, g.concat(*pieces), channels, act=act)


def elan(g: Builder, x: Ref, channels: int, repeats: int, *, act: str, shortcut: bool, hidden: int = 0) -> Ref:
    """Efficient layer aggregation (YOLOv7): two 1x1, a chain of 3x3 pairs, concat of every pair and both 1x1, 1x1.

    `hidden` is the chain's width, half the output where 0; ELAN has no residual sums, so `shortcut` does not matter.
    """
    hidden = hidden or channels // 2
    side = conv_bn_act(g, x, hidden, act=act)
    pieces = [side, conv_bn_act(g, x, hidden, act=act)]
    for _ in range(repeats):
        y = conv_bn_act(g, pieces[-1], hidden, 3, act=act)
        pieces.append(conv_bn_act(g, y, hidden, 3, act=act))
    return conv_bn_act(g, g.concat(*reversed(pieces)), channels, act=act)


def csp(g: Builder, x: Ref, channels: int, repeats: int, *, act: str, shortcut: bool) -> Ref:
    """Cross-stage-partial block of Scaled-YOLOv4: 1x1, bottlenecks, bare 1x1 beside a bare 1x1; concat, batch-norm, act, 1x1.

    Batch-norm and activation act on each channel alone, so they are written before the concat, once per branch: the same
    function with the same parameters, and each folds into its conv.
    """
    hidden = channels // 2
    left = conv_bn_act(g, x, hidden, act=act)
    for _ in range(repeats):
        left = bottleneck(g, left, hidden, act=act, shortcut=shortcut)
    left = conv_bn_act(g, left, hidden, act=act)
    right = conv_bn_act(g, x, hidden, act=act)
    return conv_bn_act(g, g.concat(left, right), channels, act=act)


def sppf(g: Builder, x: Ref, channels: int, *, act: str, kernel: int = 5) -> Ref:
    """Spatial pyramid pooling, fast (YOLOv5): 1x1 to half, three chained max-pools, concat of four, 1x1."""
    pieces = [conv_bn_act(g, x, g.channels(x) // 2, act=act)]
    for _ in range(3):
        pieces.append(g.maxpool(pieces[-1], kernel))
    return conv_bn_act(g, g.concat(*pieces), channels, act=act)


def repvgg(g: Builder, x: Ref, channels: int, *, stride: int = 1, act: str = "relu") -> Ref:
    """RepVGG: 3x3 + 1x1 (+ batch-norm alone where shapes agree), sum, activation; merge_rep makes one 3x3 of it."""
    branches = [conv_bn_act(g, x, channels, 3, stride=stride, act=None), conv_bn_act(g, x, channels, 1, stride=stride, act=None)]
    if stride == 1 and g.channels(x) == channels:
        branches.append(g.batchnorm(x))
    return g.activation(g.add(*branches, rep=True), act)


BLOCKS: dict[str, Callable[..., Ref]] = {"c3": c3, "c2f": c2f, "elan": elan, "csp": csp}
