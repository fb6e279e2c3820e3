"""Integer epilogues against the real functions they stand for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.compiler import CompilerError
from nas.compiler.activations import ACTIVATION
from nas.compiler.grids import Grid
from nas.compiler.requant import (
    ADD_LIMIT,
    MAX_TABLE,
    TABLE_ERROR,
    code_table,
    fixed_point,
    linear,
    requant,
    sum_linear,
    table,
    table_error,
    thresholds,
)
from nas.runtime.plan import Requant
from nas.runtime.reference import requantize

EXAMPLES = settings(max_examples=60, deadline=None)


@st.composite
def grids(draw, bits=(1, 2, 3, 4, 8)):
    width = draw(st.sampled_from(bits))
    return Grid(width, draw(st.floats(0.01, 2.0)), draw(st.integers(0, 2**width - 1)))


@st.composite
def channels(draw):
    """(m, b, sums, reach): real multipliers of both signs and zero, biases, and sums that reach far and near."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    reach = 10 ** draw(st.integers(1, 7))
    m = rng.normal(size=6) * 10 ** rng.uniform(-1, 1, 6) * 8 / reach
    m[0] = draw(st.sampled_from([0.0, m[0], 1e-12]))
    sums = np.concatenate([rng.integers(-reach, reach, 300), np.linspace(-reach, reach, 100).astype(np.int64)])
    return m, rng.normal(size=6) * 2, np.tile(sums, (6, 1))[:, :, None].astype(np.int64), reach


def real_codes(m, b, sums, act, grid):
    return grid.codes(ACTIVATION[act](sums * m[:, None, None] + b[:, None, None]))


def run(epilogue: Requant, sums):
    return np.asarray(requantize(epilogue, sums)).astype(np.int64)


@EXAMPLES
@given(channels(), grids((1, 2, 3, 4)), st.sampled_from(["none", "relu", "relu6", "leaky_relu", "sigmoid"]))
def test_thresholds_step_exactly_where_the_real_function_does(channel, grid, act):
    m, b, sums, _ = channel
    epilogue = thresholds(m, b, act, grid)
    steps = epilogue.thresholds.astype(np.int64) * epilogue.sign[:, None]
    around = np.clip(np.concatenate([steps - 1, steps, steps + 1], axis=1), -(2**31) + 2, 2**31 - 2)     # no sum is outside
    near = np.concatenate([sums[:, :, 0], around], axis=1)[:, :, None]
    assert (run(epilogue, near) == real_codes(m, b, near, act, grid)).all()


@EXAMPLES
@given(channels(), grids(), st.sampled_from(["none", "relu", "relu6"]))
def test_linear_differs_from_the_real_function_next_to_a_half_only(channel, grid, act):
    m, b, sums, reach = channel
    codes, real = run(linear(m, b, act, grid, reach), sums), real_codes(m, b, sums, act, grid)
    exact = ACTIVATION[act](sums * m[:, None, None] + b[:, None, None]) / grid.scale + grid.zero_point + 0.5
    from_half = np.abs(exact - np.rint(exact))
    slack = 1e-9 + (reach * np.abs(m).max() + np.abs(b).max()) / grid.scale * 2.0**-29
    assert np.abs(codes - real).max() <= 1
    assert (from_half[codes != real] <= slack).all()


@EXAMPLES
@given(channels(), grids(), st.sampled_from(["silu", "hardswish", "leaky_relu", "gelu", "sigmoid"]))
def test_a_table_is_as_fine_as_it_says(channel, grid, act):
    m, b, sums, reach = channel
    epilogue = table(m, b, act, grid, reach)
    size = len(epilogue.table)
    assert size <= MAX_TABLE and size & (size - 1) == 0
    y = ACTIVATION[act](sums * m[:, None, None] + b[:, None, None]) / grid.scale + grid.zero_point
    assert np.abs(run(epilogue, sums) - np.clip(y, 0, grid.highest)).max() <= 0.5 + table_error(act, grid) + 1e-6
    assert table_error(act, grid) <= TABLE_ERROR or size == MAX_TABLE


@pytest.mark.parametrize(("act", "zero_point", "span", "error"), [
    ("silu", 8, 9.0, 1 / 16), ("silu", 22, 3.0, 1 / 8), ("silu", 60, 1.0, 1 / 3),
    ("leaky_relu", 28, 5.0, 1 / 16), ("leaky_relu", 128, 5.0, 1 / 6),
])  # fmt: skip
def test_the_error_of_a_table_of_8_bit_codes_is_the_documented_one(act, zero_point, span, error):
    found = table_error(act, Grid(8, span / 255, zero_point))
    assert 0.7 * error < found <= 1.06 * error


@EXAMPLES
@given(channels(), grids(), st.sampled_from(sorted(ACTIVATION)))
def test_whatever_epilogue_is_chosen_the_code_is_within_one(channel, grid, act):
    m, b, sums, reach = channel
    epilogue = requant(m, b, act, grid, reach)
    assert epilogue.kind in ("linear", "table", "threshold")
    assert np.abs(run(epilogue, sums) - real_codes(m, b, sums, act, grid)).max() <= (epilogue.kind != "threshold")


@pytest.mark.parametrize(("act", "limit"), [("silu", 0.557), ("hardswish", 0.75), ("gelu", 0.34)])
def test_an_activation_with_a_dip_counts_thresholds_where_a_step_hides_the_dip(act, limit):
    m, b = np.array([0.01, -0.01]), np.array([0.3, -0.2])
    hidden, seen = Grid(2, 1.02 * limit, 1), Grid(2, 0.98 * limit, 1)
    assert requant(m, b, act, hidden, 10_000).kind == "threshold"
    assert requant(m, b, act, seen, 10_000).kind == "table"
    assert requant(m, b, act, Grid(2, 0.1, 0), 10_000).kind == "threshold"  # no code stands for less than 0


@EXAMPLES
@given(st.floats(1e-12, 2.0**30), st.floats(-1e12, 1e12), st.sampled_from([1, 100, 2**31 - 1]))
def test_fixed_point_never_leaves_int64(m, b, reach):
    multiplier, bias, shift = fixed_point(np.array([m, -m / 3]), np.array([b, b]), reach)
    assert 0 <= shift <= 62
    assert all(reach * abs(int(k)) + abs(int(v)) < 2**63 and abs(int(v)) < 2**62 for k, v in zip(multiplier, bias))


@EXAMPLES
@given(grids(), grids(), grids(), st.sampled_from(["none", "relu", "relu6"]))
def test_a_sum_of_codes_on_three_grids_is_within_one(a, b, out, act):
    ma, mb, epilogue = sum_linear(a, b, act, out)
    qa, qb = (g.ravel() for g in np.meshgrid(np.arange(a.highest + 1), np.arange(b.highest + 1)))
    acc = ma * (qa - a.zero_point) + mb * (qb - b.zero_point)
    real = out.codes(ACTIVATION[act](a.scale * (qa - a.zero_point) + b.scale * (qb - b.zero_point)))
    codes = run(epilogue, acc[None, :, None])[0, :, 0]
    assert max(ma, mb) < ADD_LIMIT and np.abs(acc).max() < 2**31
    assert np.abs(codes - real).max() <= 1 and (codes != real).mean() < 0.02


@EXAMPLES
@given(grids(), grids(), st.sampled_from(sorted(ACTIVATION)))
def test_a_code_table_is_exact(source, target, act):
    codes = code_table(source, target, act)
    assert (codes[: source.highest + 1] == target.codes(ACTIVATION[act](source.reals()))).all()
    assert codes.max() <= target.highest


@pytest.mark.parametrize("m", [np.nan, np.inf])
def test_a_scale_that_is_not_finite_is_refused(m):
    with pytest.raises(CompilerError, match="not finite"):
        requant(np.array([m]), np.zeros(1), "relu", Grid(8, 0.1, 0), 100)
