"""Whole networks beside peers: the TensorFlow Lite form computes what ours does, and a run keeps what it measured."""

import importlib.util

import numpy as np
import pytest

from nas.bench.engines import BenchError
from nas.bench.model import _Files, run
from nas.bench.networks import NETWORKS
from nas.runtime import Executor

SIDE = 96
INSTALLED = importlib.util.find_spec("ai_edge_litert") is not None


@pytest.mark.skipif(not INSTALLED, reason="ai-edge-litert is not installed")
@pytest.mark.parametrize(("name", "act"), [("yolov5n", "silu"), ("resnet18", "relu")])
@pytest.mark.parametrize(("precision", "correlation"), [("w8a8", 0.999), ("fp32", 0.9999999)])
def test_the_tflite_form_of_a_network_computes_what_our_plan_does(name, act, precision, correlation, tmp_path):
    from ai_edge_litert.interpreter import Interpreter

    files = _Files(name, act, SIDE, tmp_path)
    interpreter = Interpreter(model_content=files.write(precision, "tflite").read_bytes())
    interpreter.allocate_tensors()
    image = files.image[None].astype(np.int16) - 128 if precision == "w8a8" else files.image[None].astype(np.float32) / 255
    source = interpreter.get_input_details()[0]
    interpreter.set_tensor(source["index"], image.astype(source["dtype"]))
    interpreter.invoke()
    wanted = Executor.load(files.write(precision, "edge")).run(files.image)
    for a, at in zip(wanted, interpreter.get_output_details(), strict=True):
        found = interpreter.get_tensor(at["index"])[0].transpose(2, 0, 1)           # int8 roundings add up over the layers
        assert np.corrcoef(a.ravel(), found.ravel())[0, 1] >= correlation


def test_resnet18_has_the_parameters_of_the_paper_with_its_last_layer_as_a_convolution(tmp_path):
    graph = NETWORKS["resnet18"][0](224, "relu", "w2a2")
    assert graph[graph.outputs[0]].shape == (1000, 1, 1)
    assert len(graph.of("conv2d")) == 21
    assert {node["wbits"] for node in (graph.of("conv2d")[0], graph.of("conv2d")[-1])} == {8}


def test_an_unknown_network_is_refused_with_those_that_are_known():
    with pytest.raises(BenchError, match="'vgg' is no network to measure; choose from yolov5n"):
        run(["vgg"])
