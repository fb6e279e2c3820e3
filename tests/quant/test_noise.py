"""Rounding as noise, and flatness, against closed forms."""

import numpy as np
import pytest
import torch

from nas.quant.flatness import flat_sigma, perturbed
from nas.quant.hessian import hessian_diagonals
from nas.quant.noise import (
    first_order_spread,
    fitted_rounding,
    pooled,
    predicted_rise,
    rounded_rise,
    rounding,
    uniform_rise,
)
from searchspaces.fakequant import WeightQuantizer

NORMAL = torch.randn(16, 4000, generator=torch.Generator().manual_seed(1))


def min_max(weight, bits):
    """Rounding on a grid that reaches as far as the weights."""
    quantizer = WeightQuantizer(bits, len(weight))
    quantizer.log_scale.data = (weight.abs().amax(1) / quantizer.high).log()
    return rounding(weight, quantizer)


@pytest.mark.parametrize("bits", [8, 4])
def test_rounding_noise_has_the_variance_of_uniform_noise_from_four_bits_up(bits):
    noise = min_max(NORMAL, bits).noise
    assert noise.clipped == 0
    assert noise.ratio == pytest.approx(1, abs=0.05) and noise.inside_ratio == noise.ratio
    assert noise.ratio == pytest.approx(1, abs=5 * noise.sampling)


def test_two_bits_break_the_law_with_levels_too_few_and_fitted_steps_with_clipping():
    assert min_max(NORMAL, 2).noise.ratio < 0.9  # most weights lie in the level 0, nearer to it than a uniform variable
    fitted = fitted_rounding(NORMAL, 2).noise
    assert fitted.clipped > 0.02 and fitted.ratio > 1.1
    assert fitted_rounding(NORMAL, 8).noise.clipped < 1e-3


def test_at_one_bit_two_levels_lie_twice_the_mean_magnitude_apart():
    found = fitted_rounding(NORMAL, 1)
    mean = NORMAL.abs().mean(1, keepdim=True)
    torch.testing.assert_close(found.step, (2 * mean).expand_as(NORMAL))
    assert found.noise.measured == pytest.approx(1 - 2 / np.pi, rel=0.02)  # of a standard normal weight
    assert found.noise.predicted == pytest.approx(8 / np.pi / 12, rel=0.02)


def test_pooled_noise_is_that_of_all_weights_at_once():
    whole, parts = fitted_rounding(NORMAL, 2).noise, [fitted_rounding(NORMAL[:5], 2).noise, fitted_rounding(NORMAL[5:], 2).noise]
    for name in ("predicted", "measured", "inside_predicted", "inside", "clipped", "weights"):
        assert getattr(pooled(parts), name) == pytest.approx(getattr(whole, name), rel=1e-6)


class Quadratic:
    """1/2 w^T H w + g w with a known Hessian, over two layers of weights."""

    def __init__(self, size=40, seed=0):
        rng = np.random.default_rng(seed)
        root = rng.normal(size=(size, size))
        self.hessian = torch.from_numpy(root @ root.T / size)
        self.gradient = torch.from_numpy(rng.normal(size=size))
        self.weights = {"a": torch.zeros(5, 4, dtype=torch.float64), "b": torch.zeros(20, dtype=torch.float64)}
        self.steps = {"a": torch.full((5, 4), 0.2, dtype=torch.float64), "b": torch.linspace(0.05, 0.4, 20, dtype=torch.float64)}

    def loss(self, weights):
        w = torch.cat([weights[name].flatten() for name in self.weights])
        return w @ self.hessian @ w / 2 + self.gradient @ w

    @property
    def rise(self):
        steps = torch.cat([s.flatten() for s in self.steps.values()])
        return float((steps.square() * self.hessian.diagonal()).sum()) / 24


def test_uniform_noise_raises_a_quadratic_by_a_24th_of_squared_steps_times_curvature():
    q = Quadratic()
    moved = {name: w.clone().requires_grad_() for name, w in q.weights.items()}
    diagonals = hessian_diagonals(lambda: q.loss(moved), moved, samples=2000, tolerance=0.002)
    assert predicted_rise(diagonals, q.steps) == pytest.approx(q.rise, rel=0.05)
    mean, error = uniform_rise(q.loss, q.weights, q.steps, pairs=1000)
    assert abs(mean - q.rise) < 4 * error and error < 0.05 * q.rise
    exact = {"a": q.gradient[:20].view(5, 4), "b": q.gradient[20:]}
    draws = torch.Generator().manual_seed(3)

    def first():
        return sum(float((exact[name] * (torch.rand(s.shape, generator=draws) - 0.5) * s).sum()) for name, s in q.steps.items())

    firsts = [first() for _ in range(2000)]
    assert first_order_spread(exact, q.steps) == pytest.approx(np.std(firsts), rel=0.06)


def test_real_rounding_and_uniform_noise_give_the_same_expected_loss_at_eight_bits():
    """Over many draws of weights, which is what makes rounding errors random."""
    rng = torch.Generator().manual_seed(2)
    true, inputs = torch.randn(1, 256, generator=rng), torch.randn(64, 256, generator=rng)
    gaps = []
    for _ in range(300):
        weights = {"w": true + 0.02 * torch.randn(1, 256, generator=rng)}
        found = {"w": min_max(weights["w"], 8)}

        def loss(w, start=weights["w"]):
            return (inputs @ (w["w"] - start).T).double().square().mean()

        gaps.append(rounded_rise(loss, found) - uniform_rise(loss, weights, {"w": found["w"].step}, pairs=4, seed=len(gaps))[0])
    error = np.std(gaps) / len(gaps) ** 0.5
    assert abs(np.mean(gaps)) < 4 * error
    assert error < 0.1 * float(found["w"].step[0, 0]) ** 2 / 12 * 256  # small against the rise itself


def bowl(curvature):
    """A minimum of known curvature at weights of size 1: the mean rise by noise sigma is curvature * sigma^2 / 2 a weight."""
    start = torch.ones(500, dtype=torch.float64)
    return (lambda w: curvature / 2 * (w["w"] - start).square().sum()), {"w": start}


def test_sigma_is_a_standard_deviation_and_a_flat_minimum_has_the_larger_one():
    flat, sharp = (flat_sigma(*bowl(curvature), rise=0.5, eps=0.0) for curvature in (0.1, 1.6))
    assert flat == pytest.approx((2 * 0.5 / (0.1 * 500)) ** 0.5, rel=0.05)
    assert flat / sharp == pytest.approx(4, rel=0.03)


def test_sigma_ends_at_the_bounds_where_nothing_between_costs_as_much():
    assert flat_sigma(*bowl(1e-9), rise=0.5) == 2.0
    assert flat_sigma(*bowl(1e9), rise=0.5, eps=0.1) < 1e-3
    start = {"w": torch.ones(3)}
    assert flat_sigma(lambda w: w["w"].sum() * (float("nan") if not torch.equal(w["w"], start["w"]) else 1.0), start, 0.5) < 1e-3


def test_sigma_stays_when_one_layer_grows_and_the_next_shrinks():
    """A ReLU net computes the same with (c w1, w2 / c); so does a convolution before a batch-norm, which folding undoes anyway."""
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(64, 8, generator=rng).double(), torch.randn(64, 3, generator=rng).double()
    first, second = torch.randn(16, 8, generator=rng).double(), torch.randn(3, 16, generator=rng).double()

    def loss(w):
        return (torch.relu(x @ w["first"].T) @ w["second"].T - y).square().mean()

    plain = flat_sigma(loss, {"first": first, "second": second}, 5.0, eps=0.0)
    scaled = flat_sigma(loss, {"first": first * 64, "second": second / 64}, 5.0, eps=0.0)
    assert 0 < plain < 2 and scaled == pytest.approx(plain, rel=1e-9)


def test_perturbations_have_the_variance_that_is_written():
    w = {"w": torch.full((20000,), 0.3)}
    moved = perturbed(w, 0.5, 0.1, 0)["w"] - 0.3
    assert float(moved.var()) == pytest.approx(0.5**2 * 0.3**2 + 0.1**2, rel=0.03)
