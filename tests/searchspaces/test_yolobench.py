import csv
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hwmodels import workload
from searchspaces import Graph, GraphError
from searchspaces import yolobench as yb
from searchspaces.module import to_torch
from searchspaces.rewrite import DEPLOY, deployed

TABLES = Path(__file__).resolve().parents[2] / "../shared/data/yolobench"
# At 320 px and 20 classes: parameters in training form and MACs in deploy form, as the benchmark's own networks give them.
COUNTS = {
    "yolo3n": (3.082e6, 1.104e9), "yolo4n": (3.037e6, 1.022e9), "yolo5n": (2.512e6, 0.885e9), "yolo6s-d33w25": (4.977e6, 1.498e9),
    "yolo6m-d33w25": (2.965e6, 0.951e9), "yolo6l-d33w25": (2.087e6, 0.733e9), "yolo7n": (3.087e6, 1.194e9), "yolo8n": (3.015e6, 1.013e9),
}  # fmt: skip


def test_the_names_are_those_of_the_tables_in_their_order():
    if not TABLES.is_dir():
        pytest.skip("the YOLOBench tables are not here")
    for table in ("YOLO_latency.csv", "VOC_scratch_100epochs.csv"):
        with open(TABLES / table, newline="", encoding="utf-8") as lines:
            assert tuple(row["model_name"] for row in csv.DictReader(lines)) == yb.names()


def test_there_are_968_names_of_88_architectures():
    assert (len(yb.names()), len(yb.architectures())) == (968, 88)
    assert [sum(yb.parse(a).family == family for a in yb.architectures()) for family in yb.FAMILIES] == [12, 12, 12, 12, 12, 12, 4, 12]
    assert yb.parse("yolo5d33w75_352") == yb.Name("yolo5", 0.33, 0.75, 352)
    assert yb.parse("yolo6s-d6w1") == yb.Name("yolo6s", 0.6, 1.0, 320)
    for name in yb.names():
        yb.check(name)


@pytest.mark.parametrize(
    ("name", "says"),
    [("yolo8x_320", "near it: yolo8s"), ("yolo8n_321", "'321' is not one of 160, 192"), ("yolo8n", "as in 'yolo8n_320'"), ("yolo8n_", "''"),
     ("resnet50_224", "families: yolo3, yolo4"), ("yolo5d33w25_320", "unknown architecture 'yolo5d33w25'"), ("", "families"),
     ("yolo8n_0320", "'0320'"), ("yolo8n_320_320", "'320_320'")],
)  # fmt: skip
def test_a_name_that_is_not_in_the_tables_is_refused_with_what_would_work(name, says):
    with pytest.raises(GraphError, match=says):
        yb.check(name)


def test_a_detector_has_a_class_at_least():
    with pytest.raises(GraphError, match="0 classes"):
        yb.build("yolo8n", 0)


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_and_macs_are_the_benchmarks_to_the_last_digit_printed(name):
    params, macs = COUNTS[name]
    train, deploy = workload(yb.build(name)), workload(yb.build(name, deploy=True))
    assert round(train.params, -3) == params and round(deploy.macs, -6) == macs
    assert train.activation_elements == deploy.activation_elements


@pytest.mark.parametrize("name", COUNTS)
@torch.no_grad()
def test_torch_counts_the_same_macs_and_parameters(name):
    deploy, train = (to_torch(yb.build(f"{name}_160", deploy=deploy)).eval() for deploy in (True, False))
    with FlopCounterMode(display=False) as counter:
        deploy(torch.rand(1, 3, 160, 160))
    assert counter.get_total_flops() == 2 * workload(deploy.graph).macs
    assert sum(p.numel() for p in train.parameters()) + 16 == workload(train.graph).params  # 16: the projection of DFL is a constant


@pytest.mark.parametrize(("letter", "params"), zip("nsml", (3_157_200, 11_166_560, 25_902_640, 43_691_520)))
def test_yolov8_at_80_classes_has_the_published_parameters(letter, params):
    assert workload(yb.build(f"yolo8{letter}", 80)).params == params


@pytest.mark.parametrize(("letter", "params"), zip("nsm", (2_654_816, 9_153_152, 25_111_456)))
def test_yolov5_at_80_classes_has_the_published_parameters_of_its_anchor_free_form(letter, params):
    assert workload(yb.build(f"yolo5{letter}", 80)).params == params


def test_yolov8n_has_the_published_macs_at_480():
    assert workload(yb.build("yolo8n_480", deploy=True)).macs == 2_278_713_600


@pytest.mark.parametrize("architecture", yb.architectures())
def test_macs_grow_with_the_square_of_the_resolution_and_parameters_not_at_all(architecture):
    small, large = (yb.build(f"{architecture}_{r}", deploy=True) for r in (160, 320))
    assert workload(large).macs == 4 * workload(small).macs and workload(large).params == workload(small).params
    assert [node["strides"] for node in small.of("dfl_decode")] == [(8, 16, 32)]


def test_depth_has_no_effect_on_yolo7():
    first, second = (yb.detector(yb.Name("yolo7", depth, 0.25, 160), 20) for depth in (0.33, 1.0))
    assert first == second


def calls(graph: Graph, kind: str) -> int:
    return sum(node["kind"] == kind for node in graph.of("activation"))


def test_yolo6_is_relu_and_its_large_form_silu_outside_neck_and_head():
    assert calls(yb.build("yolo6s-d33w25"), "silu") == calls(yb.build("yolo6m-d33w25"), "silu") == 0
    large = yb.build("yolo6l-d33w25")
    assert calls(large, "relu") == 24
    assert {node["kind"] for node in large.of("activation") if node.name.startswith("stage")} == {"silu"}
    assert calls(yb.build("yolo7n"), "relu") == 0


def test_yolo6m_has_hidden_widths_of_two_thirds():
    widths = {node["channels"] for node in yb.build("yolo6m-d33w5", deploy=True).of("conv2d") if node["kernel"] == 3}
    assert {42, 85, 170, 341} <= widths


def tiny(family: str) -> Graph:
    """A whole detector of the family, thin and at 64 px; deep enough for two repeats a stage."""
    return yb.detector(yb.Name(family, 0.67, 0.0625, 64), 3)


@pytest.mark.parametrize("family", yb.FAMILIES)
@torch.no_grad()
def test_the_deploy_form_of_every_family_computes_what_its_training_form_does(family):
    torch.manual_seed(0)
    model, images = to_torch(tiny(family)), torch.rand(4, 3, 64, 64)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
        norm.weight *= torch.where(torch.rand(len(norm.weight)) < 0.25, -1, 1)
        torch.nn.init.normal_(norm.bias, 0.0, 0.5)
        norm.momentum = 1.0
    model.train()(images)  # statistics as after training, so that every layer matters
    model.eval()
    assert sum(p.numel() for p in model.parameters()) + 16 == workload(model.graph).params
    net = model.graph, model.weights()
    for step in DEPLOY:
        net = step(*net)
        for before, after in zip(model(images), to_torch(*net).eval()(images)):
            assert (after - before).norm() < 5e-3 * before.norm(), step.__name__  # sixty float32 layers amplify rounding
    assert net[0] == deployed(model.graph)
    assert not net[0].of("activation") and not any(node.get("rep") for node in net[0])
