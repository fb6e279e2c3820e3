"""The tables `bits` and `activations` from end to end, on a handful of pictures and a net of few channels."""

from types import SimpleNamespace

import pytest

from nas.bench.accuracy import Plan, activations, bits, core, models, run
from nas.data.digits import write_digits
from searchspaces import YOLO

SMALL = {"resolution": 96, "backbone.block": "c2f", "neck": "fpn", "neck.block": "c2f", "stem.width": 8}


def network(plan, classes: int, act: str = "silu"):
    acts = {name: act for name in YOLO.repair({}).genes if name.endswith(".act")}
    return YOLO.build(YOLO.arch({**YOLO.repair({}).genes, **SMALL, **acts}), classes)


def priced(op) -> float:
    return {"relu": 1.0, "silu": 2.0}.get(op.activation, 0.1) * op.elements / 1e5


BOARD = SimpleNamespace(
    name="planted", operators=SimpleNamespace(price=priced),
    predict=lambda load: SimpleNamespace(mean_ms=sum(map(priced, load.ops))),
)  # fmt: skip


@pytest.fixture
def plan(tmp_path, monkeypatch):
    write_digits(tmp_path / "data", {"train": 6, "val": 4})
    for module in (bits, activations, models):
        monkeypatch.setattr(module, "network", network)
    monkeypatch.setattr(core, "seconds_per_work", lambda accelerator, precision: 1.0)
    return Plan(str(tmp_path / "data" / "data.yaml"), 1, 1, "cpu", tmp_path / "out")


def test_every_cell_of_bits_is_kept_and_none_is_done_again(plan, monkeypatch):
    monkeypatch.setattr(bits, "SETTINGS", 4)
    monkeypatch.setattr(bits, "MEASURES", {"noise": bits.MEASURES["noise"]})
    found = run([bits.BITS], plan)
    cells = found.cells["bits"]
    assert len(cells) == 6 and {"noise", *bits.BASELINES} == set(cells["measures-s0"]["measures"])
    assert all(cell["loss"] > 0 and 0 <= cell["map"] <= 1 for key, cell in cells.items() if key.startswith("setting"))
    assert found.text().count(" bits a weight") == 4
    for name in ("float_model", "judged"):
        monkeypatch.setattr(bits, name, None)
    assert run([bits.BITS], plan).cells == found.cells


def test_the_table_of_activations_trains_what_it_chose_beside_a_random_mix_as_fast(plan, monkeypatch):
    monkeypatch.setattr(activations, "ACTS", ("relu", "silu"))
    monkeypatch.setattr(activations, "AT", ("w2a2",))
    monkeypatch.setattr(activations, "NETS", ("mix", "random"))
    monkeypatch.setattr(activations, "find_device", lambda name: BOARD)
    found = run([activations.ACTIVATIONS], plan)
    cells = found.cells["activations"]
    assert cells["costs-w2a2"]["r2"] == pytest.approx(1) and len(cells["costs-w2a2"]["measured"]) == activations.CHECKED
    nets, limit = cells["mixes-w2a2-s0"]["nets"], cells["mixes-w2a2-s0"]["limit"]
    assert nets["relu"]["ms"] < nets["mix"]["ms"] <= limit < nets["silu"]["ms"]
    assert nets["random"]["kinds"] != nets["mix"]["kinds"]
    assert abs(nets["random"]["ms"] - nets["mix"]["ms"]) < 0.1 * (nets["silu"]["ms"] - nets["relu"]["ms"])
    assert 0 <= cells["mix-w2a2-s0"]["map"] <= 1
    assert f"{len(nets['mix']['kinds'])} changes of one part" in found.text()
