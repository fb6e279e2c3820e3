import numpy as np
import pytest

from hwmodels import Device, workload
from hwmodels.calibrate import calibrated, calibration_graphs, measurements, random_weights
from hwmodels.operators import features
from nas.compiler.lower import lower
from predictors import OperatorSums
from searchspaces import YOLO
from searchspaces.quantizers import quantized
from searchspaces.rewrite import deployed
from searchspaces.yolo import PRECISIONS, with_precisions


def features_of(graph):
    return {name for op in workload(graph).ops for name, _ in features(op)}


@pytest.mark.parametrize("precisions", [PRECISIONS, ("w8a8", "w2a2"), ("fp32",)], ids="-".join)
def test_the_calibration_set_holds_every_feature_that_a_candidate_can_have(precisions):
    graphs = calibration_graphs(precisions, seed=1)
    held = set().union(*map(features_of, graphs))
    space, rng = with_precisions(YOLO, precisions), np.random.default_rng(5)
    for _ in range(100):
        assert features_of(deployed(quantized(space.build(space.sample(rng), 10)))) <= held
    assert sum(workload(graph).macs for graph in graphs) < 12e9  # a tenth of a second a run, at 100 GMAC/s


def test_the_calibration_set_is_the_same_for_the_same_seed():
    assert calibration_graphs(["w8a8"], seed=2, nets=3) == calibration_graphs(["w8a8"], seed=2, nets=3)


@pytest.mark.parametrize("precision", [*PRECISIONS, "fp32"])
def test_calibration_graphs_compile_with_random_weights(precision):
    graph = min(calibration_graphs([precision], nets=2), key=lambda g: workload(g).macs)
    plan = lower(graph, random_weights(graph), classes=[str(i) for i in range(10)])  # verifies the plan
    assert {step.name for step in plan.instructions} == {op.name for op in workload(graph).ops if op.op != "input"}


def planted_ms(load) -> float:
    """A machine whose every operator costs by its multiplications, its bytes and a call."""
    return sum(op.macs * 1e-8 + op.bytes_moved * 2e-7 + 1e-3 * (op.macs > 0) for op in load.ops)


def test_a_calibrated_device_predicts_unseen_networks_and_goes_through_a_file(tmp_path):
    rng = np.random.default_rng(0)
    networks = []
    for graph in calibration_graphs(["w8a8", "w4a4"], nets=16):
        load = workload(graph)
        times = {op.name: planted_ms(type(load)((op,))) * rng.normal(1, 0.05) for op in load.ops if op.op not in ("input", "dfl_decode")}
        networks.append(measurements(graph, planted_ms(load) * rng.normal(1, 0.02), times))
    fit = lambda *rows: OperatorSums().fit(*rows).table  # noqa: E731
    device = calibrated(networks, fit, name="local", board="test bench", runtime="edgenas", precisions=("w8a8", "w4a4"))
    device.save(tmp_path / "local.toml")
    device = Device.load(tmp_path / "local.toml")
    space = with_precisions(YOLO, device.precisions)
    for _ in range(20):
        load = workload(deployed(quantized(space.build(space.sample(rng), 10))))
        assert device.predict(load).mean_ms == pytest.approx(planted_ms(load), rel=0.15)
    assert "16 networks" in device.sources["operators"]
