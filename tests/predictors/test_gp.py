import numpy as np
import pytest
from scipy.optimize import check_grad
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from predictors import gp


def sample(n=25, d=4, r=2, seed=0):
    rng = np.random.default_rng(seed)
    x, z = rng.normal(size=(n, d)), rng.normal(size=(n, r))
    return x, z, x[:, 0] * 0.3 + 0.2 * np.sin(2 * x[:, 1]) + z[:, 0] * 0.1 + rng.normal(0, 0.02, n)


def test_the_gradient_of_the_posterior_is_its_derivative():
    x, z, y = sample()
    loss = gp.objective(x, z, y, gp.prior(x.shape[1], 0.1))
    rng = np.random.default_rng(1)
    for _ in range(5):
        values = rng.normal(-1, 0.5, 2 * x.shape[1] + 3)
        assert check_grad(lambda v: loss(v)[0], lambda v: loss(v)[1], values) < 1e-3 * np.linalg.norm(loss(values)[1])


def test_predictions_equal_those_of_scikit_learn():
    x, z, y = sample()
    scales = np.array([1.0, 0.5, 2.0, 3.0])
    kernel = gp.Kernel(np.full(4, -12.0), np.log(scales), np.log(0.7), -12.0, np.log(0.1))
    ours = gp.process(x, z, y, kernel)
    theirs = GaussianProcessRegressor(
        ConstantKernel(gp.LEVEL**2) + ConstantKernel(0.49) * Matern(scales, nu=2.5) + WhiteKernel(0.01), optimizer=None, alpha=0
    ).fit(x, y)
    asked, far = np.random.default_rng(2).normal(size=(9, 4)), np.zeros((9, 2))
    mean, sd = theirs.predict(asked, return_std=True)
    assert ours.mean(asked, far) == pytest.approx(mean, abs=1e-6) and ours.sd(asked, far) == pytest.approx(sd, rel=1e-4)


def test_the_kernel_that_is_found_is_likelier_than_the_priors_and_predicts_better():
    x, z, y = sample(60)
    prior = gp.prior(x.shape[1], 0.1)
    found = gp.sought(x[:40], z[:40], y[:40], prior)
    loss = gp.objective(x[:40], z[:40], y[:40], prior)
    assert loss(found.packed())[0] < loss(prior.middle.packed())[0]
    error = [np.abs(gp.process(x[:40], z[:40], y[:40], k).mean(x[40:], z[40:]) - y[40:]).mean() for k in (found, prior.middle)]
    assert error[0] < error[1]
