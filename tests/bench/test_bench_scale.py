"""Candidates are costed the fast way that a search takes; here that way is held against the long one, pass by pass."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodels import device
from hwmodels.workload import counts, workload
from nas.bench.scale import PARTS, run
from nas.candidates import Costs
from proxies.counting import counted, counted_deployed
from proxies.structure import structure, structure_of
from searchspaces import YOLO
from searchspaces.deploy import DeployBuilder
from searchspaces.graph import Graph, verify
from searchspaces.quantizers import quantized
from searchspaces.rewrite import DEPLOY, deployed, merge_rep
from searchspaces.yolo import with_precisions

SPACES = {"mixed": YOLO, "fp32": with_precisions(YOLO, ["fp32"])}


@given(st.integers(0, 2**31), st.sampled_from(sorted(SPACES)))
@settings(max_examples=40, deadline=None)
def test_deployment_in_one_sweep_is_deployment_pass_by_pass(seed, name):
    graph = SPACES[name].build(SPACES[name].sample(np.random.default_rng(seed)), 7)
    stepwise = quantized(graph)
    verify(stepwise)
    for deploy_pass in DEPLOY:
        stepwise, _ = deploy_pass(stepwise)
        verify(stepwise, after=deploy_pass.__name__)
    assert deployed(quantized(graph)) == stepwise == Graph.from_json(stepwise.to_json())


@given(st.integers(0, 2**31), st.sampled_from(sorted(SPACES)))
@settings(max_examples=60, deadline=None)
def test_a_network_built_in_deploy_form_is_the_one_that_is_deployed_from_its_training_form(seed, name):
    arch, g = SPACES[name].sample(np.random.default_rng(seed)), DeployBuilder()
    trained, built = SPACES[name].build(arch, 7), SPACES[name].build(arch, 7, g)
    assert built == deployed(quantized(trained))
    assert counted_deployed(workload(built), g.saved) == counted(trained)
    assert structure_of(built, workload(built), g.saved) == pytest.approx(structure(trained), rel=1e-12)


@given(st.integers(0, 2**31), st.sampled_from(sorted(SPACES)))
@settings(max_examples=20, deadline=None)
def test_counts_are_the_totals_of_the_workload(seed, name):
    graph = SPACES[name].build(SPACES[name].sample(np.random.default_rng(seed)), 7)
    for form in (merge_rep(graph)[0], deployed(quantized(graph))):
        few, load = counts(form), workload(form)
        assert (few.macs, few.params, few.activation_elements) == (load.macs, load.params, load.activation_elements)


def test_costing_one_candidate_after_another_changes_nothing():
    board = device.load("raspi4-edgenas")
    space, costs = with_precisions(YOLO, board.precisions), Costs(board, 7)
    archs = [space.decode(genes) for genes in space.sample_genes(np.random.default_rng(1), 12)]
    once = [dict(costs(arch)) for arch in archs]
    assert [dict(costs(arch)) for arch in reversed(archs)] == once[::-1]


def test_a_run_reports_every_part_and_memory_stays_flat():
    found = run(device.load("raspi4-edgenas"), n=300, seed=3)
    rows = {row["part"]: row["ms"] for row in found.json()["parts"]}
    assert tuple(rows) == PARTS and all(ms > 0 for ms in rows.values())
    assert found.json()["cpu_seconds"] == pytest.approx(sum(row["cpu_seconds"] for row in found.json()["parts"]))
    assert found.growth_mib < 4
    assert len(found.text().splitlines()) == len(PARTS) + 4
    assert 1e3 * found.cpu_seconds / found.candidates < 30  # 1 ms on a desktop core; the margin is for shared machines
