import numpy as np
import torch

from nas.quant import fake_quantized, quantize
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
