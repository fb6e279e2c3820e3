from types import SimpleNamespace

import numpy as np
import pytest

from nas.deploy.timing import BURSTS, MOST_BURSTS, Timing, in_bursts, time_calls, within
from nas.deploy.verify import exact_on, limits_met


def test_timing_repeats_until_the_median_is_sure_and_keeps_every_sample():
    work = np.random.default_rng(0).random(2000)
    timing = time_calls(lambda: np.sort(work), max_seconds=0.3)
    assert timing.q1_ms <= timing.median_ms <= timing.q3_ms
    assert len(timing.samples_ms) >= 20
    assert timing.median_ms == pytest.approx(float(np.median(timing.samples_ms)))


@pytest.mark.parametrize(("every", "counted"), [(3, 40), (1, 60)])
def test_calls_that_the_system_interrupted_count_only_where_too_few_are_left(every, counted, monkeypatch):
    calls = []
    monkeypatch.setattr("nas.deploy.timing.interruptions", lambda: len(calls) // every)
    timing = time_calls(lambda: calls.append(0), max_seconds=5.0, min_runs=20, max_runs=60)
    assert len(timing.samples_ms) == counted


def bursts_of(*medians_ms):
    left = iter(medians_ms)
    return lambda: Timing(ms := next(left), ms, ms, (ms,), False)


def test_bursts_are_repeated_until_enough_of_them_agree_and_the_odd_ones_are_left_out():
    assert in_bursts(bursts_of(4.0, 4.2, 4.1), 0).median_ms == 4.1
    shared = in_bursts(bursts_of(4.1, 5.9, 4.0, 7.0, 4.2), 0)
    assert sorted(shared.samples_ms) == [4.0, 4.1, 4.2] and not shared.throttled
    assert len(shared.samples_ms) == BURSTS


def test_bursts_of_a_busy_machine_are_all_told_and_marked():
    busy = in_bursts(bursts_of(*(1.3**k for k in range(MOST_BURSTS))), 0)
    assert len(busy.samples_ms) == MOST_BURSTS and busy.throttled


@pytest.mark.parametrize(
    ("medians_ms", "found"),
    [((4.9, 4.0), 4.9), ((5.1, 5.3, 4.8, 4.0), 4.8), ((5.5, 5.4, 5.3, 5.2, 5.1, 4.0), 5.1), ((11.0, 4.0), 11.0)],
)
def test_a_limit_that_is_missed_by_a_little_is_measured_again_and_the_quickest_counts(medians_ms, found):
    assert within(5.0, bursts_of(*medians_ms), pause_s=0).median_ms == found


def test_timing_stops_when_its_time_is_spent():
    calls = []
    time_calls(lambda: calls.append(sum(range(200_000))), max_seconds=0.05, min_runs=3)
    assert len(calls) < 200


def test_a_limit_is_judged_on_the_measured_value_and_never_passes_in_silence():
    found = limits_met({"latency_ms": 6.0, "size_mb": 1.0}, {"size_mb": 1.5}, {"latency_ms": 5.0, "size_mb": 0.5})
    assert [(c.name, c.met, c.measured) for c in found] == [("latency_ms", True, False), ("size_mb", False, True)]
    with pytest.raises(ValueError, match="energy_mj"):
        limits_met({"energy_mj": 1.0}, {"size_mb": 1.0}, {})


def test_a_runtime_that_differs_in_one_bit_is_not_exact(tmp_path, monkeypatch):
    from nas.deploy import verify

    class Off:
        def run(self, image):
            return [np.array([1.0, np.nextafter(np.float32(2), np.float32(3))], np.float32)]

    plan = SimpleNamespace(tensors=(SimpleNamespace(dtype="u8"),))
    monkeypatch.setattr(verify.artifact, "load", lambda path: plan)
    monkeypatch.setattr(verify.reference, "run", lambda plan, inputs: [np.array([1.0, 2.0], np.float32)])
    assert not exact_on(tmp_path, Off(), [np.zeros((4, 4, 3), np.uint8)])
