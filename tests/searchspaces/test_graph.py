import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodels.workload import workload
from searchspaces import YOLO, Builder, Graph, GraphError, verify
from searchspaces.ops import OPS
from searchspaces.quantizers import floated, quantized
from searchspaces.rewrite import deployed

PARTS = ("stage1", "stage2", "stage3", "stage4", "neck", "head")
YOLOV8N = {
    "resolution": 320, "backbone.block": "c2f", "neck": "pan", "stem.width": 16, "stem.act": "silu",
    **{f"stage{s}.width": w for s, w in zip((1, 2, 3, 4), (32, 64, 128, 256))},
    **{f"stage{s}.depth": d for s, d in zip((1, 2, 3, 4), (1, 2, 2, 1))},
    **{f"stage{s}.act": "silu" for s in (1, 2, 3, 4)},
    "neck.depth": 1, "pan.depth": 1, "neck.act": "silu", "head.box": 64, "head.cls": 64, "head.act": "silu",
}  # fmt: skip


def archs():
    return st.integers(0, 2**31).map(lambda seed: YOLO.sample(np.random.default_rng(seed)))


@pytest.mark.parametrize(("classes", "params"), [(80, 3_157_200), (20, 3_014_748)])
def test_yolov8n_is_a_point_of_the_space_and_has_its_published_parameters(classes, params):
    graph = YOLO.build(YOLO.repair(YOLOV8N), classes)
    assert workload(graph).params == params


def test_yolov8n_counts_its_published_multiply_accumulates_in_both_forms():
    graph = YOLO.build(YOLO.repair(YOLOV8N), 20)
    assert workload(graph).macs == workload(deployed(graph)).macs == 1_012_761_600


@given(archs())
@settings(max_examples=30, deadline=None)
def test_a_graph_survives_json_and_every_form_of_it_verifies(arch):
    graph = YOLO.build(arch, 3)
    for form in (graph, floated(graph), quantized(graph), deployed(quantized(graph))):
        verify(form)
        assert Graph.from_json(form.to_json()) == form


@given(archs())
@settings(max_examples=30, deadline=None)
def test_every_conv_of_the_deployed_net_reads_codes_of_the_bits_of_its_gene(arch):
    deploy = deployed(quantized(YOLO.build(arch, 3)))
    for conv in deploy.of("conv2d"):
        part = conv.name.split(".")[0]
        last = conv.get("out_bits") is None
        wanted = "w8a8" if part == "stem" or last else arch[f"{part}.precision"]
        assert deploy.precision(conv) == wanted, conv.name


@given(archs())
@settings(max_examples=30, deadline=None)
def test_tensors_that_meet_in_a_concat_share_one_quantizer(arch):
    deploy = deployed(quantized(YOLO.build(arch, 3)))

    def grid(name):
        node = deploy[name]
        while "quant" not in node.attrs and node.op != "quantize":
            node = deploy[node.inputs[0]]
        return node.get("quant") or node["group"]

    for concat in deploy.of("concat"):
        assert len({grid(name) for name in concat.inputs}) == 1


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda d: d["nodes"][3].__setitem__(2, ["ghost"]), "ghost"),
        (lambda d: d["nodes"][1].__setitem__(1, "conv9d"), "conv9d"),
        (lambda d: d["nodes"][1][3].__setitem__("kernel", -3), "stem.conv2d"),
        (lambda d: d["nodes"][1][3].__setitem__("wbits", 5), "wbits=5"),
        (lambda d: d["nodes"][1][3].pop("channels"), "channels"),
        (lambda d: d.__setitem__("outputs", ["nowhere"]), "nowhere"),
        (lambda d: d.__setitem__("outputs", []), "no outputs"),
        (lambda d: d.__setitem__("edgenas_graph", 99), "99"),
    ],
)
def test_a_broken_graph_is_refused_by_name(spoil, says):
    data = json.loads(YOLO.build(YOLO.repair(YOLOV8N), 3).to_json())
    spoil(data)
    with pytest.raises(GraphError, match=says):
        Graph.from_json(json.dumps(data))


JSONS = st.recursive(st.none() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3)).map(json.dumps)


@given(st.text(max_size=40) | JSONS)
@settings(max_examples=50, deadline=None)
def test_any_text_that_is_no_graph_raises_a_graph_error(text):
    with pytest.raises(GraphError):
        Graph.from_json(text)


def test_a_builder_names_the_node_that_does_not_fit():
    g = Builder()
    x, y = g.input(3, 32, 32), g.add_node("input", size=(3, 16, 16))
    with g.scope("neck"), pytest.raises(GraphError, match=r"neck.concat.*different size"):
        g.concat(x, y)


def test_every_operator_with_multiply_accumulates_has_weights_or_reads_two_tensors():
    weighted = {name for name, op in OPS.items() if "channels" in op.required or "features" in op.required}
    assert weighted == {"conv2d", "conv_transpose2d", "linear"}
