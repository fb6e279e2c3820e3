"""entropy and meco against what they are on networks of a few numbers."""

import math

import numpy as np
import pytest
import torch

from proxies import PROXIES, Probe, score
from proxies.entropy import COARSEST
from searchspaces import Builder
from searchspaces.blocks import conv_bn_act
from searchspaces.module import to_torch
from searchspaces.yolo import YOLO

ENTROPY, MECO = PROXIES["entropy"], PROXIES["meco"]


def blank(side, channels=3):
    return Probe(torch.zeros(2, channels, side, side), (), (), 1)


def stack(widths, side=32, kernel=3, act="silu"):
    g = Builder()
    x = g.input(3, side, side)
    for width in widths:
        x = conv_bn_act(g, x, width, kernel, act=act)
    return g.graph(x)


def test_entropy_is_that_of_a_gaussian_with_the_outputs_variance():
    """One map, so its weight is that of the coarsest; the same noise is sent through here in float64."""
    graph, seed = stack((8, 16), act="relu"), 3
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(8, 3, 3, 3, generator=generator), torch.randn(16, 8, 3, 3, generator=generator)]
    x = torch.randn(4, 3, 32, 32, generator=generator).double()
    for w in weights:
        x = torch.relu(torch.nn.functional.conv2d(x, w.double(), padding=1))
    expected = COARSEST * 0.5 * math.log(2 * math.pi * math.e * float(x.var()))
    assert score(ENTROPY, graph, blank(32), seeds=(seed,)).number() == pytest.approx(expected, rel=1e-4)


def test_entropy_of_a_deep_network_is_about_its_sum_of_log_fan_ins():
    """Each layer multiplies the mean square by fan-in / 2 (ReLU); borders take a little away.  float32 would end at 1e38."""
    widths = (32,) * 60
    grown = 0.5 * (math.log(3 * 9 / 2) + 59 * math.log(32 * 9 / 2))
    found = score(ENTROPY, stack(widths, kernel=3, side=64), blank(64)).number() / COARSEST
    assert 0.9 * grown < found < 1.05 * grown


def test_entropy_does_not_hang_on_the_activation_and_grows_with_depth():
    values = [score(ENTROPY, stack((8,) * n, act=act), blank(32)).number() for n, act in ((3, "silu"), (3, "hardswish"), (5, "relu"))]
    assert values[0] == values[1] < values[2]


def test_meco_of_one_layer_is_the_smallest_eigenvalue_of_its_correlation():
    graph = stack((6,), side=16, kernel=1)
    torch.manual_seed(5)
    weight = to_torch(graph).layers["conv2d"].weight.detach()
    noise = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    rows = torch.nn.functional.conv2d(noise, weight)[0].flatten(1).numpy()
    assert np.linalg.eigvalsh(np.corrcoef(rows))[0] == pytest.approx(0, abs=1e-6)  # 6 channels of 3 colours
    assert score(MECO, graph, blank(16), seeds=(5,)).number() == pytest.approx(0, abs=1e-6)
    narrow = stack((2,), side=16, kernel=1)
    torch.manual_seed(5)
    rows = torch.nn.functional.conv2d(noise, to_torch(narrow).layers["conv2d"].weight.detach())[0].flatten(1).numpy()
    assert score(MECO, narrow, blank(16), seeds=(5,)).number() == pytest.approx(1 - abs(np.corrcoef(rows)[0, 1]), rel=1e-4)


def test_meco_counts_a_singular_correlation_as_nothing():
    assert score(MECO, stack((64,), side=8), blank(8)).number() == 0


def test_entropy_refuses_a_network_that_is_not_of_convolutions():
    g = Builder()
    x = g.conv2d(g.input(3, 8, 8), 4)
    assert "is not linear" in score(ENTROPY, g.graph(g.add_node("softmax", x, axis=1)), blank(8)).error


def test_entropy_and_meco_take_any_arch_of_the_space():
    arch = YOLO.repair({"resolution": 96, "neck": "fpn"})
    assert score(ENTROPY, arch, blank(96)).error is None
    assert score(MECO, arch, blank(96)).error is None
