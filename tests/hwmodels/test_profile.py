import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodels import Workload, workload
from hwmodels.profile import AMOUNTS, TRAITS, amounts, kinds, profiles, traits
from searchspaces import YOLO, Builder
from searchspaces.quantizers import quantized
from searchspaces.rewrite import deployed
from searchspaces.yolo import with_precisions

FLOAT, CODES = (with_precisions(YOLO, [precision]) for precision in ("fp32", "w8a8"))


def load(space, seed):
    return workload(deployed(quantized(space.build(space.sample(np.random.default_rng(seed)), 20))))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31))
def test_a_network_has_the_same_profile_in_float_and_in_8_bits(seed):
    assert amounts(load(FLOAT, seed)) == pytest.approx(amounts(load(CODES, seed)))
    assert kinds(load(FLOAT, seed)) == kinds(load(CODES, seed))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 2**31))
def test_amounts_are_non_negative_sums_over_operators(one, other):
    a, b = load(FLOAT, one), load(FLOAT, other)
    both = amounts(Workload(a.ops + b.ops))
    assert (amounts(a) >= 0).all()
    assert both[1:] == pytest.approx((amounts(a) + amounts(b))[1:])  # the first counts networks
    assert both[AMOUNTS.index("macs")] == pytest.approx((a.macs + b.macs) / 1e6)


def test_amounts_agree_with_a_hand_count():
    g = Builder()
    x = g.activation(g.conv2d(g.input(3, 20, 20), 10, 3, bias=True), "silu")
    y = g.concat(x, g.conv2d(x, 6, 1, bias=True))
    load = workload(deployed(g.graph(y)))
    found = dict(zip(AMOUNTS, amounts(load) * 1e6))
    k3, k1 = 400 * 10 * 27, 400 * 6 * 10
    assert found["k3 macs"] == pytest.approx(k3) and found["k1 macs"] == pytest.approx(k1)
    assert found["channels8 macs"] == pytest.approx(k3 * (8 * 16) / (3 * 10) + k1 * (16 * 8) / (10 * 6))
    assert found["tile8 macs"] == pytest.approx((k3 + k1) * (24 / 20) ** 2)
    assert found["silu elements"] == pytest.approx(4000) and found["bare elements"] == pytest.approx(2400)
    assert found["concat elements"] == pytest.approx(16 * 400) and found["unfolded elements"] == pytest.approx(3 * 400 * 9)
    assert kinds(load) == {"conv2d k3", "conv2d k1", "concat", "silu"}


def test_traits_are_finite_even_for_a_workload_of_nothing_but_an_image():
    g = Builder()
    empty = workload(g.graph(g.input(3, 8, 8)))
    found = traits(profiles([empty, load(FLOAT, 0)]))
    assert found.shape == (2, len(TRAITS)) and np.isfinite(found).all()
