"""The table of searched detectors, on sixteen pictures and with one network of everything."""

import json

import msgspec
import pytest

import nas.bench.accuracy.joint as joint
import nas.job
from hwmodels.device import LOCAL, Device
from nas.bench.accuracy import Plan, run

SETTING = joint.Setting(space="narrow", shares=(8.0,), scored=4, entrants=2)


@pytest.fixture
def small(device, narrow, monkeypatch):
    """This machine priced by a roofline, one nano YOLO at one precision."""
    here = msgspec.structs.replace(Device.load(device), name=LOCAL)
    for module in (joint, nas.job):
        monkeypatch.setattr(module, "find_device", lambda name, progress=None: here)
    monkeypatch.setattr(joint, "FAMILIES", {"yolov8n": "c2f"})
    monkeypatch.setattr(joint, "KNOWN", {"w4a4": "silu"})
    monkeypatch.setattr("searchspaces.nano.SIDES", (96,))
    monkeypatch.setattr("searchspaces.nano.FACTORS", (0.5,))
    monkeypatch.setattr("nas.bench.accuracy.core.seconds_per_work", lambda accelerator, precision: 1.0)


def test_every_contender_is_trained_within_the_budget_and_random_search_gets_the_epochs_of_the_search(small, squares, tmp_path):
    plan = Plan(str(squares), 2, 1, "cpu", tmp_path / "out")
    found = run([joint.table(SETTING)], plan)
    cells = found.cells["joint"]
    assert list(cells) == ["reference", "x8-search-s0", "x8-random-s0", "x8-layer-bits-s0", "x8-yolov8n-w4a4-s0", "timed-1"]
    limit = 8 * cells["reference"]["latency_ms"]
    contenders = [figures for key, figures in cells.items() if key not in ("reference", "timed-1")]
    assert all(0 < cells["timed-1"][key] <= limit for key in list(cells)[1:-1])
    assert all(figures["met"] and figures["latency_ms"] <= limit and 0 <= figures["map"] <= figures["map50"] for figures in contenders)
    # Of two on a rung one goes on; two networks trained whole; the first again in other bits; one.
    epochs = [(figures["float"], figures["quantized"]) for figures in contenders]
    assert epochs == [(1 + 2, 1 + 1 + 1), (2 * 2, 2 * 1), (1 + 2, 1 + 1 + 1 + 1), (2, 1)]
    assert {row.split()[1] for row in found.text().splitlines()[4:]} == {"search", "random", "layer-bits", "yolov8n-w4a4"}
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.json")}
    again = run([joint.table(SETTING)], plan)
    assert again.cells == found.cells and {path: path.stat().st_mtime_ns for path in before} == before
    json.dumps(again.json())


def test_a_row_shows_the_latency_of_the_last_timing_and_whether_that_is_within_the_budget():
    figures = {"map50": 0.5, "map": 0.25, "latency_ms": 0.9, "size_mb": 1.0, "float": 2, "quantized": 1, "met": True}
    known = {"reference": {"latency_ms": 2.0}, "x0.5-search-s0": figures, "x0.5-search-s1": figures}
    assert joint.text(known).splitlines()[-1].split()[4:] == ["-", "-", "0.90", "1.00", "2", "+", "1", "2", "2", "of", "2"]
    known["timed-2"] = {"reference": 2.4, "x0.5-search-s0": 0.8, "x0.5-search-s1": 1.3}
    row = joint.text(known).splitlines()[-1].split()
    assert row[0] == "1.20" and row[6:] == ["1.05", "1.00", "2", "+", "1", "2", "1", "of", "2"]


def test_a_contender_that_found_nothing_says_so_in_its_row():
    known = {"reference": {"latency_ms": 2.0}, "x0.5-search-s0": {"failed": "nothing fits"}}
    assert "1.00  search         nothing fits" in joint.text(known)
