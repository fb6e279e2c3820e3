import msgspec
import numpy as np
import pytest

from hwmodels import Device, DeviceError, OpCost, Workload
from hwmodels.profile import AMOUNTS, traits
from predictors import Ensemble, PredictorError, choose, fit_device, rows
from predictors.ensemble import MEMBERS, _honest
from predictors.forest import boosted
from predictors.network_sums import network_sums


def judged(ensemble, asked, ms):
    mean, low, high = ensemble.predict_rows(asked)
    return np.abs(mean / ms - 1).mean(), np.mean((low <= ms) & (ms <= high))


def test_forty_networks_price_the_other_eighty(known, kinds, machine_ms):
    ensemble = Ensemble().fit_rows(known[np.arange(40)], machine_ms[:40], kinds)
    mape, coverage = judged(ensemble, known[np.arange(40, 120)], machine_ms[40:])
    assert mape < 0.05 and 0.8 <= coverage <= 1
    assert sum(law.weight for law in ensemble.table.laws) == pytest.approx(1)
    assert abs(ensemble.errors["mape"] / 100 - mape) < 0.03


@pytest.mark.parametrize("member", MEMBERS)
def test_each_member_alone_learns_a_machine(member, known, kinds, machine_ms):
    ensemble = Ensemble(members=dict.fromkeys(["sums and process", member])).fit_rows(known[np.arange(80)], machine_ms[:80], kinds)
    assert judged(ensemble, known[np.arange(80, 120)], machine_ms[80:])[0] < 0.08


def test_sums_are_never_negative_and_recover_a_machine_that_is_a_sum(known):
    ms = 0.5 + 0.01 * known.profile[:, AMOUNTS.index("macs")] + 2 * known.profile[:, AMOUNTS.index("silu elements")]
    law = network_sums(known, np.log(ms))
    assert min(law.costs.values()) > 0
    assert np.abs(np.expm1(known.log_ms([law]) - np.log(ms))).mean() < 0.025  # the ridge pulls a little


def device(name, ms, loads):
    facts = {"name": name, "board": "a test bench", "runtime": "made up", "precisions": ("fp32",), "source": "made up for a test"}
    return fit_device(loads, ms, **facts)


def test_a_related_device_halves_the_error_of_eight_measurements(loads, known, kinds, machine_ms):
    relative = device("relative", machine_ms, loads)
    twin = 3.7 * machine_ms**0.97 * np.random.default_rng(5).normal(1, 0.02, len(machine_ms))
    kin = rows(loads, [relative])
    few, rest = np.arange(8), np.arange(8, 120)
    alone = judged(Ensemble().fit_rows(known[few], twin[few], kinds), known[rest], twin[rest])[0]
    helped = judged(Ensemble([relative]).fit_rows(kin[few], twin[few], kinds), kin[rest], twin[rest])[0]
    assert helped < alone / 2


def test_intervals_widen_and_means_stay_sane_far_from_what_was_measured(loads, known, kinds, machine_ms):
    ensemble = Ensemble().fit_rows(known, machine_ms, kinds)
    near = ensemble.predict(loads[0])
    ops = tuple(op for load in loads[:8] for op in load.ops)  # eight networks in one
    far = ensemble.predict(Workload(ops))
    assert far.high_ms / far.mean_ms > 1.5 * near.high_ms / near.mean_ms - 0.5
    assert 0.3 < far.mean_ms / machine_ms[:8].sum() < 3
    assert ensemble.table.doubt(traits(40 * known.profile[:1]))[0] > 1.5 * ensemble.table.doubt(known.seen[:1])[0]


def test_errors_are_those_of_weights_that_other_folds_chose():
    rng = np.random.default_rng(0)
    errors, folds = rng.normal(0, [0.1, 0.12, 0.15], (12, 3)), np.arange(12) % 4
    for fold in range(4):
        louder = np.where((folds == fold)[:, None], 10 * errors, errors)  # weights from this fold would change with it
        assert _honest(louder, folds)[folds == fold] == pytest.approx(10 * _honest(errors, folds)[folds == fold])
    assert (_honest(errors[:, :1], folds) == errors[:, 0]).all()


def test_networks_that_are_asked_for_narrow_the_interval_of_ten_far_ones_but_never_widen_it(loads, known, kinds, machine_ms):
    relative = device("relative", machine_ms, loads)
    kin, twin = rows(loads, [relative]), 3.7 * machine_ms**0.97
    far = np.array(choose(kin, 10))
    torn = twin * np.where(np.arange(len(twin)) == far[0], 1.5, 1.0)  # one time far from every law, whichever networks are left out
    blind, told = Ensemble().fit_rows(kin[far], torn[far], kinds), Ensemble().fit_rows(kin[far], torn[far], kinds, asked=kin)
    assert told.table.quantile < 0.9 * blind.table.quantile and told.table.laws == blind.table.laws
    rest = np.setdiff1d(np.arange(len(twin)), far)
    assert judged(told, kin[rest], twin[rest])[1] >= 0.85
    some = rest[:50]
    assert Ensemble().fit_rows(kin[some], twin[some], kinds).table == Ensemble().fit_rows(kin[some], twin[some], kinds, asked=kin).table


def test_an_operator_or_activation_never_seen_is_refused_by_name(loads, machine_ms):
    ensemble = Ensemble().fit(loads, machine_ms)
    conv = next(op for op in loads[0].ops if op.op == "conv2d")
    for change, named in ({"kernel": 7}, "conv2d k7"), ({"activation": "gelu"}, "gelu"), ({"groups": conv.c_in}, "depthwise"):
        strange: OpCost = msgspec.structs.replace(conv, **change)
        with pytest.raises(PredictorError, match=named):
            ensemble.predict(Workload((*loads[0].ops, strange)))


def test_a_saved_ensemble_answers_the_same_and_a_broken_file_is_named(tmp_path, loads, machine_ms):
    relative = device("relative", machine_ms, loads)
    for relatives in [], [relative]:
        ensemble = Ensemble(relatives).fit(loads, machine_ms**1.1)
        ensemble.save(tmp_path / "e.json")
        again = Ensemble.load(tmp_path / "e.json", relatives)
        assert [again.predict(load) for load in loads[:9]] == [ensemble.predict(load) for load in loads[:9]]
    if ensemble.table.relatives:
        with pytest.raises(PredictorError, match="builds on the device relative"):
            Ensemble.load(tmp_path / "e.json")
    (tmp_path / "e.json").write_text('{"laws": []}')
    with pytest.raises(PredictorError, match="e.json holds no ensemble"):
        Ensemble.load(tmp_path / "e.json")


@pytest.mark.parametrize(
    ("n", "ms", "says"),
    [
        (4, [1.0] * 4, "at least 5"), (9, [1.0] * 8, "9 networks and 8 times"),
        (9, [1.0] * 8 + [0.0], "0.0 ms"), (5, [float("nan")] * 5, "nan ms"),
    ],
)
def test_impossible_measurements_are_refused(n, ms, says, loads):
    with pytest.raises(PredictorError, match=says):
        Ensemble().fit(loads[:n], ms)
    with pytest.raises(PredictorError, match="seen no measurements"):
        Ensemble().predict(loads[0])
    with pytest.raises(PredictorError, match="one group"):
        Ensemble().fit(loads[:9], np.ones(9), groups=np.zeros(9))


def test_a_fitted_device_survives_its_file_and_answers_as_its_ensemble_did(tmp_path, loads, machine_ms):
    fitted = device("bench", machine_ms, loads)
    fitted.save(tmp_path / "bench.toml")
    read = Device.load(tmp_path / "bench.toml")
    assert read == fitted and read.errors["networks"] == 120 and read.errors["mape"] < 8
    exact = Ensemble(members=["sums and process"]).fit(loads, machine_ms)
    for load in loads[:20]:
        assert read.predict(load).mean_ms == pytest.approx(exact.predict(load).mean_ms, rel=2e-3)
    with pytest.raises(DeviceError, match="no price for the operator"):
        read.price(loads[0].ops[1])


def test_trees_find_a_step_and_answer_the_same_from_a_file(known):
    step = np.where(known.seen[:, 4] > 0.2, 0.3, -0.1)
    trees = boosted(known.seen, step)
    found = sum(tree.log_ms(known.seen) for tree in trees)
    assert np.abs(found - step).max() < 0.05
    again = [msgspec.json.decode(msgspec.json.encode(tree), type=type(tree)) for tree in trees]
    assert (sum(tree.log_ms(known.seen) for tree in again) == found).all()
