"""Weights of another network: copied exactly where it is the same, and a wider one starts with the donor's outputs."""

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from nas.train import fit, inherit, set_head_prior
from nas.train.settings import TrainSettings
from searchspaces import YOLO
from searchspaces.blocks import BLOCKS
from searchspaces.module import to_torch
from searchspaces.quantizers import floated

NARROW = {
    "resolution": 96, "stem.width": 8, "stage1.width": 16, "stage2.width": 32, "stage3.width": 48, "stage4.width": 64,
    "head.box": 32, "head.cls": 32, **{f"{part}.act": "silu" for part in ("stem", "stage1", "stage2", "stage3", "stage4", "neck", "head")},
}  # fmt: skip
WIDE = {"stem.width": 16, "stage1.width": 24, "stage2.width": 64, "stage3.width": 64, "stage4.width": 128, "head.box": 48, "head.cls": 64}


def net(seed, **genes):
    """A float graph and a module of it with batch-norms that do something."""
    graph = floated(YOLO.build(YOLO.arch({**YOLO.repair({}).genes, **NARROW, **genes}), 2))
    torch.manual_seed(seed)
    module = to_torch(graph)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor in (norm.weight, norm.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (norm.bias, norm.running_mean):
                nn.init.uniform_(tensor, -0.3, 0.3)
    return graph, module.eval()


def outputs(graph, weights):
    images = torch.rand(1, 3, 96, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return to_torch(graph, weights).double().eval()(images)


@pytest.mark.parametrize("block", BLOCKS)
def test_an_identical_network_is_copied_exactly(block):
    graph, donor = net(0, **{"backbone.block": block, "neck.block": block})
    _, other = net(1, **{"backbone.block": block, "neck.block": block})
    found = inherit(graph, other.weights(), graph, donor.weights())
    assert found.share == 1.0
    assert all(np.array_equal(array, donor.weights().arrays()[name]) for name, array in found.weights.arrays().items())


@pytest.mark.parametrize("block", BLOCKS)
def test_a_wider_network_starts_with_the_outputs_of_its_donor(block):
    genes = {"backbone.block": block, "neck.block": block, "top": "sppf"}
    donor_graph, donor = net(0, **genes)
    graph, wide = net(1, **{**genes, **WIDE})
    found = inherit(graph, wide.weights(), donor_graph, donor.weights())
    assert 0 < found.share < 1
    for a, b in zip(outputs(graph, found.weights), outputs(donor_graph, donor.weights())):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_a_deeper_network_keeps_the_outputs_where_its_new_layers_are_new_inputs_of_a_concat():
    donor_graph, donor = net(0)
    graph, deep = net(1, **{"stage2.depth": 3, "neck.depth": 2, **{k: v for k, v in WIDE.items() if k.startswith("stage")}})
    found = inherit(graph, deep.weights(), donor_graph, donor.weights())
    for a, b in zip(outputs(graph, found.weights), outputs(donor_graph, donor.weights())):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_a_narrower_network_holds_the_first_channels_of_its_donor():
    donor_graph, donor = net(0, **WIDE)
    graph, narrow = net(1)
    found, theirs = inherit(graph, narrow.weights(), donor_graph, donor.weights()), donor.weights()
    assert found.share == pytest.approx(1.0)
    np.testing.assert_array_equal(found.weights["stage1.conv2d", "weight"], theirs["stage1.conv2d", "weight"][:16, :8])
    np.testing.assert_array_equal(found.weights["stage1.batchnorm", "var"], theirs["stage1.batchnorm", "var"][:16])
    second_half = theirs["stage1.conv2d1", "weight"][12:20, :16]  # a split: the donor's second half begins at 12, ours at 8
    np.testing.assert_array_equal(found.weights["stage1.conv2d1", "weight"][8:], second_half)


def test_networks_without_a_common_layer_share_nothing_and_stay_as_they_were():
    donor_graph, donor = net(0)
    renamed = {f"other.{name}": array for name, array in donor.weights().arrays().items()}
    graph, ours = net(1)
    found = inherit(graph, ours.weights(), donor_graph, type(donor.weights())(renamed))
    assert found.share == 0.0
    assert all(np.array_equal(array, ours.weights().arrays()[name]) for name, array in found.weights.arrays().items())


def test_a_training_that_starts_from_a_smaller_network_begins_with_a_lower_loss(digits):
    settings = TrainSettings(size=96, epochs=1, batch=4, accelerator="cpu", precision="fp32", val_every=0)

    def trained(graph, settings, start=None):
        module = to_torch(graph)
        set_head_prior(module, 2, 96)
        if start is not None:
            module.load(start(module.weights()))
        first = fit(module, digits, settings).epochs[0]
        return module.weights(), first.box_loss + first.class_loss + first.dfl_loss

    donor_graph, (graph, _) = net(0)[0], net(0, **{"stage2.width": 48, "stage3.depth": 2})
    donor, _ = trained(donor_graph, msgspec.structs.replace(settings, epochs=8))
    _, scratch = trained(graph, settings)
    _, warm = trained(graph, settings, lambda weights: inherit(graph, weights, donor_graph, donor).weights)
    assert warm < 0.8 * scratch
