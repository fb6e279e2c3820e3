"""The gradient proxies against what they are by hand on networks that are linear in their weights."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from proxies import PROXIES, Probe, noise_probe, score
from proxies.gradient import JACOBIANS
from searchspaces import Builder
from searchspaces.module import to_torch


@dataclass(frozen=True)
class Squares(Probe):
    """loss = sum of squares / 2 of what the network returns."""

    def loss(self, model):
        return sum(y.square().sum() for y in model(self.images)) / 2


def linear(weights):
    """y = weights @ x for images of one pixel, and the model that computes it: (channels, 3)."""
    g = Builder()
    model = to_torch(g.graph(g.conv2d(g.input(3, 1, 1), len(weights))))
    model.layers["conv2d"].weight.data = torch.tensor(weights, dtype=torch.float32).view(-1, 3, 1, 1)
    return model


def pixels(x, kind=Squares):
    empty = (torch.zeros(0, 4),) * len(x)
    return kind(torch.tensor(x, dtype=torch.float32).view(-1, 3, 1, 1), empty, empty, 1)


numbers = st.floats(-2, 2).filter(lambda v: abs(v) > 0.05)
matrix = st.lists(st.lists(numbers, min_size=3, max_size=3), min_size=2, max_size=2)
images = st.lists(st.lists(numbers, min_size=3, max_size=3), min_size=4, max_size=4)


@settings(max_examples=25, deadline=None)
@given(matrix, images)
def test_saliencies_of_a_linear_network_are_their_formulas(w, x):
    """Loss |W X'|^2 / 2 with H = X' X: gradient W H, and H times a direction D is D H."""
    w, x = np.array(w), np.array(x)
    y, h = x @ w.T, x.T @ x
    gradient = w @ h
    expected = {
        "grad_norm": np.linalg.norm(gradient), "snip": np.abs(w * gradient).sum(), "plain": (w * gradient).sum(),
        "grasp": -(w * (gradient @ h)).sum(), "fisher": (y**4).mean(0).sum() / 2, "l2_norm": np.linalg.norm(w),
    }
    for name, value in expected.items():
        assert score(PROXIES[name], linear(w), pixels(x)).number() == pytest.approx(value, rel=1e-4, abs=1e-4), name


@settings(max_examples=25, deadline=None)
@given(matrix, images)
def test_zico_is_the_log_of_summed_inverse_variations(w, x):
    w, x = np.array(w), np.array(x)
    gradients = np.stack([w @ (half.T @ half) for half in (x[:2], x[2:])])
    std = gradients.std(0)
    if not (std > 1e-4).all():
        return
    expected = math.log((np.abs(gradients).mean(0) / std).sum())
    assert score(PROXIES["zico"], linear(w), pixels(x)).number() == pytest.approx(expected, rel=1e-2, abs=1e-3)


def test_zico_leaves_out_a_layer_that_sees_the_same_twice():
    x = [[1.0, 2.0, 3.0]] * 4
    assert score(PROXIES["zico"], linear([[1.0, 1.0, 1.0]]), pixels(x)).number() == 0


def test_jacob_cov_of_equal_jacobians_is_its_closed_form():
    """All images have the Jacobian W: a correlation of ones has the eigenvalues n, 0, 0 ..."""
    k, n = 1e-5, 5
    x = np.random.default_rng(0).normal(size=(n, 3))
    expected = -(math.log(n + k) + 1 / (n + k) + (n - 1) * (math.log(k) + 1 / k))
    assert n < JACOBIANS
    assert score(PROXIES["jacob_cov"], linear([[1.0, 2.0, 4.0]]), pixels(x)).number() == pytest.approx(expected, rel=1e-3)


def test_jacob_cov_names_an_image_that_moves_nothing():
    assert "does not move the output" in score(PROXIES["jacob_cov"], linear([[0.0, 0.0, 0.0]]), pixels(np.ones((2, 3)))).error


def chain(depth, channels, gain, side=4):
    """1x1 convs with ReLU between them, all weights +-gain."""
    g = Builder()
    x = g.input(3, side, side)
    for _ in range(depth):
        x = g.activation(g.conv2d(x, channels), "silu")
    model = to_torch(g.graph(g.conv2d(x, 2)))
    rng = np.random.default_rng(0)
    for w in model.parameters():
        w.data = torch.from_numpy(gain * rng.choice([-1.0, 1.0], tuple(w.shape))).float()
    return model


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 300), st.integers(1, 9), st.floats(0.01, 1000))
def test_synflow_of_a_chain_is_its_closed_form_at_any_depth(depth, channels, gain):
    """R = positions * outputs * 3 * channels^depth * gain^(depth + 1), and each of the layers passes all of it: far above 1e308."""
    expected = math.log(16 * 2 * 3) + depth * math.log(channels) + (depth + 1) * math.log(gain) + math.log(depth + 1)
    assert score(PROXIES["synflow"], chain(depth, channels, gain), noise_probe(64, images=2)).number() == pytest.approx(expected, rel=1e-5)


def test_synflow_adds_and_concatenates_branches_of_any_two_scales():
    """x -> (a + b) beside c, each 1x1: R = p (|a| + |b| + |c|) for one channel, and so is the sum over the weights."""
    g = Builder()
    x = g.input(1, 2, 2)
    a, b, c = (g.conv2d(x, 1) for _ in range(3))
    model = to_torch(g.graph(g.concat(g.add(a, b), c), a))
    for w, value in zip(model.parameters(), (-1e-20, 3.0, 1e20)):
        w.data.fill_(value)
    assert score(PROXIES["synflow"], model, Probe(torch.zeros(2, 1, 2, 2), (), (), 1)).number() == pytest.approx(math.log(4e20))


def test_synflow_and_l2_norm_see_no_image(tiny, small_probe):
    for name in ("synflow", "l2_norm"):
        assert score(PROXIES[name], tiny(), small_probe).values == score(PROXIES[name], tiny(), noise_probe(64, images=2)).values


def test_a_layer_before_a_batchnorm_adds_nothing_to_plain(tiny, small_probe):
    """The loss does not feel the scale of such weights, so only the last 1x1 convs are left: plain is far below snip."""
    value, scale = (score(PROXIES[name], tiny(), small_probe).number() for name in ("plain", "snip"))
    assert abs(value) < scale / 2


def test_nothing_scores_the_projection_of_dfl(tiny):
    """dfl_decode has no layer, so what is scored is every conv of the graph, those of the shared head included, and no more."""
    from proxies.walk import weighted_layers

    model = to_torch(tiny("fp32"))
    assert set(weighted_layers(model)) == {node.name for node in model.graph.of("conv2d")}
    assert not any("dfl" in name for name, _ in model.named_parameters())
