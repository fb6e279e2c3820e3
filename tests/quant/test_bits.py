"""Bits for every layer: curvature, sensitivity and the allocation within limits."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodels.device import load
from nas.compiler import compile as compile_plan
from nas.quant import QuantError, at_precision, fake_quantized
from nas.quant.allocate import allocate
from nas.quant.choice import choose
from nas.quant.costs import SIZE
from nas.quant.hessian import hessian_traces
from nas.quant.precisions import free_layers, mixed
from nas.quant.sensitivity import MEASURES, layer_of, quantized_layer, rounded
from nas.runtime import write
from searchspaces import YOLO
from searchspaces.module import merged_start, to_torch
from searchspaces.quantizers import floated, quantized

PAIRS = ("w8a8", "w4a4", "w2a2")
OPTIONS = st.tuples(st.floats(0, 10), st.floats(0, 10), st.floats(0, 10))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(OPTIONS, min_size=2, max_size=3), min_size=6, max_size=6), st.floats(0.2, 1), st.floats(0.2, 1))
def test_an_allocation_is_as_good_as_the_best_of_all_assignments(layers, share_a, share_b):
    losses = {str(k): {o: row[0] for o, row in enumerate(options)} for k, options in enumerate(layers)}
    costs = {name: {str(k): {o: row[axis] for o, row in enumerate(options)} for k, options in enumerate(layers)}
             for name, axis in (("a", 1), ("b", 2))}  # fmt: skip
    most = {name: sum(max(options.values()) for options in costs[name].values()) for name in costs}
    limits = {"a": share_a * most["a"], "b": share_b * most["b"]}

    def total(table, chosen):
        return sum(table[layer][option] for layer, option in chosen.items())

    every = [dict(zip(losses, options)) for options in product(*[list(options) for options in losses.values()])]
    fitting = [total(losses, chosen) for chosen in every if all(total(costs[name], chosen) <= limits[name] for name in limits)]
    try:
        found = allocate(losses, costs, limits)
    except QuantError:
        assert not fitting
        return
    assert all(total(costs[name], found) <= limits[name] * (1 + 1e-6) for name in limits)
    assert total(losses, found) == pytest.approx(min(fitting, default=np.inf), abs=1e-5)


def test_the_trace_of_a_known_hessian_is_found_within_two_percent():
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(400, 12)) * np.linspace(0.3, 3, 12))
    y = torch.from_numpy(rng.normal(size=400))
    w = torch.zeros(12, dtype=torch.float64, requires_grad=True)
    b = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    found = hessian_traces(lambda: 0.5 * (x @ w + b - y).square().mean(), {"w": w, "b": b}, samples=3000, tolerance=0.002)
    assert found["w"] == pytest.approx(float(torch.trace(x.T @ x)) / 400, rel=0.02)
    assert found["b"] == pytest.approx(1.0, rel=0.1)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    small = {"resolution": 96, "backbone.block": "c2f", "neck": "pan", "neck.block": "c2f", "stem.width": 8}
    graph = YOLO.build(YOLO.arch({**YOLO.repair({}).genes, **small}), 3)
    images = torch.rand(2, 3, 96, 96)
    return *merged_start(graph, images), [images]


@pytest.mark.parametrize("measure", MEASURES)
def test_fewer_bits_are_minded_more_and_the_net_is_left_as_it_was(net, measure):
    graph, weights, images = net
    model = to_torch(floated(graph), weights).eval()
    names = [node.name for node in free_layers(graph)][:6]
    table = MEASURES[measure](model, names, PAIRS, images, 3)
    totals = [sum(table[name][precision] for name in names) for precision in PAIRS]
    assert 0 <= totals[0] < totals[1] < totals[2]
    for name, array in model.weights().arrays().items():
        np.testing.assert_array_equal(array, weights.arrays()[name])


def test_a_quantized_layer_computes_what_the_fake_quantized_net_does(net):
    graph, weights, _ = net
    model, name = to_torch(floated(graph), weights).eval(), free_layers(graph)[2].name
    layer = layer_of(model, name)
    with quantized_layer(layer, "w2a8", torch.rand(1, 4, 8, 8)):
        assert len(np.unique(layer.weight[0].detach().numpy())) <= 4
        torch.testing.assert_close(layer.weight, rounded(torch.from_numpy(weights.arrays()[f"{name}.weight"]), 2, layer))


def test_an_artifact_of_chosen_bits_is_no_larger_than_the_target(net):
    graph, weights, images = net
    offered = ("w8a8", "w4a8", "w2a8")
    large, small = (len(artifact_of(at_precision(graph, precision), weights, images)) / 1e6 for precision in ("w8a8", "w2a8"))
    target = (large + small) / 2
    found = choose(graph, weights, images, 3, load("raspi4-edgenas"), {SIZE: target}, precisions=offered, measure="noise")
    assert len(set(found.precisions.values())) > 1
    made = len(artifact_of(mixed(graph, found.precisions), weights, images)) / 1e6
    assert 0.85 * target < made <= target * 1.01
    with pytest.raises(QuantError, match="no assignment keeps size_mb"):
        choose(graph, weights, images, 3, load("raspi4-edgenas"), {SIZE: small / 3}, precisions=offered, measure="noise")


def artifact_of(graph, weights, images):
    return write(compile_plan(quantized(graph), fake_quantized(graph, weights, images).weights(), classes=["a", "b", "c"]))


def test_a_layer_without_a_precision_is_named(net):
    graph, *_ = net
    layers = {node.name: "w4a4" for node in free_layers(graph)}
    first = next(iter(layers))
    with pytest.raises(QuantError, match=f"layer '{first}'"):
        mixed(graph, {name: p for name, p in layers.items() if name != first})
    with pytest.raises(QuantError, match="no precision 'w5a5'"):
        at_precision(graph, "w5a5")
