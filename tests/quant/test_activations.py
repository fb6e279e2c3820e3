"""Mixed activations: the choice within a latency, what is measured for it, and whether costs add up."""

from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import nas.activations as activations
from nas.activations import additivity, choose, kinds_of, operators, replaced, scored, sites, total
from nas.quant import QuantError, at_precision
from nas.quant.costs import latency, latency_costs
from nas.quant.errors import NothingFits
from proxies import probe
from searchspaces import YOLO, Builder
from searchspaces.blocks import conv_bn_act
from searchspaces.graph import verify
from searchspaces.module import merged_start
from searchspaces.quantizers import quantized
from searchspaces.rewrite import deployed

KINDS = ("relu", "hardswish", "silu")
PRICES = {"relu": 1.0, "hardswish": 1.7, "silu": 2.3, None: 0.5}


def priced(op) -> float:
    return PRICES.get(op.activation, 3.0) * op.elements / 1e3


BOARD = SimpleNamespace(
    name="planted", operators=SimpleNamespace(price=priced),
    predict=lambda load: SimpleNamespace(mean_ms=sum(map(priced, load.ops))),
)  # fmt: skip


def chain(layers: int):
    """Convolutions one behind the other, each with a SiLU."""
    g = Builder()
    with g.precision(8, 8):
        x = g.input(3, 16, 16)
        for k in range(layers):
            x = conv_bn_act(g, x, 4 + 3 * k, 3, stride=1 + k % 2, act="silu")
        return g.graph(g.conv2d(x, 8))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    genes = {"resolution": 96, "backbone.block": "c2f", "neck": "pan", "neck.block": "c2f", "stem.width": 8}
    silu = {name: "silu" for name in YOLO.repair({}).genes if name.endswith(".act")}
    graph = YOLO.build(YOLO.arch({**YOLO.repair({}).genes, **genes, **silu}), 3)
    images = torch.rand(2, 3, 96, 96)
    return *merged_start(graph, images), [images]


@pytest.mark.parametrize("seed", range(4))
def test_chosen_activations_are_the_best_of_all_assignments_that_fit(seed):
    rng, graph = np.random.default_rng(seed), chain(5)
    places = sites(graph)
    minds = {site: dict(zip(KINDS, rng.uniform(0, 1, 3))) for site in places}
    nets = {kind: replaced(graph, places, dict.fromkeys(places, kind)) for kind in KINDS}
    costs = latency_costs(nets, operators(graph, places), None, [], BOARD)
    every = [dict(zip(places, kinds)) for kinds in product(KINDS, repeat=len(places))]
    wholes = [latency(replaced(graph, places, kinds), None, [], BOARD)[0] for kinds in every]
    assert [total(costs, kinds) for kinds in every] == pytest.approx(wholes)
    limit = min(wholes) + rng.uniform(0.2, 0.8) * (max(wholes) - min(wholes))
    mix = choose(graph, None, places, minds, costs, [], BOARD, limit)
    assert mix.costs["latency_ms"] <= limit
    assert total(minds, mix.kinds) == pytest.approx(min(total(minds, k) for k, ms in zip(every, wholes) if ms <= limit))
    with pytest.raises(NothingFits, match=f"within .*: the least is {min(wholes):g}"):
        choose(graph, None, places, minds, costs, [], BOARD, 0.9 * min(wholes))


def test_a_replaced_site_changes_its_own_nodes_alone(net):
    graph, *_ = net
    for per, count in (("layer", len(graph.of("activation"))), ("part", 7)):
        places = sites(graph, per)
        assert len(places) == count
        assert set().union(*places.values()) == {node.name for node in graph.of("activation")}
        site = list(places)[count // 2]
        other = replaced(graph, places, {site: "relu6"})
        verify(other)
        differ = {a.name for a, b in zip(graph.nodes, other.nodes, strict=True) if a != b}
        assert differ == set(places[site]) and kinds_of(other, places)[site] == "relu6"
        assert replaced(other, places, {site: "silu"}) == graph


def test_every_site_has_an_operator_of_its_own_in_the_deploy_form(net):
    graph = at_precision(net[0], "w4a4")
    places = sites(graph)
    form, found = deployed(quantized(graph)), operators(graph, places)
    for site, (operator,) in found.items():
        node = form[operator]
        assert node.get("act", node.get("kind")) == "silu", site
    assert len({name for names in found.values() for name in names}) == len(places)


def test_only_what_changes_the_net_is_scored_as_a_change(net):
    graph, weights, images = net
    places = {site: names for site, names in sites(graph, "part").items() if site in ("stage2", "head")}
    found = scored(graph, weights, places, ("silu", "relu"), images, 3, probe(None, 96, classes=3, images=4), seeds=(0, 1))
    assert found.floor > 0
    for site in places:
        assert (found.loss[site]["silu"], found.nwot[site]["silu"], found.noise[site]["silu"]) == (0, 0, 0)
        assert found.loss[site]["relu"] > 0 and found.nwot[site]["relu"] != 0 and found.noise[site]["relu"] > 0
    assert found.minds("nwot")["head"]["relu"] == -found.nwot["head"]["relu"]


def test_additivity_is_perfect_on_costs_that_add_up_and_says_how_far_others_are_off(monkeypatch):
    graph = chain(4)
    places = sites(graph)
    rng = np.random.default_rng(0)
    costs = {site: dict(zip(KINDS, rng.uniform(1, 2, 3))) for site in places}
    factor, shift = 1.0, 0.0

    def measured(graph, weights, images, device):
        return factor * total(costs, kinds_of(graph, places)) + shift, {}

    monkeypatch.setattr(activations, "latency", measured)
    exact = additivity(graph, None, places, costs, [], BOARD, 12)
    assert len(set(exact.predicted)) > 6 and exact.r2 == pytest.approx(1) and exact.mape == pytest.approx(0)
    factor = 1.25
    assert additivity(graph, None, places, costs, [], BOARD, 12).mape == pytest.approx(20)
    factor, shift = 0.0, 5.0
    assert additivity(graph, None, places, costs, [], BOARD, 12).r2 < 0


def test_what_is_no_choice_is_named(net):
    graph, *_ = net
    with pytest.raises(QuantError, match="no activation 'tanh'"):
        replaced(graph, sites(graph), {next(iter(sites(graph))): "tanh"})
    with pytest.raises(QuantError, match="layer and part"):
        sites(graph, "block")
