"""The proxy report: ranks judged as defined, tables refused by row and column, scores kept on disk."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from proxies import BUILT_IN, ProxyError, probe, proxy
from proxies.labelled import Labelled, load, stratified
from proxies.ranking import alike, bootstrap, kendall_tau, top_recall, within_band
from proxies.report import report
from searchspaces import YOLO
from searchspaces.tables import TableError

numbers = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.sampled_from([1.0, 1.2, 1.45, 2.0])), min_size=2, max_size=12)


@given(numbers)
def test_tau_is_the_mean_over_the_pairs_that_count(rows):
    predicted, true, latency = (np.array(column, dtype=float) for column in zip(*rows))
    pairs = [(i, j) for i, j in itertools.combinations(range(len(rows)), 2) if abs(np.log(latency[i] / latency[j])) <= np.log(1.5)]
    agreed = [np.sign(predicted[i] - predicted[j]) * np.sign(true[i] - true[j]) for i, j in pairs]
    found = kendall_tau(predicted, true, within_band(latency))
    assert found == pytest.approx(sum(agreed) / len(pairs)) if pairs else np.isnan(found)


@given(st.permutations(range(15)))
def test_tau_without_ties_is_that_of_scipy(order):
    assert kendall_tau(np.array(order, float), np.arange(15.0)) == pytest.approx(kendalltau(order, range(15))[0])


def test_a_latency_that_is_not_known_is_in_no_band():
    assert not within_band(np.array([1.0, np.nan, 1.1]))[1].any()


def test_equal_resolution_pairs_are_found_without_a_network_and_itself():
    assert alike([160, 160, 320]).tolist() == [[False, True, False], [True, False, False], [False, False, False]]


def test_recall_of_the_best_counts_ties_by_their_odds():
    true = np.arange(20.0)
    assert top_recall(true, true) == 1
    assert top_recall(-true, true) == 0
    assert top_recall(np.zeros(20), true) == pytest.approx(0.1)


def test_the_bootstrap_interval_holds_the_tau_and_is_wider_for_fewer_groups():
    rng = np.random.default_rng(0)
    true = rng.normal(size=60)
    predicted = true + rng.normal(size=60)
    fine, coarse = bootstrap(predicted, true, range(60)), bootstrap(predicted, true, [i // 12 for i in range(60)])
    for low, high in (fine, coarse):
        assert low <= kendall_tau(predicted, true) <= high
    assert bootstrap(predicted, true, range(60)) == fine


@given(st.integers(2, 40), st.integers(0, 3))
def test_a_stratified_sample_takes_each_family_by_its_share(n, seed):
    families = ["a"] * 10 + ["b"] * 30
    chosen = stratified(families, np.arange(40.0), n, seed)
    assert len(set(chosen.tolist())) == n
    assert sum(families[i] == "a" for i in chosen) == pytest.approx(n / 4, abs=1)


@pytest.fixture
def table(tmp_path):
    """Six networks as graph files and arch JSON, accuracy growing with their side, and one latency column."""
    rng = np.random.default_rng(2)
    rows = ["model_name,mAP_0.5:0.95,pi_latency"]
    for i, side in enumerate((96, 128, 160)):
        arch = YOLO.repair({**YOLO.sample(rng).genes, "resolution": side})
        (tmp_path / f"net{i}.json").write_text(YOLO.build(arch, 20).to_json())
        rows.append(f"net{i}.json,{0.1 + 0.001 * side:.3f},{1 + i}")
        text = json.dumps({"space": "yolo", "genes": dict(arch.genes)}).replace('"', '""')
        rows.append(f'"{text}",{0.11 + 0.001 * side:.3f},{1.1 + i}')
    path = tmp_path / "table.csv"
    path.write_text("\n".join(rows))
    return path


def test_a_report_ranks_graph_files_and_archs_beside_the_baselines(table, tmp_path):
    found = report(load(table), [BUILT_IN["nwot"]], samples=probe(None, 96, images=4), cache=tmp_path, table="t")
    rows = {row.name: row for row in found.rows}
    assert set(rows) == {"nwot", "params", "macs", "activation_elements", "resolution"}
    assert rows["resolution"].tau == pytest.approx(12 / 15)  # three pairs of one side are ties
    assert rows["resolution"].tau_at_resolution == 0
    assert list(rows["nwot"].tau_band) == ["pi_latency"]
    assert json.loads(json.dumps(found.json()))["rows"][0]["n"] == 6
    assert "resolution (baseline)" in found.text()


def test_a_score_is_kept_until_the_probe_changes(table, tmp_path):
    calls = []

    @proxy(higher_is_better=True, source="here")
    def counting(model, probe):
        """A count of its own calls."""
        calls.append(probe.side)
        return float(len(calls))

    for samples in (probe(None, 96, images=2), probe(None, 96, images=2), probe(None, 96, images=3)):
        report(load(table).only([0, 1, 2]), [counting], samples=samples, cache=tmp_path)
    assert len(calls) == 2 + 2  # rows 0 and 1 are one network, once as a file and once as an arch


def test_a_proxy_that_fails_is_printed_with_its_reason(table, tmp_path):
    @proxy(higher_is_better=False, needs={"graph"}, source="here")
    def fussy(graph, probe):
        """Fails on small images."""
        if graph.of("input")[0].shape[-1] < 128:
            raise ProxyError("too small")
        return 1.0

    @proxy(higher_is_better=True, needs={"graph"}, source="here")
    def never(graph, probe):
        """Always infinite."""
        return float("inf")

    found = report(load(table), [fussy, never], samples=probe(None, 96, images=4), cache=tmp_path)
    rows = {row.name: row for row in found.rows}
    assert rows["fussy"].n == 4
    assert "fussy failed on 2 of 6" in found.text()
    assert "too small" in found.text()
    assert rows["never"].n == 0
    assert "the value is inf" in found.text()
    assert found.json()["rows"][-1]["tau"] is None


@pytest.mark.parametrize(("old", "new", "complaint"), [
    ("net1.json", "net9.json", r"table.csv:4: column 'model_name': no graph file"),
    ("net1.json", "resnet50", r"table.csv:4: column 'model_name': "),
    ("mAP_0.5:0.95", "accuracy", "no column 'mAP_0.5:0.95'"),
    ("0.228", "nan", r"table.csv:4: column 'mAP_0.5:0.95': nan"),
    (",2\n", ",-2\n", r"table.csv:4: column 'pi_latency': -2"),
    ('{""space""', '{""space"" 3', r"table.csv:3: column 'model_name': the arch is no JSON"),
])  # fmt: skip
def test_a_table_that_cannot_be_used_names_row_and_column(table, old, new, complaint):
    assert old in table.read_text()
    table.write_text(table.read_text().replace(old, new, 1))
    with pytest.raises(TableError, match=complaint):
        load(table)


def test_two_networks_are_the_least_that_can_be_ranked():
    with pytest.raises(ProxyError, match="at least 2"):
        stratified(["a", "a", "a"], np.arange(3.0), 1)
    assert len(Labelled((), np.array([]), {})) == 0
    assert Path("x").name == "x"
