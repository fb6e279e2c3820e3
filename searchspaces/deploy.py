"""DeployBuilder: a network in the form that runs, from its first node on, with no training form before it."""

from __future__ import annotations

from typing import Any

from searchspaces.graph import Builder, Graph, GraphError, Ref
from searchspaces.ops import WEIGHTED
from searchspaces.quantizers import coded
from searchspaces.rewrite import TAKES_ACTIVATION


class DeployBuilder(Builder):
    """Gives the graph that `deployed(quantized(..))` makes of what a plain Builder gives, to the last name, in a fifth of the time.

    Blocks add the same nodes; a batch-norm or activation of the newest node becomes part of it, and the branches of a
    re-parameterizable sum become one conv.  It cannot see who reads that node later, so a block must not read again what it has
    normed or activated already; none does.
    `saved`: so many learned numbers more has the training form with rep branches merged (a batch-norm has two a channel, a bias one).
    """

    def __init__(self) -> None:
        super().__init__()
        self.saved = 0
        self._trained: dict[Ref, Ref] = {}  # node -> the last node of the training form that it stands for

    def graph(self, *outputs: Ref) -> Graph:
        return coded(super().graph(*outputs), self._trained)

    def conv_bn_act(self, x: Ref, channels: int, kernel: int, *, stride: int, act: str | None, groups: int) -> Ref:
        attrs: dict[str, Any] = {
            "channels": channels, "kernel": kernel, "stride": stride, "padding": kernel // 2, "groups": groups, "bias": True,
            **self._bits[1],
        }  # fmt: skip
        name, last = self.name("conv2d"), self.name("batchnorm")
        if act:
            attrs["act"], last = act, self.name("activation")
        self._trained[name] = last
        self.saved += channels
        return self.append(name, "conv2d", (x,), attrs)

    def batchnorm(self, x: Ref) -> Ref:
        newest, attrs = self.nodes[-1], self.newest
        if newest.name != x or newest.op not in WEIGHTED or attrs["bias"] or "act" in attrs:
            return super().batchnorm(x)
        attrs["bias"] = True
        self.saved += newest.shape[0]
        self._trained[x] = self.name("batchnorm")
        return x

    def activation(self, x: Ref, kind: str) -> Ref:
        newest, attrs = self.nodes[-1], self.newest
        if newest.name != x or newest.op not in TAKES_ACTIVATION or "act" in attrs:
            return super().activation(x, kind)
        attrs["act"] = kind
        self._trained[x] = self.name("activation")
        return x

    def add(self, *xs: Ref, rep: bool = False) -> Ref:
        if not rep:
            return super().add(*xs)
        branches = [self.nodes.pop() for _ in xs]
        if {branch.name for branch in branches} != set(xs):
            raise GraphError(f"a re-parameterizable sum reads {', '.join(xs)}, which are not the {len(xs)} newest nodes")
        convs = [branch for branch in branches if branch.op == "conv2d"]
        base = max(convs, key=lambda conv: conv["kernel"])
        self.saved -= base.shape[0] * len(convs)
        return self.append(self.name("add"), "conv2d", base.inputs, dict(base.attrs))
