"""The accuracy score: never rewards noise, follows what was measured, ranks YOLOBench."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxies import ProxyError
from proxies.combine import DROP_KNOTS, FEATURES, accuracy_score, calibrated, drop, estimate, recalibrated
from proxies.yolobench import fit, kendall_tau, load, report, yolov8

TABLE = Path(__file__).resolve().parents[2] / "../shared/data/yolobench/VOC_scratch_100epochs.csv"
MEASURED = {"w8a8": 0.0, "w4a4": 1 - 0.569 / 0.58, "w3a3": 1 - 0.533 / 0.58, "w2a2": 1 - 0.465 / 0.58}  # LSQ on a SiLU YOLOv8n
middle = dict(zip(FEATURES, calibrated().mean))


@given(st.floats(-60, 80), st.floats(0, 40))
def test_drop_never_rewards_noise_and_stays_a_share(snr_db, more):
    assert 0 <= drop(snr_db + more) <= drop(snr_db) < 1


def test_drop_gets_worse_at_once_below_what_was_measured():
    lowest, loss = DROP_KNOTS[0]
    assert drop(lowest - 0.01) == pytest.approx(loss, abs=2e-3)
    assert drop(lowest - 4) > loss + 0.1


@given(st.sampled_from(FEATURES), st.floats(-20, 20), st.floats(0, 5))
def test_more_of_a_feature_never_lowers_the_score(name, start, more):
    low = accuracy_score({**middle, name: middle[name] + start}, 20.0)
    assert 0 < low <= accuracy_score({**middle, name: middle[name] + start + more}, 20.0) < 1


def test_features_far_outside_the_calibration_stop_counting():
    far, further = ({**middle, "log_macs": 40.0 + x} for x in (0, 10))
    assert accuracy_score(far, 20.0) == accuracy_score(further, 20.0)


@pytest.mark.parametrize("value", [None, float("nan"), float("-inf")])
def test_a_missing_or_infinite_feature_is_an_error(value):
    found = {name: x for name, x in middle.items() if name != "nwot"} | ({} if value is None else {"nwot": value})
    with pytest.raises(ProxyError, match="finite feature 'nwot'"):
        accuracy_score(found, 20.0)


@pytest.mark.parametrize("precision", MEASURED)
def test_the_drop_of_the_reference_network_is_the_one_that_was_measured(precision):
    drops = [estimate(yolov8(0.33, 0.25, 320, precision), seed=seed).drop for seed in (0, 1)]
    assert np.mean(drops) == pytest.approx(MEASURED[precision], abs=0.012)


def test_one_bit_scores_worse_than_two():
    scores = [estimate(yolov8(0.33, 0.25, 96, p)).score for p in ("fp32", "w2a2", "w1a2", "w1a1")]
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] < 0.7 * scores[0]


def test_an_estimate_is_deterministic_and_does_not_grow_with_the_resolution():
    first, second = (estimate(yolov8(0.33, 0.25, 480, "w4a4"), seed=3) for _ in range(2))
    assert (first.score, first.features) == (second.score, second.features)
    assert first.score == pytest.approx(first.architecture * (1 - first.drop))
    assert second.seconds < 3  # 0.2 on an idle core


def test_recalibration_recovers_a_line_and_reports_its_error():
    scores = np.linspace(0.2, 0.6, 9)
    found = recalibrated(list(scores), list(1.4 * scores + 0.05))
    assert found(0.5) == pytest.approx(0.75, abs=0.01)
    assert found.error == pytest.approx(0, abs=0.01)


@given(st.lists(st.tuples(st.floats(0.05, 0.9), st.floats(0, 1)), min_size=1, max_size=6), st.floats(0, 1), st.floats(0, 1))
def test_recalibration_keeps_the_order_of_scores(pairs, a, b):
    found = recalibrated([x for x, _ in pairs], [y for _, y in pairs])
    assert found.finalists == len(pairs)
    assert (found.error is None) == (len(pairs) < 3)
    assert found(min(a, b)) <= found(max(a, b))


def test_recalibration_needs_a_measured_value_a_score():
    with pytest.raises(ProxyError, match="at least one"):
        recalibrated([], [])


def test_kendall_tau_counts_pairs_within_a_latency_band():
    true, predicted = np.array([1.0, 2, 3]), np.array([2.0, 1, 3])
    assert kendall_tau(predicted, true) == pytest.approx(1 / 3)
    assert kendall_tau(predicted, true, np.array([1.0, 1.2, 9.0])) == -1


@pytest.fixture(scope="module")
def rows():
    if not TABLE.exists():
        pytest.skip("the YOLOBench tables are not here")
    return load(TABLE, seeds=(0,))


def test_the_stored_calibration_is_what_the_table_gives(rows):
    again, stored = fit(rows), calibrated()
    assert len(rows) == 132
    assert [again(row.features) for row in rows] == pytest.approx([stored(row.features) for row in rows], abs=2e-3)


def test_the_score_ranks_networks_it_has_not_seen(rows):
    taus = dict(report(rows))
    assert taus["accuracy score"][0] > 0.9
    assert taus["accuracy score"][1] > taus["log_resolution"][1]
    assert taus["accuracy score"][1] > taus["log_macs"][1]
