"""`bench yolobench`: the bars of learning and selection on the real tables, fronts, picks and what is written."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.bench import combination, fronts, latency, selection, yolobench
from nas.bench.tables import LATENCIES, load
from proxies.protocols import families_seen, families_unseen, ridge_learner
from searchspaces.tables import TableError

FOLDER = Path(__file__).resolve().parents[2] / "../shared/data/yolobench"
CPU, NPU = combination.DEVICES


@pytest.fixture(scope="module")
def tables():
    if not FOLDER.is_dir():
        pytest.skip("the YOLOBench tables are not here")
    return load(FOLDER)


@pytest.fixture(scope="module")
def known(tables):
    return combination.known(tables)


def test_thirty_labels_rank_families_that_were_not_seen(known):
    found = families_unseen(known.learner(), known.setting, 30)
    assert (found.tau, found.tau_band[CPU], found.tau_band[NPU]) >= (0.88, 0.0, 0.0)
    assert found.tau_band[CPU] >= 0.75
    assert found.tau_band[NPU] >= 0.64


def test_thirty_labels_rank_families_that_were_seen(known):
    found = families_seen(known.learner(), known.setting, 30)
    assert found.tau >= 0.91
    assert found.tau_band[CPU] >= 0.82
    assert found.tau_band[NPU] >= 0.73


def test_counting_with_ridge_ranks_as_published(known):
    found = families_unseen(ridge_learner(known.plain, known.setting.accuracy), known.setting, 30)
    assert (found.tau, found.tau_band[CPU], found.tau_band[NPU]) == pytest.approx((0.83, 0.62, 0.49), abs=0.025)


def test_a_column_of_noise_adds_nothing(known):
    rng = np.random.default_rng(0)
    groups = {item.group for item in known.labelled.networks}
    (row,) = combination.added(known, {"noise": (True, {group: rng.normal() for group in sorted(groups)})}, draws=4)
    assert row.unseen.tau < 0.01
    assert abs(row.tau_of_architectures) < 0.25
    assert "noise" in combination.added_text([row])


def noisy(tables):
    """A predictor that is 7 % off, and its interval."""

    def predict(device, seed):
        ms = tables.latency_ms[device] * np.exp(0.07 * np.random.default_rng(seed).normal(size=len(tables.names)))
        return ms, ms * 0.88

    return predict


def test_a_pick_on_a_raspberry_pi_loses_less_than_a_point(tables, known):
    (row,) = selection.selection(tables, known, noisy(tables), [CPU], draws=10)
    assert row.mean_loss < 1.0
    assert row.unsure_loss <= row.mean_loss
    by_macs, by_elements, by_coco = list(row.known.values())[1:]
    assert (by_macs, by_elements, by_coco) == pytest.approx((2.51, 1.42, 0.21), abs=0.006)  # the published baselines
    assert fronts.picture(tables, [row])[:4] == b"\x89PNG"
    assert CPU in selection.text([row])


def test_the_fronts_equal_the_published_ones(tables):
    found = fronts.fronts(FOLDER)
    assert (found.map50_95_strict, found.map50_95) == (32, 32)
    assert (found.strict, found.equal_kept, found.published) == (124, 128, 128)
    assert "128" in fronts.fronts_text(found)


def test_fronts_that_index_unknown_columns_are_an_error(tmp_path):
    (tmp_path / fronts.MERGED).write_text("mAP,ms,model_name\n0.5,1,a\n")
    (tmp_path / fronts.PUBLISHED).write_text('data,hardware,pareto_indices\nmAP,seconds,"0"\n')
    with pytest.raises(TableError, match=r"pareto_indices.csv:2: 'seconds' is no column"):
        fronts.fronts(tmp_path)


points = st.lists(st.tuples(st.integers(0, 6), st.integers(1, 6)), min_size=1, max_size=12)


@given(points)
def test_a_front_keeps_what_nothing_faster_reaches(rows):
    accuracy, ms = (np.array(column, dtype=float) for column in zip(*rows))
    ms = ms + 1e-3 * np.arange(len(ms))
    wanted = [i for i in np.argsort(ms) if all(accuracy[j] < accuracy[i] for j in range(len(ms)) if ms[j] < ms[i])]
    assert fronts.front(accuracy, ms) == wanted
    assert set(wanted) <= set(fronts.front(accuracy, ms, strict=False))


@given(st.integers(2, 12), st.integers(0, 999))
def test_a_pick_is_within_the_budget_and_needs_one_measurement_where_predictions_are_true(n, seed):
    rng = np.random.default_rng(seed)
    score, ms, wrong = rng.normal(size=n), rng.uniform(1, 9, n), rng.uniform(1, 9, n)
    budget = float(np.median(ms))
    taken, measured = selection.pick(score, ms, ms, budget)
    assert (measured, score[taken]) == (1, score[ms <= budget].max())
    assert ms[selection.pick(score, wrong, ms, budget)[0]] <= budget


def test_the_bench_writes_the_keys_that_were_asked_for(tables, known, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGENAS_CACHE", str(tmp_path / "cache"))
    row = {"device": CPU, "shots": 20, "mape": 5.0, "within_10": 0.9, "coverage_90": 0.9, "mape_random": 6.0, "mape_alone": 7.0,
           "mape_macs": 9.0}
    monkeypatch.setattr(latency, "latency_rows", lambda tables, note: [row])
    monkeypatch.setattr(combination, "LABELS", (10,))
    monkeypatch.setattr(combination, "known", lambda tables: known)  # counted once for all tests
    monkeypatch.setattr(yolobench, "LATENCIES", (CPU, NPU))
    monkeypatch.setattr(yolobench, "FewShot", noisy)
    found = yolobench.run(FOLDER, proxies=("az_complexity",), models=24, out=tmp_path)
    written = json.loads(json.dumps(found.json()))
    assert {"name", "n", "tau", "tau_band"} <= set(written["proxies"][0])
    assert set(written["proxies"][0]["tau_band"]) == set(LATENCIES)
    assert written["latency"] == [row]
    assert {"device", "mean_loss", "max_loss"} <= set(written["selection"][0])
    assert [r["device"] for r in written["selection"]] == [CPU, NPU]
    assert (tmp_path / "fronts.png").read_bytes()[:4] == b"\x89PNG"
    for part in ("az_complexity", "families", "MAPE", "fronts equal"):
        assert part in found.text()
