"""A detector of a few nodes that every test of proxies can afford."""

from collections.abc import Callable

import pytest
import torch

from proxies import Probe
from proxies import probe as make_probe
from searchspaces import Builder, Graph
from searchspaces.blocks import conv_bn_act, repvgg
from searchspaces.heads import yolov8_head
from searchspaces.yolo import bits

TinyNet = Callable[..., Graph]


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny() -> TinyNet:
    """tiny(precision, act, width, rep, side): three levels, a residual sum and a concat; a RepVGG block where `rep`."""

    def build(precision: str = "w4a4", act: str = "relu", width: int = 8, rep: bool = False, side: int = 64,
              head: str | None = None) -> Graph:
        g = Builder()
        with g.precision(8, 8) if precision != "fp32" else g.precision(32, 32):
            x = conv_bn_act(g, g.input(3, side, side), width, 3, stride=2, act=act)
        levels = []
        with g.scope("body"), g.precision(*bits(precision)):
            x = conv_bn_act(g, x, width, 3, stride=2, act=act)
            for _ in range(3):
                x = conv_bn_act(g, x, width, 3, stride=2, act=act)
                x = repvgg(g, x, width, act=act) if rep else g.add(x, conv_bn_act(g, x, width, 3, act=act))
                x = conv_bn_act(g, g.concat(x, conv_bn_act(g, x, width, act=act)), width, act=act)
                levels.append(x)
        with g.scope("head"), g.precision(*bits(head or precision)):
            return g.graph(yolov8_head(g, levels, 3, act=act, box_width=8, class_width=8, last_bits=8 if precision != "fp32" else 32))

    return build


@pytest.fixture(scope="session")
def small_probe() -> Probe:
    return make_probe(None, 64, classes=3, images=6)
