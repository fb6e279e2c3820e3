import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from searchspaces import YOLO, Builder, GraphError
from searchspaces.blocks import BLOCKS, conv_bn_act, repvgg
from searchspaces.fakequant import ActivationQuantizer, WeightQuantizer, set_mode
from searchspaces.module import merged_start, to_torch
from searchspaces.quantizers import floated, quantized
from searchspaces.rewrite import fold_batchnorm, fuse_activation, merge_rep

SMALL = {"resolution": 96, "stem.width": 8, "stage1.width": 16}


def shaken(model, seed=0):
    """Batch-norm statistics and gains as after training: none is 0 or 1, some gains are negative."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.weight, 0.5, 1.0)
            torch.nn.init.normal_(module.bias)
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    return model.eval()


def norms(model):
    return [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]


def tiny(block, bits=8):
    g = Builder()
    with g.precision(bits, bits):
        x = conv_bn_act(g, g.input(3, 16, 16), 16, 3, stride=2, act="silu")
        y = g.conv2d(BLOCKS[block](g, x, 24, 2, act="hardswish", shortcut=True), 8)
    return g.graph(y)


@pytest.mark.parametrize("block", BLOCKS)
@torch.no_grad()
def test_folding_and_fusing_leave_the_function_of_every_block_alone(block):
    model = shaken(to_torch(floated(tiny(block))))
    images = torch.rand(2, 3, 16, 16)
    before = model(images)[0]
    net = model.graph, model.weights()
    for rewrite in (merge_rep, fold_batchnorm, fuse_activation):
        net = rewrite(*net)
    assert not net[0].of("activation") and len(net[0].of("batchnorm")) == (block == "csp2")  # its batch-norm follows an activation
    after = to_torch(*net).eval()(images)[0]
    assert torch.allclose(before, after, rtol=1e-4, atol=1e-4 * float(before.abs().max()))


@torch.no_grad()
def test_rep_branches_merge_into_one_conv_of_the_same_function():
    g = Builder()
    x = repvgg(g, repvgg(g, g.input(3, 12, 12), 8, stride=2), 8)
    model = shaken(to_torch(g.graph(x)))
    graph, weights = merge_rep(model.graph, model.weights())
    assert [node.op for node in graph] == ["input", "conv2d", "activation", "conv2d", "activation"]
    images = torch.rand(2, 3, 12, 12)
    assert torch.allclose(model(images)[0], to_torch(graph, weights).eval()(images)[0], atol=1e-4)


@pytest.mark.parametrize(("channels", "size", "batch"), [(3, 96, 4), (3, 96, 16), (8, 64, 4)])
def test_a_rep_block_of_stride_2_trains_in_channels_last(channels, size, batch):
    """torch's own 1x1 conv of stride 2 ends in a segmentation fault here."""
    g = Builder()
    model = to_torch(g.graph(repvgg(g, g.input(channels, size, size), 16, stride=2)))
    images = torch.rand(batch, channels, size, size)
    model(images)[0].square().sum().backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    model.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last))[0].square().sum().backward()
    for name, p in model.named_parameters():
        assert torch.allclose(p.grad, wanted[name], rtol=1e-3, atol=1e-3 * float(wanted[name].abs().max())), name


@torch.no_grad()
def test_a_merged_start_has_the_random_weights_of_any_other_and_one_conv_for_every_rep_sum():
    g = Builder()
    with g.precision(4, 4):
        x = repvgg(g, conv_bn_act(g, g.input(3, 12, 12), 8, 3, act="relu"), 8)
        graph = g.graph(g.conv2d(x, 2))
    images = torch.rand(4, 3, 12, 12)
    torch.manual_seed(0)
    plain = to_torch(floated(graph))
    torch.manual_seed(0)
    merged, weights = merged_start(graph, images)
    assert not any(node.get("rep") for node in merged) and {node["wbits"] for node in merged.of("conv2d")} == {4}
    assert np.array_equal(weights["conv2d", "weight"], plain.weights()["conv2d", "weight"])
    wanted = plain.train()(images)[0]  # batch-norm by the statistics of these images, biased where the running ones are not
    assert torch.allclose(to_torch(floated(merged), weights).eval()(images)[0], wanted, atol=0.01)


@torch.no_grad()
def test_a_conv_with_two_readers_keeps_its_batchnorm_outside():
    g = Builder()
    conv = g.conv2d(g.input(3, 8, 8), 4, 3)
    graph = g.graph(g.add(conv, g.batchnorm(conv)))
    assert len(fold_batchnorm(graph)[0].of("batchnorm")) == 1


@pytest.mark.parametrize("block", BLOCKS)
@torch.no_grad()
def test_eight_bits_stay_near_the_float_net_two_do_not_and_both_reload_to_the_same_bits(block):
    images = torch.rand(4, 3, 16, 16)
    float_net = to_torch(floated(tiny(block))).train()
    for norm in norms(float_net):
        norm.momentum = 1.0
    float_net(images)  # the statistics of these images, as after training
    wanted = float_net.eval()(images)[0]
    noise = {}
    for bits in (8, 2):
        graph = quantized(tiny(block, bits))
        net = to_torch(graph, float_net.weights()).eval()
        set_mode(net, "off")
        assert torch.equal(net(images)[0], wanted)
        net.calibrate([images])
        assert all(torch.equal(a.running_mean, b.running_mean) for a, b in zip(norms(float_net), norms(net)))
        noise[bits] = float((net(images)[0] - wanted).std() / wanted.std())
        assert torch.equal(to_torch(graph, net.weights()).eval()(images)[0], net(images)[0])
    assert noise[8] < 0.05 < noise[2]


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_activation_quantizer_gives_codes_on_its_grid_and_finite_gradients(bits):
    torch.manual_seed(bits)
    quantizer = ActivationQuantizer(bits, asymmetric=True)
    x = torch.nn.functional.silu(torch.randn(4, 8, 6, 6) * 3).requires_grad_()
    quantizer.mode = "observe"
    quantizer(x)
    quantizer.fit()
    quantizer.mode = "on"
    y = quantizer(x)
    scale, zero = quantizer.codes()
    codes = (y / scale + zero).detach().numpy()
    assert np.allclose(codes, codes.round(), atol=1e-3) and codes.min() > -0.5 and codes.max() < 2**bits - 0.5
    y.square().sum().backward()
    for grad in (x.grad, quantizer.log_scale.grad, quantizer.zero_point.grad):
        assert torch.isfinite(grad).all()


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_weight_quantizer_uses_its_levels_and_a_finer_grid_errs_less(bits):
    torch.manual_seed(0)
    w = torch.randn(8, 16, 3, 3)
    quantizer = WeightQuantizer(bits, 8)
    quantizer.fit(w)
    scale = quantizer.log_scale.exp().view(-1, 1, 1, 1)
    codes = (quantizer(w) / scale).detach()
    assert torch.allclose(codes, codes.round(), atol=1e-3)
    assert codes.round().unique().numel() <= 2**bits and codes.min() > quantizer.low - 0.5 and codes.max() < quantizer.high + 0.5
    error = float((quantizer(w) - w).square().mean().detach())
    assert error < {1: 0.45, 2: 0.20, 3: 0.06, 4: 0.02, 8: 1e-4}[bits]


def test_lsq_gradient_of_the_step_matches_the_paper():
    """d/ds of s * clip(round(x / s)): -x/s + round(x/s) inside, the clip level outside; times 1/sqrt(N * Qp)."""
    quantizer = ActivationQuantizer(2, asymmetric=False)
    with torch.no_grad():
        quantizer.log_scale.fill_(0.5).log_()
    x = torch.tensor([0.1, 0.6, 1.4, 9.0, -3.0])
    quantizer(x).sum().backward()
    by_hand = (0 - 0.2) + (1 - 1.2) + (3 - 2.8) + 3 + 0
    assert quantizer.log_scale.grad.item() == pytest.approx(by_hand * (5 * 3) ** -0.5 * 0.5, rel=1e-5)


def straight_through(x, s, z, low, high):
    """The same rounding for autograd: LSQ's gradients but for their gain."""
    v = (x / s + z).clamp(low, high)
    return (v + (v.round() - v).detach() - z) * s


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 3, 4, 8]), st.booleans(), st.booleans())
def test_the_gradients_of_fake_quantizers_are_those_of_a_straight_through_rounding(seed, bits, asymmetric, channels_last):
    torch.manual_seed(seed)
    quantizer, x = ActivationQuantizer(bits, asymmetric), 3 * torch.randn(2, 5, 4, 6)
    x[0, 0] = 0.0  # an end of the range, which is inside
    x = x.to(memory_format=torch.channels_last) if channels_last else x
    with torch.no_grad():
        quantizer.log_scale.fill_(float(torch.rand(()) + 0.1)).log_()
        quantizer.zero_point.fill_(float(torch.randint(quantizer.high + 1, ())) if asymmetric else 0.0)
    s, z = quantizer.log_scale.detach().exp().requires_grad_(), quantizer.zero_point.detach().clone().requires_grad_()
    found = gradients(quantizer, x, s, z, 0, quantizer.high, [quantizer.zero_point] if asymmetric else [])
    assert all(torch.allclose(mine, theirs, *tolerance) for mine, theirs, tolerance in found)
    if bits > 1:  # one bit of weights has a rule of its own
        weights = WeightQuantizer(bits, 5, axis=1)
        with torch.no_grad():
            weights.log_scale.copy_(torch.rand(5).add(0.1).log())
        s = weights.log_scale.detach().exp().view(1, -1, 1, 1).requires_grad_()
        found = gradients(weights, x, s, torch.zeros(()), weights.low, weights.high, [])
        assert all(torch.allclose(mine, theirs, *tolerance) for mine, theirs, tolerance in found)


def gradients(quantizer, x, s, z, low, high, zero_points):
    """(the quantizer's, autograd's, tolerances): of the input, of the logarithmic step and of a zero point that is learned."""
    mine, theirs, upstream = x.clone().requires_grad_(), x.clone().requires_grad_(), torch.randn_like(x)
    (quantizer(mine) * upstream).sum().backward()
    (straight_through(theirs, s, z, low, high) * upstream).sum().backward()
    gain = (x.numel() / s.numel() * max(high, -low)) ** -0.5
    step, close = (s.grad * s.detach() * gain).view_as(quantizer.log_scale), (1e-4, 1e-4)
    zeros = [(zero_point.grad, z.grad * gain, close) for zero_point in zero_points]
    return [(mine.grad, theirs.grad, (1.3e-6, 1e-5)), (quantizer.log_scale.grad, step, close), *zeros]


def test_weights_of_another_shape_or_missing_ones_are_named():
    graph = floated(YOLO.build(YOLO.repair(SMALL), 3))
    weights = to_torch(graph).weights()
    with pytest.raises(GraphError, match=r"stem.conv2d.weight.*shape"):
        to_torch(graph, weights.edited({("stem.conv2d", "weight"): np.zeros((1, 1, 1, 1), np.float32)}))
    with pytest.raises(GraphError, match=r"no weights 'stem.conv2d.weight'"):
        to_torch(graph, weights.edited({}, [graph["stem.conv2d"]]))
