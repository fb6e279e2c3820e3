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
from searchspaces import YOLO, YOLO_BLOCKS, Graph
from searchspaces.blocks import BLOCKS, POOLINGS
from searchspaces.deploy import DeployBuilder
from searchspaces.graph import verify
from searchspaces.module import to_torch
from searchspaces.ops import WEIGHTED
from searchspaces.quantizers import floated, quantized
from searchspaces.rewrite import deployed, merge_rep
from searchspaces.yolo import DEPTHS, DOWNS, NECKS, REPEATED, STAGES, WIDTHS, bits, precisions_of

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


BLOCKS_SMALL = YOLO_BLOCKS.limited({choice.name: choice.options for choice in SMALL.choices})
LOW = ("w8a8", "w4a4", "w2a2")


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_where_all_blocks_hold_their_parts_bits_yolo_blocks_is_yolo(seed):
    arch = sampled(seed, YOLO)
    bits = {part: arch[f"{part.replace('pan', 'neck')}.precision"] for part in REPEATED}
    own = {f"{part}.block{k}.precision": bits[part] for part in REPEATED for k in DEPTHS}
    blocks = YOLO_BLOCKS.arch({**arch.genes, **own})
    assert YOLO_BLOCKS.decode(YOLO_BLOCKS.encode(blocks)) == blocks
    assert YOLO_BLOCKS.build(blocks, CLASSES) == YOLO.build(arch, CLASSES)


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_bits_of_a_block_change_no_structure_and_both_builders_agree_on_them(seed):
    arch = sampled(seed, YOLO_BLOCKS)
    graph = YOLO_BLOCKS.build(arch, CLASSES)
    plain = YOLO.build(YOLO.repair(arch.genes), CLASSES)
    assert [(n.name, n.shape) for n in graph] == [(n.name, n.shape) for n in plain]
    assert workload(graph).params == workload(plain).params and workload(graph).macs == workload(plain).macs
    deploy = deployed(quantized(graph))
    assert YOLO_BLOCKS.build(arch, CLASSES, DeployBuilder()) == deploy
    for part in ("stage1", "stage4", "head"):
        weighted = [n for n in graph if n.op in WEIGHTED and n.name.startswith(f"{part}.")]
        assert {(n["wbits"], n["abits"]) for n in weighted} <= {(8, 8), *map(bits, precisions_of(arch, part))}


@pytest.mark.parametrize("gene", [c.name for c in YOLO_BLOCKS.choices if ".block" in c.name and "precision" in c.name])
def test_every_repeat_of_a_block_has_bits_of_its_own(gene):
    base = {"resolution": 96, **{f"{part}.depth": 3 for part in REPEATED}}
    eight, two = (YOLO_BLOCKS.build(YOLO_BLOCKS.repair({**base, gene: bits}), CLASSES) for bits in ("w8a8", "w2a2"))
    changed = [n.name for n, other in zip(eight, two) if n.get("wbits") != other.get("wbits")]
    assert 2 <= len(changed) <= 4 and len({name.rpartition(".")[0] for name in changed}) == len(changed) / 2


@given(seeds)
@settings(max_examples=6, deadline=None)
def test_a_plan_of_mixed_blocks_gives_the_references_bits(seed):
    mixed = BLOCKS_SMALL.limited({c.name: LOW for c in BLOCKS_SMALL.choices if c.name.endswith(".precision")})
    graph = deployed(quantized(mixed.build(sampled(seed, mixed), CLASSES)))
    plan = lower(graph, random_weights(graph), classes=["a", "b", "c"])
    image = np.random.default_rng(seed).integers(0, 256, (3, 96, 96), dtype=np.uint8)
    for found, expected in zip(Executor(artifact.write(plan)).run([image]), reference.run(plan, [image])):
        assert np.array_equal(found, expected)
