"""The joint space: every option of every gene gives a sound network, in training form, merged, deployed and compiled."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodels import arena, flash_bytes, workload
from hwmodels.calibrate import random_weights
from nas.compiler.lower import lower
from nas.runtime import Executor, artifact, reference
from searchspaces import YOLO, Graph
from searchspaces.blocks import BLOCKS, POOLINGS
from searchspaces.graph import verify
from searchspaces.module import to_torch
from searchspaces.ops import WEIGHTED
from searchspaces.quantizers import floated, quantized
from searchspaces.rewrite import deployed, merge_rep
from searchspaces.yolo import DOWNS, NECKS, STAGES, WIDTHS

CLASSES = 3
SMALL = YOLO.limited({"resolution": [96], "stem.width": [8], **{f"stage{s}.width": WIDTHS[s][:2] for s in STAGES}})
seeds = st.integers(0, 2**31)


def sampled(seed: int, space=SMALL):
    return space.sample(np.random.default_rng(seed))


@given(seeds)
@settings(max_examples=40, deadline=None)
def test_every_form_of_a_sample_is_sound_and_counts_the_same_multiplications(seed):
    graph = YOLO.build(sampled(seed, YOLO), CLASSES)
    merged, _ = merge_rep(graph)
    deploy = deployed(quantized(graph))
    for form in (graph, merged, quantized(merged), deploy):
        verify(form)
        assert Graph.from_json(form.to_json()) == form
    assert deploy == deployed(quantized(merged))
    assert workload(merged).macs == workload(deploy).macs <= workload(graph).macs
    assert workload(merged).activation_elements == workload(deploy).activation_elements == workload(graph).activation_elements
    left = {node.op for node in deploy}
    assert left <= {*WEIGHTED, "input", "add", "concat", "slice", "upsample", "maxpool", "quantize", "batchnorm", "scale", "dfl_decode"}
    assert arena(deploy).peak_bytes > 0 and flash_bytes(deploy) > workload(deploy).params / 8


@given(seeds)
@settings(max_examples=12, deadline=None)
def test_a_samples_plan_runs_every_operator_and_gives_the_references_bits(seed):
    graph = deployed(quantized(SMALL.build(sampled(seed), CLASSES)))
    plan = lower(graph, random_weights(graph), classes=["a", "b", "c"])
    assert {step.name for step in plan.instructions} == {op.name for op in workload(graph).ops if op.op != "input"}
    assert plan.arena_bytes == arena(graph).peak_bytes
    image = np.random.default_rng(seed).integers(0, 256, (3, 96, 96), dtype=np.uint8)
    for found, expected in zip(Executor(artifact.write(plan)).run([image]), reference.run(plan, [image])):
        assert np.array_equal(found, expected)


@given(seeds)
@settings(max_examples=8, deadline=None)
@torch.no_grad()
def test_the_module_of_a_sample_computes_what_its_merged_form_does(seed):
    torch.manual_seed(seed)
    model, images = to_torch(floated(SMALL.build(sampled(seed), CLASSES))), torch.rand(4, 3, 96, 96)
    model.train()(images)
    model.eval()
    assert sum(p.numel() for p in model.parameters()) + 16 == workload(model.graph).params
    merged = to_torch(*merge_rep(model.graph, model.weights())).eval()
    for before, after in zip(model(images), merged(images)):
        assert after.shape[1] == 64 + CLASSES and (after - before).norm() < 5e-3 * before.norm()


@pytest.mark.parametrize("choice", YOLO.choices, ids=lambda choice: choice.name)
def test_every_option_of_every_gene_builds_a_network_of_its_own(choice):
    """Where a gene matters, each of its options gives another graph."""
    base = dict(YOLO.repair({"resolution": 96}).genes)
    if choice.when:
        base[choice.when[0]] = choice.when[1][0]
    graphs = [varied(base, choice.name, option) for option in choice.options]
    assert len({graph.to_json() for graph in graphs}) == len(choice.options)


def varied(base: dict, gene: str, option: object) -> Graph:
    return YOLO.build(YOLO.arch({**base, gene: option}), CLASSES)


@pytest.mark.parametrize("neck", NECKS)
@pytest.mark.parametrize("top", [*POOLINGS, "none"])
def test_heads_read_strides_8_16_and_32_whatever_lies_below(neck, top):
    for block in BLOCKS:
        for down in DOWNS:
            genes = {"resolution": 96, "neck": neck, "top": top, "neck.block": block, "neck.down": down, "backbone.down": down}
            graph = YOLO.build(YOLO.repair(genes), CLASSES)
            assert [graph[name].shape[1:] for name in graph.of("dfl_decode")[0].inputs[::2]] == [(12, 12), (6, 6), (3, 3)]


def test_yolo7_like_and_yolo6_like_networks_are_points_of_the_space():
    seven = {"backbone.block": "elan", "backbone.down": "pool", "top": "sppcspc", "neck": "lateral_pan", "neck.block": "elan_w",
             "neck.down": "pool", "neck.out": "repvgg"}  # fmt: skip
    six = {"backbone.block": "repvgg", "backbone.down": "repvgg", "top": "csp_sppf", "neck": "bifpn", "neck.block": "repvgg"}
    ops = {name: [node.op for node in YOLO.build(YOLO.repair(genes), CLASSES)] for name, genes in (("seven", seven), ("six", six))}
    assert ops["six"].count("conv_transpose2d") == 2 and "maxpool" in ops["six"]
    assert ops["seven"].count("maxpool") == 3 + 4 + 2 and ops["seven"].count("conv_transpose2d") == 0
