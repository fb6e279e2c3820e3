"""The accuracy score: never rewards noise, follows what was measured, ranks YOLOBench, cannot be gamed by one feature."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxies import ProxyError
from proxies.combine import DROP_KNOTS, SNR_AT, accuracy_score, calibrated, drop, estimate, recalibrated
from proxies.labelled import load
from proxies.structure import FEATURES, NAMES
from proxies.yolobench import fit
from searchspaces import Arch, yolobench
from searchspaces.nano import nano
from searchspaces.yolo import PARTS, PRECISIONS

TABLE = Path(__file__).resolve().parents[2] / "../shared/data/yolobench/VOC_scratch_100epochs.csv"
ON_BCCD = ((13.6, 0.02), (7.8, 0.025), (1.6, 0.11), (0.4, 0.19), (-6.7, 0.37))  # SNR in dB, share of mAP50-95 lost
middle = dict(zip(NAMES, calibrated().mean))


def reference(precision, side=320):
    """The network of the measured drops, at a precision that need not be an option of the space."""
    return Arch("yolo", {**nano("c2f", side, "silu", "w8a8").genes, **{f"{part}.precision": precision for part in PARTS}})


RISES = {feature.name: feature.rises for feature in FEATURES}


@given(st.floats(-60, 80), st.floats(0, 40))
def test_drop_never_rewards_noise_and_stays_a_share(snr_db, more):
    assert 0 <= drop(snr_db + more) <= drop(snr_db) < 1


def test_drop_gets_worse_at_once_below_what_was_measured():
    lowest, loss = DROP_KNOTS[0]
    assert drop(lowest - 0.01) == pytest.approx(loss, abs=2e-3)
    assert drop(lowest - 4) > loss + 0.1


@given(st.sampled_from(NAMES), st.floats(-20, 20), st.floats(0, 5))
def test_a_feature_moves_the_score_one_way_only(name, start, more):
    first, second = (accuracy_score({**middle, name: middle[name] + x}, 20.0) for x in (start, start + more))
    assert 0 < min(first, second) <= max(first, second) < 1
    assert second - first >= -1e-12 if RISES[name] else second - first <= 1e-12


@given(st.sampled_from(NAMES), st.floats(0.01, 1))
def test_a_feature_brings_less_the_more_there_is_of_it(name, step):
    term, sign = calibrated(), 1 if RISES[name] else -1
    index = NAMES.index(name)
    at = np.tile(term.mean, (12, 1))
    at[:, index] += sign * step * term.std[index] * np.arange(-6, 6)
    inside = np.abs(at[:, index] - term.mean[index]) < 2 * term.std[index]
    gains = np.diff(term.logit(at[inside]))
    assert (np.diff(gains) <= 1e-9).all()


def test_features_far_outside_the_calibration_stop_counting():
    far, further = ({**middle, "log_macs": 40.0 + x} for x in (0, 10))
    assert accuracy_score(far, 20.0) == accuracy_score(further, 20.0)


@pytest.mark.parametrize("value", [None, float("nan"), float("-inf")])
def test_a_missing_or_infinite_feature_is_an_error(value):
    found = {name: x for name, x in middle.items() if name != "log_width"} | ({} if value is None else {"log_width": value})
    with pytest.raises(ProxyError, match="finite feature 'log_width'"):
        accuracy_score(found, 20.0)


def test_the_drop_follows_what_was_measured_on_bccd():
    assert [drop(snr_db) for snr_db, _ in ON_BCCD] == pytest.approx([lost for _, lost in ON_BCCD], abs=0.05)


def test_noise_in_the_head_costs_more_than_as_much_in_the_backbone():
    def lost(low):
        genes = {f"{part}.precision": "w2a2" if part in low else "w8a8" for part in PARTS}
        return estimate(Arch("yolo", {**reference("w8a8", 96).genes, **genes})).drop

    assert lost({"stage1", "stage2", "stage3", "stage4"}) < 0.08 < lost({"neck", "head"})


@pytest.mark.parametrize("precision", ["fp32", *PRECISIONS])
def test_the_typical_noise_of_a_precision_is_that_of_the_reference_network(precision):
    found = np.mean([estimate(reference(precision), seed=seed).snr_db for seed in (0, 1)])
    assert found == pytest.approx(SNR_AT[precision], abs=0.5)


def test_one_bit_scores_worse_than_two():
    scores = [estimate(reference(p, 96)).score for p in ("fp32", "w2a2", "w1a2", "w1a1")]
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] < 0.7 * scores[0]


def test_one_bit_codes_cost_more_than_the_noise_that_they_add_to_that_of_two():
    def lost(backbone):
        genes = {f"{part}.precision": backbone if part.startswith("stage") else "w4a8" for part in PARTS}
        return estimate(Arch("yolo", {**nano("c2f", 160, "relu", "w8a8").genes, **genes})).drop

    assert lost("w2a2") < 0.12 and lost("w1a2") < 0.15 and lost("w1a1") > 0.25


def test_an_estimate_is_deterministic_and_does_not_grow_with_the_resolution():
    first, second = (estimate(reference("w4a4", 480), seed=3) for _ in range(2))
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


def test_a_float_network_loses_nothing_and_needs_no_torch_module():
    found = estimate(yolobench.build("yolo8n_320"))
    assert (found.drop, found.snr_db) == (0, 60)
    assert found.score == estimate(reference("w8a8")).architecture


def test_the_score_does_not_see_whether_rep_branches_are_merged():
    graph = yolobench.build("yolo6s-d33w25_160")
    merged = yolobench.build("yolo6s-d33w25_160", deploy=True)
    assert estimate(graph).features == estimate(merged).features


@pytest.fixture(scope="module")
def labelled():
    if not TABLE.exists():
        pytest.skip("the YOLOBench tables are not here")
    return load(TABLE, latencies=())


def test_the_stored_calibration_is_what_the_table_gives(labelled):
    again, stored = fit(labelled), calibrated()
    assert "968 networks" in stored.source
    for name, value in msgspec.to_builtins(again).items():
        if name not in ("names", "source"):
            assert np.asarray(getattr(stored, name)) == pytest.approx(np.asarray(value), abs=2e-3)
