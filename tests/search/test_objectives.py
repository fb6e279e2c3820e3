import contextlib

import pytest
import search_toys as toys
from hypothesis import given
from hypothesis import strategies as st

from nas.objectives import (
    QUANTITIES,
    Evaluation,
    Objective,
    ObjectiveError,
    describe_misses,
    limited,
    optimized,
    parse_quantity,
    violations,
)


@pytest.mark.parametrize(("text", "kind", "value"), [
    ("6ms", "latency", 6), ("0.006s", "latency", 6), ("6000 us", "latency", 6), ("1e-2s", "latency", 10), (".5 ms", "latency", 0.5),
    ("512KiB", "ram", 512), ("1MiB", "flash", 1024), ("1024B", "ram", 1), ("1kB", "ram", 1000 / 1024), ("512kib", "ram", 512),
    ("2MB", "size", 2), ("2000kB", "size", 2), ("1MiB", "size", 1.048576), ("2mb", "size", 2),
])
def test_parse_quantity_gives_the_unit_of_the_column(text, kind, value):
    assert parse_quantity(text, kind) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(("text", "kind", "hint"), [
    ("6", "latency", "6us, 6ms or 6s"), ("2", "size", "2MB"), ("512", "ram", "512KiB"), ("6KiB", "latency", "6ms"), ("6ms", "ram", "6KiB"),
    ("2Mb", "size", "2MB"), ("-1ms", "latency", "above zero"), ("0s", "latency", "above zero"), ("1e999s", "latency", "above zero"),
    ("nan ms", "latency", "no number"), ("", "latency", "no number"), ("6 m s", "latency", "no number"), ("6ms", "weight", "latency, ram"),
])
def test_parse_quantity_says_what_would_work(text, kind, hint):
    with pytest.raises(ObjectiveError, match=hint):
        parse_quantity(text, kind)


@given(st.text(max_size=12), st.sampled_from(sorted(QUANTITIES)))
def test_parse_quantity_of_any_text_is_a_positive_number_or_an_objective_error(text, kind):
    with contextlib.suppress(ObjectiveError):
        assert parse_quantity(text, kind) > 0


def test_violations_are_relative_and_skip_columns_that_are_not_known_yet():
    objectives = (Objective("latency_ms", "ms", limit=6.0), Objective("score", "", "max", "expensive", limit=0.5))
    assert violations({"latency_ms": 9.0}, objectives) == {"latency_ms": 0.5}
    assert violations({"latency_ms": 6.0, "score": 0.4}, objectives) == {"score": pytest.approx(0.2)}
    assert describe_misses({"latency_ms": 7.5}, objectives) == "latency_ms is 7.5 ms, 1.5 ms (25 %) above the limit of 6 ms"


def test_limited_refuses_a_column_that_is_not_there():
    assert limited(toys.objectives(None), {"size_mb": 2.0})[1].limit == 2.0
    with pytest.raises(ObjectiveError, match="'ram_kib'.*latency_ms"):
        limited(toys.objectives(), {"ram_kib": 2.0})


@pytest.mark.parametrize(("columns", "reason"), [
    ({"a": 1.0}, "no 'b'"), ({"a": 1.0, "b": float("inf")}, "b is inf"), ({"a": 1.0, "b": 1.0, "c": 1.0}, "'c'"),
])
def test_an_evaluation_checks_its_columns(columns, reason):
    evaluation = Evaluation((Objective("a", ""), Objective("b", "")), lambda arch: columns)
    with pytest.raises(ObjectiveError, match=reason):
        evaluation.columns(None, "cheap")


@pytest.mark.parametrize("broken", [
    lambda: Objective("a", "", "down"), lambda: Objective("a", "", limit=float("nan")), lambda: Objective("a", "s", deterministic=False),
    lambda: Evaluation((Objective("a", ""), Objective("a", "")), dict), lambda: Evaluation((Objective("a", "", optimized=False),), dict),
    lambda: Evaluation((Objective("a", "", cost="expensive"),), dict), lambda: Evaluation((Objective("a", ""),), dict, dict),
])
def test_objectives_that_make_no_sense_are_refused(broken):
    with pytest.raises(ObjectiveError):
        broken()


COLUMNS = (Objective("latency_ms", "ms"), Objective("ram_kib", "KiB", optimized=False), Objective("score", "", "max"),
           Objective("score_seconds", "s", optimized=False, deterministic=False))  # fmt: skip


@pytest.mark.parametrize(("names", "wanted"), [
    (["latency", "ram"], {"latency_ms", "ram_kib"}), (["ram_kib"], {"ram_kib"}), (["score", "latency_ms"], {"score", "latency_ms"}),
])
def test_the_named_columns_are_optimized_and_no_others(names, wanted):
    assert {o.name for o in optimized(COLUMNS, names) if o.optimized} == wanted


@pytest.mark.parametrize(("names", "says"), [
    (["beauty"], "columns: latency_ms, ram_kib, score"), ([], "at least one"), (["ram", "ram_kib"], "each once"),
    (["score_seconds"], "no column 'score_seconds'"),
])
def test_columns_that_cannot_be_optimized_are_refused(names, says):
    with pytest.raises(ObjectiveError, match=says):
        optimized(COLUMNS, names)
