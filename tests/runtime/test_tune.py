"""The table of fastest kernels: measured, kept, applied, and left aside where it says nothing about this machine."""

import json

import numpy as np
import pytest

from nas.runtime import ArtifactError, Executor, tune, write
from nas.runtime.executor import variants
from nas.runtime.machine import identity
from nas.runtime.sample import Sampler


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGENAS_CACHE", str(tmp_path / "cache"))


def network():
    """Two convolutions of one kind, one of another, and a float one."""
    s = Sampler(np.random.default_rng(0))
    x = s.input((8, 12, 12), 2)
    a = s.conv2d(s.conv2d(x, 8, 3, wbits=2, bits=2, epilogue="threshold"), 8, 3, wbits=2, bits=2, epilogue="threshold")
    s.conv2d(s.dequantize(s.maxpool(s.conv2d(a, 12, 1, bits=8))), 4, 3)
    return s, s.plan([len(s.tensors) - 1])


def test_tuning_measures_each_kind_of_layer_once_and_an_executor_uses_what_was_kept(tmp_path):
    s, plan = network()
    path = tmp_path / "net.edge"
    path.write_bytes(write(plan))
    choices = tune.tune(path.read_bytes(), rounds=2)
    assert [c.layer for c in choices] == [plan.instructions[k].name for k in (0, 2, 5)]
    assert all(c.fastest_us <= c.usual_us for c in choices)
    tune.keep(choices)
    assert tune.load() == {c.key: c.fastest for c in choices}
    inputs = s.values()
    ran = {row.name: row.variant for row in Executor.load(path, tuned=True).profile(inputs)}
    assert all(ran[c.layer] == c.fastest for c in choices)


def test_each_layer_runs_by_the_variant_that_a_table_names_where_it_fits():
    s, plan = network()
    file, inputs = write(plan), s.values()
    names = variants("conv2d")
    wanted = Executor(file, "reference").run(inputs)[0]
    for name in names:
        layers = tune.chosen(file, {tune.key_of(plan, plan.instructions[2]): name})
        assert layers == ["", "", name, "", "", ""]
        found = Executor(file, layers=layers)
        assert found.profile(inputs)[2].variant in names
        np.testing.assert_allclose(found.run(inputs)[0], wanted, rtol=1e-4, atol=1e-4)
    with pytest.raises(ArtifactError, match="6 instructions, but 1 variants"):
        Executor(file, layers=["reference"])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("not json", "Expecting value"),
        ("[]", "no table"),
        (json.dumps({**identity(), "cpu": "another", "layers": {}}), "cpu 'another'"),
        (json.dumps({**identity(), "engine": "0", "layers": {}}), "engine '0'"),
        (json.dumps({**identity(), "layers": {"conv2d": "warp"}}), "'warp'"),
        (json.dumps({**identity(), "layers": {"conv2d": ["avx2"]}}), "avx2"),
    ],
)
def test_a_table_that_says_nothing_about_this_machine_is_left_aside_with_a_warning(content, said, tmp_path):
    _, plan = network()
    path = tmp_path / "net.edge"
    path.write_bytes(write(plan))
    tune.table_path().parent.mkdir()
    tune.table_path().write_text(content)
    with pytest.warns(UserWarning, match="is left aside") as warned:
        Executor.load(path, tuned=True)
    assert said in str(warned[0].message)
