"""The predictors on YOLOBench's tables, where those are at hand: a part of `edgenas bench yolobench`, enough to see a loss."""

from pathlib import Path

import numpy as np
import pytest

from hwmodels.device import devices
from nas.bench.latency import BOARDS, counted, device_files, few_shot, held_out_rows, others
from nas.bench.tables import LATENCIES, load

TABLES = Path(__file__).resolve().parents[2] / "../shared/data/yolobench"
pytestmark = pytest.mark.skipif(not TABLES.is_dir(), reason=f"YOLOBench's tables are not at {TABLES}")


@pytest.fixture(scope="module")
def tables():
    return load(TABLES)


@pytest.fixture(scope="module")
def known(tables):
    return counted(tables)


def figures(known, tables, device, shots, seeds=3):
    kin, times = known.rows(others(device)), tables.latency_ms[device]
    found = []
    for seed in range(seeds):
        guess = few_shot(kin, known.kinds, times, shots, seed)
        rest = np.setdiff1d(np.flatnonzero(np.isfinite(times)), guess.measured)
        error = np.abs(guess.mean_ms[rest] / times[rest] - 1)
        assert len(guess.measured) == shots and np.isfinite(times[guess.measured]).all()
        found.append((100 * error.mean(), (error <= 0.1).mean(), ((guess.low_ms <= times) & (times <= guess.high_ms))[rest].mean()))
    return np.median(found, axis=0)


# Mean error (%) and hits within 10 % that a fit must reach, with room for three draws in place of twenty.
@pytest.mark.parametrize(
    ("device", "shots", "mape", "hits"),
    [
        ("raspi4-tflite-fp32", 20, 6.9, 0.8), ("vim3-npu-int16", 20, 10.7, 0.6), ("orange_pi5-npu-fp16", 20, 19.8, 0.5),
        ("raspi4-tflite-int8", 50, 3.0, 0.97), ("x86-openvino-fp32", 50, 5.0, 0.88), ("a40-tensorrt-fp32", 50, 4.0, 0.93),
    ],
)  # fmt: skip
def test_a_few_measured_networks_price_the_rest_of_the_table(device, shots, mape, hits, known, tables):
    found_mape, found_hits, coverage = figures(known, tables, device, shots)
    assert found_mape <= mape and found_hits >= hits and 0.75 <= coverage <= 1


@pytest.mark.parametrize("device", ["raspi4-tflite-fp32", "orange_pi5-npu-fp16"])
def test_the_interval_from_ten_networks_is_not_that_of_its_largest_error(device, known, tables):
    assert 0.82 <= figures(known, tables, device, 10)[2] <= 0.97  # it covered 99 %


def test_architectures_that_were_left_out_are_priced_within_a_tenth_on_cpus(tables):
    rows = {row["device"]: row for row in held_out_rows(tables, ["raspi4-ort-fp32", "x86-openvino-fp32"])}
    assert min(row["within_10"] for row in rows.values()) >= 0.95
    assert all(0.85 <= row["coverage_90"] <= 0.95 for row in rows.values())


def test_every_device_of_the_tables_ships_and_no_device_is_its_own_relative():
    assert BOARDS.keys() == LATENCIES.keys()
    for device in LATENCIES:
        assert sorted(d.name for d in others(device)) == sorted(set(LATENCIES) - {device})


def test_a_device_file_that_ships_is_what_the_tables_give(known, tables):
    (fitted,) = device_files(tables, ["raspi5-ort-fp32"])
    shipped = devices()["raspi5-ort-fp32"]
    assert (fitted.sources, fitted.networks.kinds) == (shipped.sources, shipped.networks.kinds)
    apart = np.abs(fitted.networks.log_ms(known.profile)[0] - shipped.networks.log_ms(known.profile)[0])
    assert apart.mean() < 0.005 and apart.max() < 0.04  # threads sum in another order, and the optimizer ends elsewhere
    assert fitted.errors == pytest.approx(shipped.errors, rel=0.1)
