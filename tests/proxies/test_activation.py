"""nwot, nwot_conv and swap against their definitions, and the ways they are made cheap."""

import numpy as np
import pytest
import torch

from proxies import PROXIES, Probe, noise_probe, probe, score
from proxies import activation as module
from searchspaces import Builder
from searchspaces.module import to_torch
from searchspaces.quantizers import floated
from searchspaces.rewrite import merge_rep

NWOT, NWOT_CONV, SWAP = (PROXIES[name] for name in ("nwot", "nwot_conv", "swap"))


def by_definition(graph, images, op, seed=0):
    """K += x x' + (1 - x)(1 - x)' over binary codes x of every output of `op`, then log |K|, written as in the paper."""
    torch.manual_seed(seed)
    model = to_torch(floated(graph)).train()
    kernel = np.zeros((len(images), len(images)))

    def hook(layer, inputs, out):
        x = (out.flatten(1) > 0).double().numpy()
        kernel[...] += x @ x.T + (1 - x) @ (1 - x).T

    for node in graph.of(op):
        model.layers[node.name.replace(".", "/")].register_forward_hook(hook)
    with torch.no_grad():
        model(images)
    return np.linalg.slogdet(kernel)[1]


@pytest.fixture
def one_layer():
    """A 1x1 conv of two channels with ReLU, and four images of one colour each."""
    g = Builder()
    model = to_torch(g.graph(g.activation(g.conv2d(g.input(3, 2, 2), 2), "relu")))
    with torch.no_grad():
        model.layers["conv2d"].weight.copy_(torch.tensor([[1.0, 0, 0], [0, 1, 0]]).view(2, 3, 1, 1))
    colours = torch.tensor([[1.0, 1, 0], [1, -1, 0], [-1, -1, 0], [-2, -3, 0]])
    return model, Probe(colours.view(4, 3, 1, 1).expand(4, 3, 2, 2), (), (), 1)


def test_nwot_is_what_its_paper_defines(tiny, small_probe):
    at_convs, at_norms = (by_definition(tiny(), small_probe.images, op) for op in ("conv2d", "batchnorm"))
    assert score(NWOT_CONV, tiny(), small_probe).number() == pytest.approx(at_convs, abs=1e-6)
    assert score(NWOT, tiny(), small_probe).number() == pytest.approx(at_norms, abs=1e-6)  # each feeds an activation here


def test_signs_of_one_layer_are_counted_by_hand(one_layer):
    """Outputs (image: channel 0, channel 1) = (+ +), (+ -), (- -), (- -): K has its number of agreements, 2 channels x 4 cells."""
    kernel = 4 * np.array([[2, 1, 0, 0], [1, 2, 1, 1], [0, 1, 2, 2], [0, 1, 2, 2]])
    model, seen = one_layer
    assert "use different images" in score(NWOT_CONV, model, seen).error  # the last two agree everywhere: |K| is 0
    assert score(NWOT_CONV, model, seen.first(3)).number() == pytest.approx(np.linalg.slogdet(kernel[:3, :3])[1])
    assert score(SWAP, model, seen).number() == 2  # channel 0 shows ++--, channel 1 shows +---


def test_signs_do_not_feel_a_positive_scale(tiny, small_probe):
    torch.manual_seed(0)
    model = to_torch(floated(tiny()))
    scaled = to_torch(floated(tiny()), model.weights())
    with torch.no_grad():
        for layer in scaled.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.eps, layer.weight.data = 1e-12, layer.weight * 4.0
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.eps = 1e-12
    for item in (NWOT, SWAP):  # the biases at the very end do not scale, and nwot_conv sees those
        assert score(item, scaled, small_probe).number() == pytest.approx(score(item, model, small_probe).number(), abs=1e-2)


@pytest.mark.parametrize(("item", "op"), [(NWOT, "batchnorm"), (NWOT_CONV, "conv2d")], ids=["nwot", "nwot_conv"])
def test_nwot_merges_rep_branches_first(item, op, tiny, small_probe):
    graph = tiny(rep=True)
    torch.manual_seed(0)
    started = to_torch(floated(graph)).train()
    with torch.no_grad():
        started(small_probe.images)  # batch-norm statistics take one step
    merged = to_torch(*merge_rep(floated(graph), started.weights()))
    found = score(item, graph, small_probe).number()
    assert found == pytest.approx(score(item, merged.train(), small_probe).number(), abs=1e-9)
    assert found != pytest.approx(by_definition(graph, small_probe.images, op), abs=1e-3)


def test_nwot_of_a_large_image_is_close_to_its_value_at_full_size(tiny, monkeypatch):
    images = noise_probe(192, images=8)
    shrunk = score(NWOT_CONV, tiny(side=192), images, seeds=range(4))
    monkeypatch.setattr(module, "SIDE", 192)
    full = score(NWOT_CONV, tiny(side=192), images, seeds=range(4))
    assert abs(shrunk.number() - full.number()) < 2 * full.noise + 0.5


def test_nwot_grows_with_width(tiny, small_probe):
    assert score(NWOT_CONV, tiny(width=16), small_probe).number() > score(NWOT_CONV, tiny(width=8), small_probe).number()


def test_nwot_fails_on_equal_images(tiny):
    images = [np.full((32, 32, 3), 90, np.uint8)] * 3
    assert "use different images" in score(NWOT_CONV, tiny(), probe(images, 64)).error


def test_nwot_does_not_see_bits(tiny, small_probe):
    assert score(NWOT_CONV, tiny("w2a2"), small_probe).values == score(NWOT_CONV, tiny("fp32"), small_probe).values


def test_swap_counts_at_most_every_pattern_there_is(tiny, small_probe):
    few = small_probe.first(2)
    assert score(SWAP, tiny(), few).number() == 2**4
    assert 2**4 < score(SWAP, tiny(), small_probe).number() <= 2**12
