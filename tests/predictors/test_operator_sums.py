import numpy as np
import pytest

from hwmodels import OpCost, Workload, workload
from hwmodels.operators import features
from predictors import OperatorSums, PredictorError
from predictors.operator_sums import SMALLEST_FACTOR
from searchspaces import YOLO
from searchspaces.quantizers import quantized
from searchspaces.rewrite import deployed
from searchspaces.yolo import with_precisions


def conv(macs=1000, c_out=16, size=20, precision="w8a8", activation="relu", kernel=3) -> OpCost:
    """`macs` are those of one output element."""
    elements = c_out * size * size
    return OpCost(
        name="conv", op="conv2d", precision=precision, macs=macs * elements, params=0, bytes_in=4 * elements, bytes_out=elements,
        bytes_weights=100, bytes_moved=5 * elements, bits_out=8, activation=activation, elements=elements, kernel=kernel, stride=1,
        groups=1, c_in=8, c_out=c_out, h_out=size, w_out=size,
    )  # fmt: skip


def random_load(rng) -> Workload:
    sizes = rng.integers((8, 1, 3), (900, 9, 40), (rng.integers(1, 6), 3)).tolist()
    return Workload(tuple(conv(macs, 8 * blocks, size, kernel=int(rng.choice([1, 3]))) for macs, blocks, size in sizes))


def random_loads(rng, n) -> list[Workload]:
    return [random_load(rng) for _ in range(n)]


PLANTED = {
    "conv2d.k3 w8a8 calls": 1.3e-2, "conv2d.k3 w8a8 macs": 0.8e-7, "conv2d.k1 w8a8 calls": 0.7e-2, "conv2d.k1 w8a8 macs": 1.9e-7,
    "conv2d dense relu wide elements": 1.1e-5,
}  # fmt: skip


def test_planted_costs_are_recovered():
    loads = random_loads(np.random.default_rng(0), 200)
    ms = [sum(PLANTED.get(name, 0.0) * amount for op in load.ops for name, amount in features(op)) for load in loads]
    predictor = OperatorSums(whole=1).fit(loads, ms)
    for name, cost in PLANTED.items():
        assert predictor.table.cost[name] == pytest.approx(cost, rel=0.02), name
    assert predictor.table.error_factor == SMALLEST_FACTOR


def test_no_cost_is_negative_and_the_interval_covers_noisy_measurements():
    rng = np.random.default_rng(1)
    loads = random_loads(rng, 150)
    truth = np.array([sum(op.macs * 1e-7 + 0.01 for op in load.ops) for load in loads])
    predictor = OperatorSums(whole=1).fit(loads[:100], (truth * rng.normal(1, 0.08, 150))[:100])
    assert min(predictor.table.cost.values()) >= 0
    fresh = [predictor.predict(load) for load in loads[100:]]
    measured = (truth * rng.normal(1, 0.08, 150))[100:]
    inside = np.mean([e.low_ms <= t <= e.high_ms for e, t in zip(fresh, measured)])
    assert 0.8 <= inside <= 1 and predictor.table.error_factor < 1.3


def test_small_networks_count_as_much_as_large_ones():
    loads = [Workload((conv(c_out=8, size=s),)) for s in (4, 8, 16, 32, 64)]
    ms = [op.elements * 1e-5 for load in loads for op in load.ops]
    predictor = OperatorSums(floor_ms=0, whole=1).fit(loads * 3, ms * 3, [0] * 5 + [1] * 5 + [2] * 5)
    for load, t in zip(loads, ms):
        assert predictor.predict(load).mean_ms == pytest.approx(t, rel=0.1)


@pytest.mark.parametrize(("strange", "named"), [
    (conv(precision="w2a2"), "conv2d.k3 w2a2"), (conv(activation="gelu"), "gelu"), (conv(kernel=5), "conv2d.k5"),
])  # fmt: skip
def test_an_operator_precision_or_activation_never_seen_is_refused_by_name(strange, named):
    predictor = OperatorSums(whole=1).fit([Workload((conv(),)), Workload((conv(size=30),))], [1.0, 2.0])
    with pytest.raises(PredictorError, match="never measured") as fault:
        predictor.predict(Workload((strange,)))
    assert named in str(fault.value) and "measured: conv2d.k3 w8a8" in str(fault.value)


def test_a_saved_predictor_answers_the_same(tmp_path):
    space = with_precisions(YOLO, ["w8a8"]).limited({"resolution": [96]})
    rng = np.random.default_rng(2)
    loads = [workload(deployed(quantized(space.build(space.sample(rng), 4)))) for _ in range(14)]
    predictor = OperatorSums().fit(loads, [load.macs * 1e-8 for load in loads])
    predictor.save(tmp_path / "sums.json")
    again = OperatorSums.load(tmp_path / "sums.json")
    assert [again.predict(load) for load in loads] == [predictor.predict(load) for load in loads]
    (tmp_path / "sums.json").write_text('{"cost": {}}')
    with pytest.raises(PredictorError, match="sums.json holds no operator sums"):
        OperatorSums.load(tmp_path / "sums.json")


@pytest.mark.parametrize(
    ("ms", "says"), [([1.0], "2 workloads and 1 times"), ([1.0, 0.0], "0.0 ms"), ([float("nan"), 1.0], "nan ms")]
)
def test_impossible_measurements_are_refused(ms, says):
    with pytest.raises(PredictorError, match=says):
        OperatorSums().fit([Workload((conv(),)), Workload((conv(),))], ms)
    with pytest.raises(PredictorError, match="seen no measurements"):
        OperatorSums().predict(Workload((conv(),)))
