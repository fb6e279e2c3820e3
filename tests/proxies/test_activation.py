"""nwot against its definition, and the ways it is made cheap."""

import numpy as np
import pytest
import torch

from proxies import PROXIES, probe, score
from proxies import activation as module
from searchspaces.module import to_torch
from searchspaces.quantizers import floated
from searchspaces.rewrite import merge_rep

NWOT = PROXIES["nwot"]


def by_definition(graph, images, seed=0):
    """K += x x' + (1 - x)(1 - x)' over binary codes x of every conv output, then log |K|, written as in the paper."""
    torch.manual_seed(seed)
    model = to_torch(floated(graph)).train()
    kernel = np.zeros((len(images), len(images)))

    def hook(layer, inputs, out):
        x = (out.flatten(1) > 0).double().numpy()
        kernel[...] += x @ x.T + (1 - x) @ (1 - x).T

    for node in graph.of("conv2d"):
        model.layers[node.name.replace(".", "/")].register_forward_hook(hook)
    with torch.no_grad():
        model(images)
    return np.linalg.slogdet(kernel)[1]


def test_nwot_is_what_its_paper_defines(tiny, small_probe):
    assert score(NWOT, tiny(), small_probe).number() == pytest.approx(by_definition(tiny(), small_probe.images), abs=1e-6)


def test_nwot_merges_rep_branches_first(tiny, small_probe):
    graph = tiny(rep=True)
    torch.manual_seed(0)
    merged = to_torch(*merge_rep(floated(graph), to_torch(floated(graph)).weights()))
    assert score(NWOT, graph, small_probe).number() == pytest.approx(score(NWOT, merged.train(), small_probe).number(), abs=1e-9)
    assert score(NWOT, graph, small_probe).number() != pytest.approx(by_definition(graph, small_probe.images), abs=1e-3)


def test_nwot_of_a_large_image_is_close_to_its_value_at_full_size(tiny, monkeypatch):
    images = probe(None, 192, images=8)
    shrunk = score(NWOT, tiny(side=192), images, seeds=range(4))
    monkeypatch.setattr(module, "SIDE", 192)
    full = score(NWOT, tiny(side=192), images, seeds=range(4))
    assert abs(shrunk.number() - full.number()) < 2 * full.noise + 0.5


def test_nwot_grows_with_width(tiny, small_probe):
    assert score(NWOT, tiny(width=16), small_probe).number() > score(NWOT, tiny(width=8), small_probe).number()


def test_nwot_fails_on_equal_images(tiny):
    images = [np.full((32, 32, 3), 90, np.uint8)] * 3
    assert "use different images" in score(NWOT, tiny(), probe(images, 64)).error


def test_nwot_does_not_see_bits(tiny, small_probe):
    assert score(NWOT, tiny("w2a2"), small_probe).values == score(NWOT, tiny("fp32"), small_probe).values
