"""Rank correlations on planted data, and the random settings that they are taken over."""

import numpy as np
import pytest

from nas.bench.accuracy import bits
from nas.bench.accuracy.bits import MEAN_BITS, OFFERED, setting, text
from nas.bench.accuracy.ranks import spearman
from nas.bench.networks import yolov8n
from nas.quant.precisions import free_layers


def test_a_measure_that_orders_as_the_loss_does_has_rho_one_and_its_interval_holds_it():
    loss = np.random.default_rng(0).exponential(size=40)
    for measure in (loss, loss**3, np.log(loss)):
        found = spearman(measure, loss)
        assert found.value == pytest.approx(1) and found.low <= found.value <= found.high + 1e-12
    assert spearman(-loss, loss).value == pytest.approx(-1)


def test_noise_lowers_rho_and_widens_its_interval_which_still_holds_it():
    rng = np.random.default_rng(1)
    loss = rng.normal(size=40)
    near, far = (spearman(loss + noise * rng.normal(size=40), loss) for noise in (0.2, 2.0))
    assert near.value > 0.9 > 0.8 > far.value
    for found in (near, far):
        assert found.low < found.value < found.high
    assert near.high - near.low < far.high - far.low
    assert spearman(loss, -loss, seed=3) == spearman(loss, -loss, seed=3)


def test_within_groups_only_the_order_inside_of_each_counts():
    groups = np.repeat(range(4), 10)
    inside = np.tile(np.arange(10.0), 4)
    loss = 100 * groups - inside
    assert spearman(100 * groups + inside, loss).value > 0.8
    assert spearman(100 * groups + inside, loss, groups).value == pytest.approx(-1)
    assert np.isnan(spearman(groups, loss, groups).value)


def test_settings_of_a_group_have_its_size_and_differ_in_what_they_hold_and_where():
    graph = yolov8n(160, "silu")
    weights = bits._weights(graph)
    for mean in MEAN_BITS:
        found = [setting(graph, mean, np.random.default_rng([0, k])) for k in range(4)]
        for chosen in found:
            assert chosen.keys() == {node.name for node in free_layers(graph)} and set(chosen.values()) <= set(OFFERED)
            size = sum(bits.bits(p)[0] * weights[name] for name, p in chosen.items()) / sum(weights.values())
            assert size == pytest.approx(mean, rel=0.01)
        assert len({tuple(sorted(chosen.values())) for chosen in found}) == 4
        assert setting(graph, mean, np.random.default_rng([0, 2])) == found[2]


def test_the_table_of_bits_gives_a_measure_that_is_the_loss_rho_one():
    rng, layers = np.random.default_rng(0), [f"layer{k}" for k in range(8)]
    told, blind = ({name: dict(zip(OFFERED, rng.uniform(0, 1, len(OFFERED)))) for name in layers} for _ in range(2))
    known = {"measures-s0": {"measures": {"told": {"seconds": 1.0, "table": told}, "blind": {"seconds": 2.0, "table": blind}}}}
    for k in range(12):
        chosen = {name: OFFERED[rng.integers(len(OFFERED))] for name in layers}
        harm = sum(told[name][p] for name, p in chosen.items())
        known[f"setting{k:02d}-s0"] = {"loss": harm, "map": 1 / harm, "group": MEAN_BITS[k % 4], "precisions": chosen}
    rows = {line.split()[0]: line for line in text(known).splitlines()[3:5]}
    assert rows["told"].count(" 1.00 (") == 4 and " 1.00 (" not in rows["blind"]
