"""ONNX models against the float64 meaning of their graphs, run by onnxruntime."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from nas.compiler import CompilerError, interpret, run_passes
from nas.compiler.grids import grids_of
from nas.compiler.interpret import evaluate, without_quantizer
from nas.compiler.onnx import BIAS_STEP, export, to_onnx
from nas.runtime import decode
from searchspaces import Builder, Graph, yolobench
from searchspaces.blocks import BLOCKS, conv_bn_act, repvgg, sppf
from searchspaces.heads import yolov8_head
from searchspaces.quantizers import floated, quantized
from searchspaces.yolo import bits

CLASSES = ("red", "white", "platelet")
CPU_FLAGS = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""


def detector(precision: str, act: str) -> Graph:
    g = Builder()
    edge = 32 if precision == "fp32" else 8
    with g.precision(edge, edge):
        x = conv_bn_act(g, g.input(3, 32, 48), 8, 3, stride=2, act=act)
        x = repvgg(g, x, 8, act=act) if precision == "fp32" else x
    with g.precision(*bits(precision)):
        one = BLOCKS["c2f"](g, x, 8, 1, act=act, shortcut=True)
        two = sppf(g, conv_bn_act(g, one, 12, 3, stride=2, act=act), 12, act=act)
        one = BLOCKS["csp"](g, g.concat(g.upsample(two), one), 8, 1, act=act, shortcut=False)
        return g.graph(yolov8_head(g, (one, two), 3, act=act, box_width=8, class_width=8, strides=(2, 4), last_bits=edge))


def session(model: onnx.ModelProto, optimized: bool) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimized else level.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def images(n: int = 2) -> np.ndarray:
    return (np.random.default_rng(4).integers(0, 256, (n, 3, 32, 48)) / 255).astype(np.float32)


def meant(graph: Graph, weights, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values = interpret(graph, weights, image)
    head = graph.of("dfl_decode")[0]
    return decode([values[name] for name in head.inputs], head["strides"], head["bins"], head["classes"])


@pytest.mark.parametrize("act", ["silu", "relu", "relu6", "leaky_relu", "hardswish"])
def test_an_fp32_model_gives_the_decoded_boxes_of_each_image(weights_of, act):
    graph = detector("fp32", act)
    weights = weights_of(graph)
    boxes, scores = session(to_onnx(graph, weights, classes=CLASSES), optimized=True).run(None, {"images": images()})
    assert boxes.shape == (2, 24 * 16 + 12 * 8, 4) and scores.shape == (2, 24 * 16 + 12 * 8, 3)
    for k, image in enumerate(images()):
        wanted_boxes, wanted_scores = meant(graph, weights, image)
        assert np.abs(boxes[k] - wanted_boxes).max() < 1e-3 and np.abs(scores[k] - wanted_scores).max() < 1e-5


@pytest.mark.parametrize("family", yolobench.FAMILIES)
def test_an_fp32_model_of_every_family_gives_the_decoded_boxes(weights_of, family):
    graph = yolobench.detector(yolobench.Name(family, 0.33, 0.0625, 64), 3)
    weights, image = weights_of(graph), np.random.default_rng(4).uniform(size=(3, 64, 64)).astype(np.float32)
    boxes, scores = session(to_onnx(graph, weights, classes=CLASSES), optimized=True).run(None, {"images": image[None]})
    wanted_boxes, wanted_scores = meant(graph, weights, image)
    assert np.abs(boxes[0] - wanted_boxes).max() < 0.1 and np.abs(scores[0] - wanted_scores).max() < 5e-3


def tensors(model: onnx.ModelProto, image: np.ndarray) -> dict[str, np.ndarray]:
    """Every float tensor of an unoptimized run by its name, without batch."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    del shown.graph.output[:]
    names = [name for node in shown.graph.node for name in node.output if node.op_type != "QuantizeLinear"]
    shown.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    found = session(shown, optimized=False).run(None, {"images": image[None]})
    return {name: value[0] for name, value in zip(names, found)}


@pytest.mark.parametrize("precision", ["w8a8", "w4a8", "w4a4", "w2a2", "w1a2", "w1a1"])
@pytest.mark.parametrize("act", ["relu", "silu", "hardswish"])
def test_each_operator_of_a_qdq_model_gives_the_codes_its_graph_means(weights_of, precision, act):
    """Fed what onnxruntime fed it, it gives the nearest code, or one that the int32 bias is too coarse to tell from it."""
    graph = quantized(detector(precision, act))
    weights, image = weights_of(graph), images(1)[0]
    model = to_onnx(graph, weights, classes=CLASSES, quantize_before_curves=False)
    found = tensors(model, image)
    deployed, folded = run_passes(graph, weights)
    grids = grids_of(deployed, folded)
    real = {node.name: found.get(f"{node.name}.real", found.get(f"{node.name}.conv")) for node in deployed if node.op != "dfl_decode"}
    for node in deployed:
        if node.op in ("input", "dfl_decode"):
            continue
        wanted = evaluate(without_quantizer(node), folded, [real[name].astype(np.float64) for name in node.inputs])
        if (grid := grids.get(node.name)) is None:
            assert np.abs(wanted - real[node.name]).max() < 1e-3
        else:
            wanted = np.clip(wanted, *grid.reals()[[0, -1]])
            assert np.abs(wanted - real[node.name]).max() <= (0.501 + BIAS_STEP / 2) * grid.scale, node.name
    maps = [real[name] for name in graph.of("dfl_decode")[0].inputs]
    boxes, scores = session(model, optimized=False).run(None, {"images": image[None]})
    wanted_boxes, wanted_scores = decode(maps, (2, 4), 16, 3)
    assert np.abs(boxes[0] - wanted_boxes).max() < 1e-3 and np.abs(scores[0] - wanted_scores).max() < 1e-5


@pytest.mark.parametrize("act", ["relu", "silu"])
def test_onnxruntime_runs_the_convs_of_a_qdq_model_in_int8(tmp_path, weights_of, act):
    """Its own integer kernels round sums and requantizations their own way, and a random net carries that far; on x86 without VNNI two
    products of 8 bits saturate, too (measured: .085 of a score, 1.85 px)."""
    graph = quantized(detector("w8a8", act))
    weights = weights_of(graph)
    model = to_onnx(graph, weights, classes=CLASSES)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    ops = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert ops.count("QLinearConv") == len(graph.of("conv2d")) - 4     # all but the raw maps of two levels
    boxes, scores = session(model, optimized=True).run(None, {"images": images(1)})
    wanted_boxes, wanted_scores = meant(graph, weights, images(1)[0])
    off = 0.05 if "vnni" in CPU_FLAGS else 0.12
    assert np.abs(scores[0] - wanted_scores).mean() < off and np.abs(boxes[0] - wanted_boxes).mean() < 20 * off


def test_a_2_bit_model_has_four_values_of_weights_and_none_that_saturates(weights_of):
    graph = quantized(detector("w2a2", "relu"))
    model = to_onnx(graph, weights_of(graph), classes=CLASSES)
    codes = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer if i.name.endswith(".weight.codes")}
    narrow = [array for name, array in codes.items() if graph[name.removesuffix(".weight.codes")]["wbits"] == 2]
    assert narrow and all(array.dtype == np.int8 and set(np.unique(array)) <= {-64, -32, 0, 32, 64} for array in narrow)


def test_a_model_carries_its_metadata(weights_of):
    graph = detector("fp32", "relu")
    model = to_onnx(graph, weights_of(graph), classes=CLASSES, provenance={"seed": 7})
    properties = {p.key: json.loads(p.value) for p in model.metadata_props}
    assert properties["classes"] == list(CLASSES) and properties["strides"] == [2, 4] and properties["input_size"] == [32, 48]
    assert properties["provenance"] == {"seed": 7} and properties["preprocessing"]["color"] == "RGB"


def test_a_model_without_decoding_gives_the_raw_maps(weights_of):
    graph = detector("fp32", "relu")
    weights = weights_of(graph)
    found = session(to_onnx(graph, weights, classes=CLASSES, decode=False), optimized=True).run(None, {"images": images(1)})
    values = interpret(graph, weights, images(1)[0])
    wanted = [values[name] for name in graph.of("dfl_decode")[0].inputs]
    assert len(found) == 4 and all(np.allclose(a[0], b, atol=1e-4) for a, b in zip(found, wanted))


def test_export_writes_the_float_net_and_the_quantized_one(tmp_path, weights_of):
    graph = detector("w4a4", "relu")
    for quantize in (False, True):
        net = quantized(graph) if quantize else floated(graph)
        path = export(graph, weights_of(net), tmp_path / "net.onnx", classes=CLASSES, quantized=quantize)
        ops = {node.op_type for node in onnx.load(path).graph.node}
        assert ("QuantizeLinear" in ops) == quantize


def test_operators_outside_detectors_export_too(weights_of):
    g = Builder()
    x = conv_bn_act(g, g.input(3, 8, 8), 6, 3, act="gelu")
    y = g.add_node("mul", g.activation(g.batchnorm(x), "sigmoid"), x)
    y = g.add_node("conv_transpose2d", g.maxpool(y, 2, stride=2, padding=0), channels=6, kernel=2, stride=2)
    y = g.add_node("scale", y)
    y = g.add_node("flatten", g.add_node("global_avgpool", g.add(x, y)))
    graph = g.graph(g.add_node("linear", y, features=4, bias=True))
    weights, image = weights_of(graph), np.random.default_rng(0).uniform(size=(3, 8, 8)).astype(np.float32)
    found = session(to_onnx(graph, weights), optimized=True).run(None, {"images": image[None]})[0]
    assert np.allclose(found[0], interpret(graph, weights, image)[graph.outputs[0]], atol=1e-5)


def test_an_operator_without_an_onnx_form_is_refused_by_name(weights_of):
    g = Builder()
    graph = g.graph(g.add_node("softmax", g.input(3, 4, 4), axis=0))
    with pytest.raises(CompilerError, match=r"'softmax' \(softmax\) has no ONNX form"):
        to_onnx(graph, weights_of(graph))
