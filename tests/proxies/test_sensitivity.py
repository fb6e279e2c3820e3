"""quant_noise: more bits, less noise, whatever else the network is."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from proxies import PROXIES, score
from proxies import probe as make_probe
from proxies.sensitivity import SNR_CAP_DB, weight_nsr
from searchspaces.fakequant import WeightQuantizer

NOISE = PROXIES["quant_noise"]
FALLING = ("w8a8", "w4a8", "w4a4", "w2a4", "w2a2", "w1a2", "w1a1")
ACTS = ("relu", "silu", "leaky_relu", "hardswish", "relu6")


@settings(max_examples=5, deadline=None)
@given(act=st.sampled_from(ACTS), width=st.sampled_from((8, 12)), seed=st.integers(0, 99), rep=st.booleans(), head=st.sampled_from(FALLING))
def test_quant_noise_falls_with_every_bit_taken_away(tiny, act, width, seed, rep, head):
    probe = make_probe(None, 64, images=2)
    snrs = [score(NOISE, tiny(p, act, width, rep, head=head), probe, seeds=(seed,)).number() for p in FALLING]
    assert all(more > less for more, less in zip(snrs, snrs[1:])), dict(zip(FALLING, snrs))


def test_a_float_network_has_the_highest_value(tiny, small_probe):
    assert score(NOISE, tiny("fp32"), small_probe).number() == SNR_CAP_DB
    assert score(NOISE, tiny("w8a8"), small_probe).number() < SNR_CAP_DB


def test_mixed_bits_lie_between_uniform_ones(tiny, small_probe):
    settings_of = (("w2a2", "w2a2"), ("w2a2", "w8a8"), ("w8a8", "w8a8"))
    low, mixed, high = (score(NOISE, tiny(body, head=head), small_probe).number() for body, head in settings_of)
    assert low < mixed < high


def test_activations_of_one_sign_are_quieter_than_silu(tiny, small_probe):
    relu, silu = (score(NOISE, tiny("w4a4", act), small_probe, seeds=(0, 1)).number() for act in ("relu", "silu"))
    assert relu > silu + 0.5


def test_a_network_that_dies_on_the_probe_fails_with_the_tensors_name(tiny):
    images = [np.full((32, 32, 3), 90, np.uint8)] * 2
    model_free = score(NOISE, tiny(), make_probe(images, 64))
    assert "is constant on the probe images" in model_free.error


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_weight_nsr_is_error_power_over_weight_power(bits):
    torch.manual_seed(0)
    weight = torch.randn(6, 4, 3, 3)
    quantizer = WeightQuantizer(bits, 6)
    quantizer.fit(weight)
    rounded = quantizer(weight).detach()
    expected = ((rounded - weight).square().sum((1, 2, 3)) / weight.square().sum((1, 2, 3))).mean()
    with torch.no_grad():
        assert weight_nsr(weight, bits) == pytest.approx(float(expected), rel=1e-5)
