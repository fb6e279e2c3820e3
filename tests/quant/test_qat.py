import numpy as np
import pytest
import torch

from nas.quant import QatSettings, QuantError, at_precision, fake_quantized, quantize, reestimate_norms, rungs, without_steps
from nas.quant.precisions import free_layers
from searchspaces import YOLO
from searchspaces.fakequant import quantizers
from searchspaces.module import to_torch
from searchspaces.quantizers import floated

PARTS = ("stage1", "stage2", "stage3", "stage4", "neck", "head")
GENES = {"resolution": 96, "stem.width": 8, "stage1.width": 16, **{f"{part}.precision": "w4a4" for part in PARTS}}


def float_net():
    torch.manual_seed(0)
    graph = YOLO.build(YOLO.repair(GENES), 2)
    net = to_torch(floated(graph)).train()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        net(torch.rand(4, 3, 96, 96))  # statistics as after training; with those of a new net the signal dies on its way
    return graph, net.eval()


def test_quantization_aware_training_brings_the_quantized_net_back_to_its_teacher():
    graph, net = float_net()
    images = torch.rand(4, 3, 96, 96)
    losses = []

    def fit(model, teacher):
        assert teacher is not None and not any(p.requires_grad for p in teacher.parameters())
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        for _ in range(8):
            loss = sum((a - b).square().mean() for a, b in zip(model(images), teacher(images)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))

    model, _ = quantize(graph, net.weights(), [images], fit)
    assert losses[-1] < losses[0]
    assert not model.training
    assert all(torch.isfinite(q.log_scale).all() for q in quantizers(model))


def test_a_fake_quantized_net_keeps_the_float_weights_and_its_steps_are_positive():
    graph, net = float_net()
    model = fake_quantized(graph, net.weights(), [torch.rand(2, 3, 96, 96)])
    before, after = net.weights(), model.weights()
    assert all(np.array_equal(after.arrays()[name], array) for name, array in before.arrays().items())
    scales = [array for name, array in after.arrays().items() if name.endswith("scale")]
    assert scales and all((array > 0).all() for array in scales)


def test_a_ladder_leads_from_the_most_bits_to_those_of_the_graph_and_leaves_out_what_changes_nothing():
    graph, _ = float_net()
    stages = rungs(at_precision(graph, "w2a4"), (8, 4))
    assert [{(node["wbits"], node["abits"]) for node in free_layers(stage)} for stage in stages] == [{(8, 8)}, {(4, 4)}, {(2, 4)}]
    assert rungs(at_precision(graph, "w8a8"), (8, 4)) == [at_precision(graph, "w8a8")]
    assert rungs(graph, ()) == [graph]
    with pytest.raises(QuantError, match="5 bits are not trained; known: 1, 2, 3, 4, 8"):
        QatSettings(ladder=(8, 5))


def test_weights_without_their_steps_are_fitted_anew_at_other_bits():
    graph, net = float_net()
    images = [torch.rand(2, 3, 96, 96)]
    wide = fake_quantized(at_precision(graph, "w8a8"), net.weights(), images)
    passed_on, afresh = (
        fake_quantized(at_precision(graph, "w2a2"), weights, images).weights().arrays()
        for weights in (without_steps(wide.weights()), net.weights())
    )
    assert passed_on.keys() == afresh.keys() and all(np.array_equal(array, afresh[name]) for name, array in passed_on.items())


def test_batchnorm_statistics_taken_anew_are_the_means_of_the_batches_and_stay_where_they_were_that_already():
    graph, net = float_net()
    batches = [torch.rand(4, 3, 96, 96), 0.5 * torch.rand(4, 3, 96, 96)]
    model = fake_quantized(graph, net.weights(), batches).eval()
    reestimate_norms(model, batches)
    stem = next(module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d))
    seen = []
    stem.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        before = [model(images) for images in batches]
    torch.testing.assert_close(stem.running_mean, torch.stack([x.mean((0, 2, 3)) for x in seen]).mean(0))
    torch.testing.assert_close(stem.running_var, torch.stack([x.var((0, 2, 3)) for x in seen]).mean(0))
    reestimate_norms(model, batches)
    with torch.no_grad():
        assert all(torch.equal(a, b) for maps, images in zip(before, batches) for a, b in zip(maps, model(images)))
    assert not model.training and stem.momentum == pytest.approx(0.03)
