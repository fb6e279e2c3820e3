"""Each pass leaves the function of the net as it was."""

import numpy as np
import pytest

from nas.compiler import PIPELINE, CompilerError, interpret, run_passes
from nas.compiler.passes import affine_as_conv, quantize_weights
from nas.compiler.pipeline import prepared
from searchspaces import Builder, Graph, Weights, verify
from searchspaces.blocks import c2f, conv_bn_act, repvgg
from searchspaces.ops import FLOAT_BITS
from searchspaces.quantizers import floated, quantized


def net(weights: int, activations: int, act: str = "silu") -> Graph:
    """Stem, a block, a batch-norm that folds nowhere, a learnable scale; RepVGG branches where it is float."""
    g = Builder()
    with g.precision(weights, activations):
        x = conv_bn_act(g, g.input(3, 12, 12), 8, 3, stride=2, act=act)
        if weights == FLOAT_BITS:
            x = repvgg(g, repvgg(g, x, 8), 12, stride=2)
        x = c2f(g, x, 8, 1, act=act, shortcut=True)
        lone = g.activation(g.batchnorm(x), "relu")
        y = g.add_node("scale", g.add(conv_bn_act(g, x, 8, act=None), lone))
        return g.graph(g.conv2d(g.activation(g.maxpool(y, 3), "relu6"), 5, bias=True))


@pytest.mark.parametrize("bits", [(32, 32), (8, 8), (4, 8), (2, 2), (1, 2)], ids=str)
@pytest.mark.parametrize("act", ["silu", "relu"])
def test_every_pass_keeps_the_function(weights_of, bits, act):
    graph = quantized(net(*bits, act=act))
    weights, image = weights_of(graph, seed=3), np.random.default_rng(1).uniform(size=(3, 12, 12))
    before = interpret(graph, weights, image)[graph.outputs[0]]
    for step in PIPELINE:
        graph, weights = step(graph, weights)
        verify(graph, after=step.__name__)
        after = interpret(graph, weights, image)[graph.outputs[0]]
        assert np.allclose(after, before, rtol=1e-4, atol=1e-4 * np.abs(before).max()), step.__name__


def test_the_deploy_form_has_no_batchnorm_no_scale_and_integer_weights(weights_of):
    graph = quantized(net(4, 4))
    deployed, weights = run_passes(graph, weights_of(graph))
    assert not deployed.of("batchnorm", "scale")
    for node in deployed.of("conv2d"):
        reads_codes = deployed.code_bits[node.inputs[0]] <= 8
        assert (weights[node, "weight"].dtype == np.int8) == reads_codes
        assert reads_codes or node.name == "scale"      # it reads a sum that no quantizer stands behind


def test_passes_change_nothing_the_second_time(weights_of):
    graph = quantized(net(2, 4))
    once = run_passes(graph, weights_of(graph))
    twice = run_passes(*once)
    assert once[0] == twice[0]
    assert all((twice[1].arrays()[name] == array).all() for name, array in once[1].arrays().items())


@pytest.mark.parametrize(("wbits", "codes"), [(8, [127, -127, 3, 0]), (4, [7, -8, 3, 0]), (2, [1, -2, 1, 0]), (1, [1, -1, 1, 1])])
def test_quantize_weights_rounds_clips_and_takes_signs(wbits, codes):
    g = Builder()
    with g.precision(wbits, 8):
        conv = g.conv2d(g.input(4, 2, 2), 1)
    weights = Weights({f"{conv}.weight": np.float32([200.0, -200.0, 2.6, 0.0]).reshape(1, 4, 1, 1), f"{conv}.weight_scale": np.ones(1)})
    _, found = quantize_weights(g.graph(conv), weights)
    assert found[conv, "weight"].ravel().tolist() == codes


def test_weights_without_a_scale_are_refused_by_name(weights_of):
    graph = net(32, 32)
    weights = weights_of(graph)
    with pytest.raises(CompilerError, match=r"'conv2d' has 4-bit weights and no weight_scale"):
        quantize_weights(quantized(net(4, 4)), weights)


def test_weights_of_a_quantized_net_compile_as_the_float_net_too(weights_of):
    graph = quantized(net(4, 4))
    weights, image = weights_of(graph), np.random.default_rng(1).uniform(size=(3, 12, 12))
    float_net = floated(net(4, 4))
    found = interpret(*prepared(float_net, weights, ()), image)[graph.outputs[0]]
    assert np.allclose(found, interpret(float_net, weights, image)[graph.outputs[0]], atol=1e-4)


def test_affine_as_conv_holds_a_gain_on_codes_in_one_bit(weights_of):
    g = Builder()
    with g.precision(8, 8):
        x = g.conv2d(g.input(3, 4, 4), 4)
        graph = quantized(g.graph(g.conv2d(g.add(g.batchnorm(x), x), 2)))
    after, weights = affine_as_conv(graph, weights_of(graph))
    affine = after["batchnorm"]
    assert (affine.op, affine["groups"], affine["wbits"]) == ("conv2d", 4, 1)
    assert (weights[affine, "weight"] == 1).all()
