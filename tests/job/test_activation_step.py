"""The step on files: from a trained float model to one with other activations that trains on."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import nas.activations
from nas.activations import mix_file
from nas.model import Model, load, save
from nas.progress import Silent
from nas.steps import StepError, train_onward
from nas.train import TrainError
from searchspaces import YOLO
from searchspaces.module import merged_start
from searchspaces.ops import ACTIVATIONS

PRICES = {"relu": 1.0, "silu": 2.0}
SMALL = {"resolution": 96, "backbone.block": "c2f", "neck": "pan", "neck.block": "c2f", "stem.width": 8}


def priced(op) -> float:
    return PRICES.get(op.activation, 0.1) * op.elements / 1e5


BOARD = SimpleNamespace(
    name="planted", operators=SimpleNamespace(price=priced),
    predict=lambda load: SimpleNamespace(mean_ms=sum(map(priced, load.ops))),
)  # fmt: skip


def test_a_model_takes_the_activations_that_fit_and_trains_on_with_them(squares, tmp_path, monkeypatch):
    monkeypatch.setattr(nas.activations, "find_device", lambda name, progress: BOARD)
    torch.manual_seed(0)
    silu = {name: "silu" for name in YOLO.repair({}).genes if name.endswith(".act")}
    graph = YOLO.build(YOLO.arch({**YOLO.repair({}).genes, **SMALL, **silu}), 2)
    begun = Model(*merged_start(graph, torch.rand(2, 3, 96, 96)), ("square", "disc"), "float")
    save(begun, tmp_path / "float.safetensors")

    def mix(limit: float, **other):
        asked = {"candidates": ("relu", "silu"), "precision": "w4a4", "per": "part", "measure": "loss", "check": 4, "seed": 0, **other}
        files = (tmp_path / "float.safetensors", tmp_path / "mix.safetensors")
        return mix_file(*files, str(squares), limit, "planted", progress=Silent(), **asked)

    everywhere = {row["activation"]: row["latency_ms"] for row in mix(1e6)["everywhere"]}
    assert {row["activation"] for row in mix(1e6, measure="nwot", check=0)["sites"]} <= set(ACTIVATIONS)
    limit = sum(everywhere.values()) / 2
    found = mix(limit)
    assert everywhere["relu"] < found["latency_ms"] <= limit < found["before_ms"] == pytest.approx(everywhere["silu"])
    assert found["before_ms"] - sum(row["gain_ms"] for row in found["sites"]) == pytest.approx(found["latency_ms"])
    assert found["additivity"]["r2"] == pytest.approx(1)

    mixed = load(tmp_path / "mix.safetensors")
    kinds = {row["site"]: row["activation"] for row in found["sites"]}
    assert set(kinds.values()) == {"relu", "silu"}
    assert all(node["kind"] == kinds[node.name.partition(".")[0]] for node in mixed.graph.of("activation"))
    for name, array in begun.weights.arrays().items():
        np.testing.assert_array_equal(mixed.weights.arrays()[name], array)

    train_onward(tmp_path / "mix.safetensors", tmp_path / "trained.safetensors", str(squares), 1, "cpu", 0, Silent())
    trained = load(tmp_path / "trained.safetensors")
    assert trained.graph == mixed.graph and trained.stage == "float"
    assert any(not np.array_equal(array, mixed.weights.arrays()[name]) for name, array in trained.weights.arrays().items())

    with pytest.raises(TrainError, match="repeat_rare=2"):
        train_onward(tmp_path / "mix.safetensors", tmp_path / "x.safetensors", str(squares), 1, "cpu", 0, Silent(), repeat_rare=2)

    save(Model(begun.graph, begun.weights, ("square", "ring"), "float"), tmp_path / "other.safetensors")
    with pytest.raises(StepError, match="knows the classes square, ring"):
        train_onward(tmp_path / "other.safetensors", tmp_path / "x.safetensors", str(squares), 1, "cpu", 0, Silent())
