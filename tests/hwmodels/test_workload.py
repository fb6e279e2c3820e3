import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodels import workload
from searchspaces import YOLO, Builder
from searchspaces.quantizers import quantized
from searchspaces.rewrite import deployed, merge_rep
from searchspaces.yolo import with_precisions

NANO = {
    "resolution": 320, "backbone.block": "c2f", "neck": "pan", "stem.width": 16,
    **{f"stage{s}.width": w for s, w in zip((1, 2, 3, 4), (32, 64, 128, 256))},
    **{f"stage{s}.depth": d for s, d in zip((1, 2, 3, 4), (1, 2, 2, 1))},
    "head.box": 64, "head.cls": 64, **{f"{part}.act": "silu" for part in ("stem", "stage1", "stage2", "stage3", "stage4", "neck", "head")},
}  # fmt: skip


def test_yolov8n_has_its_published_parameters_and_multiply_accumulates():
    arch = YOLO.repair(NANO)
    assert workload(YOLO.build(arch, 80)).params == 3_157_200
    assert workload(YOLO.build(arch, 20)).macs == 1_012_761_600
    assert workload(YOLO.build(arch, 20)).activation_elements == {"silu": 3_404_800, "none": 84 * (40**2 + 20**2 + 10**2)}


@given(st.integers(0, 2**31))
@settings(max_examples=15, deadline=None)
def test_deployment_changes_bytes_but_neither_macs_nor_activation_elements_of_the_merged_net(seed):
    graph, _ = merge_rep(YOLO.build(YOLO.sample(np.random.default_rng(seed)), 7))
    before, after = workload(graph), workload(deployed(quantized(graph)))
    assert before.macs == after.macs == sum(op.macs for op in after.ops)
    assert before.activation_elements == after.activation_elements
    assert after.bytes_moved < before.bytes_moved / 2  # codes instead of floats, and fused operators move nothing


def test_rep_branches_count_their_activation_elements_once():
    from searchspaces.blocks import repvgg

    g = Builder()
    y = repvgg(g, g.input(8, 10, 10), 8)
    bare = g.batchnorm(g.conv2d(y, 4, 1))
    graph = g.graph(bare)
    assert workload(graph).activation_elements == workload(deployed(graph)).activation_elements == {"relu": 800, "none": 400}


def test_bytes_are_counted_by_hand_on_a_small_quantized_net():
    g = Builder()
    with g.precision(4, 8):
        x = g.activation(g.conv2d(g.input(3, 8, 8), 10, 3, stride=2, bias=True), "relu")
        y = g.activation(g.conv2d(x, 8, 1, bias=True), "relu")
        both = g.concat(y, g.activation(g.conv2d(x, 6, 1, bias=True), "relu"))
        end = g.conv2d(both, 5, 1, bias=True)
    ops = {op.name: op for op in workload(deployed(quantized(g.graph(end)))).ops}
    stem = ops["conv2d"]
    assert (stem.precision, stem.bytes_in, stem.bytes_out) == ("w4a8", 4 * 64, 12 * 16)  # channels in groups of four
    assert stem.bytes_weights == 10 * 14  # 27 codes of 4 bits: 13.5 bytes, a row is whole bytes
    assert stem.bytes_moved == 4 * 64 + 12 * 16 + 140
    assert (ops["concat"].bytes_in, ops["concat"].bytes_moved) == (16 * 16, 0)  # both pieces lie in place
    assert stem.params == 280 and stem.macs == 10 * 16 * 27


def test_a_three_hundred_node_graph_is_counted_in_about_a_millisecond():
    arch = YOLO.repair({**NANO, **{f"stage{s}.depth": 3 for s in (1, 2, 3, 4)}, "neck.depth": 3, "pan.depth": 3, "backbone.block": "csp"})
    spent = []
    for _ in range(5):
        graph = YOLO.build(arch, 20)
        start = time.process_time()
        workload(graph)
        spent.append(time.process_time() - start)
    assert len(graph.nodes) > 290
    assert min(spent) < 0.02  # 1.7 ms on an idle desktop core; the margin is for shared machines


@pytest.mark.parametrize("precision", ["w8a8", "w2a2", "fp32"])
def test_every_operator_names_its_precision_as_devices_price_it(precision):
    space = with_precisions(YOLO, [precision])
    graph = deployed(quantized(space.build(space.sample(np.random.default_rng(0)), 3)))
    found = {op.precision for op in workload(graph).ops if op.op == "conv2d"}
    assert found == {"w8a8", precision} if precision != "fp32" else found == {"fp32"}
