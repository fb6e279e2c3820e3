"""AZ-NAS: its four parts by hand, the blocks they look at, and the rank that puts them together."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from proxies import PROXIES, az_nas_rank, score
from proxies.az_nas import PARTS, _component_entropy, _spectral_norm
from proxies.walk import head_inputs, run_node, trunk, walk
from searchspaces.module import to_torch


def test_the_component_entropy_of_equal_independent_channels_is_log_channels():
    torch.manual_seed(0)
    white = torch.randn(8, 5, 40, 40)
    assert _component_entropy(white) == pytest.approx(math.log(5), abs=1e-3)
    assert _component_entropy(white[:, :1].expand(8, 5, 40, 40) * torch.arange(1, 6).view(1, 5, 1, 1)) == pytest.approx(0, abs=1e-3)
    assert _component_entropy(3 + 7 * white) == pytest.approx(_component_entropy(white), abs=1e-3)


@pytest.mark.parametrize("stride", [1, 2])
def test_the_spectral_norm_of_a_linear_block_is_that_of_its_matrix(stride):
    torch.manual_seed(0)
    block = torch.nn.Conv2d(6, 4, stride, stride=stride, bias=False)
    x = torch.randn(16, 6, 64, 64, requires_grad=True)
    expected = float(torch.linalg.matrix_norm(block.weight.detach().flatten(1), 2))
    assert _spectral_norm(x, block(x), torch.Generator()) == pytest.approx(expected, rel=0.05)


def test_a_wide_block_of_few_positions_gets_more_sign_vectors():
    """512 channels at 2 x 2 positions: of one vector, noise would more than double the norm."""
    torch.manual_seed(0)
    block = torch.nn.Conv2d(512, 512, 1, bias=False)
    x = torch.randn(64, 512, 2, 2, requires_grad=True)
    expected = float(torch.linalg.matrix_norm(block.weight.detach()[:, :, 0, 0], 2))
    assert _spectral_norm(x, block(x), torch.Generator()) < 1.9 * expected


def test_expressivity_progressivity_and_trainability_are_bounded_by_what_blocks_can_do(tiny, small_probe):
    graph = tiny(width=16)
    blocks = trunk(to_torch(graph))
    found = {name: score(PROXIES[name], graph, small_probe).number() for name in PARTS}
    assert 0 < found["az_expressivity"] <= sum(math.log(graph[name].shape[0]) for name in blocks)
    assert abs(found["az_progressivity"]) < math.log(16)
    assert found["az_trainability"] <= 0  # 2 - s - 1/s is at most 0, at s = 1
    assert found["az_complexity"] == score(PROXIES["macs"], graph, small_probe).number()


def test_the_rank_of_a_population_is_the_sum_of_log_ranks_over_size():
    found = az_nas_rank({"a": np.array([1.0, 5.0, 3.0]), "b": np.array([0.1, 0.2, 0.2])})
    expected = [2 * math.log(1 / 3), math.log(3 / 3) + math.log(2.5 / 3), math.log(2 / 3) + math.log(2.5 / 3)]
    assert found == pytest.approx(expected)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=8), st.integers(0, 7))
def test_the_rank_does_not_hang_on_the_scale_of_a_proxy_and_rewards_more_of_it(rows, which):
    a, b = np.array(rows, dtype=float).T
    rank = az_nas_rank({"a": a, "b": b})
    assert az_nas_rank({"a": np.exp(a), "b": 3 * b - 7}) == pytest.approx(rank)
    better = a.copy()
    better[which % len(a)] += 20
    assert az_nas_rank({"a": better, "b": b})[which % len(a)] >= rank[which % len(a)]


def test_a_walk_of_ordinary_steps_is_the_forward_pass(tiny, small_probe):
    model = to_torch(tiny("fp32", rep=True)).eval()
    with torch.no_grad():
        boxes_and_scores = list(walk(model, small_probe.images, run_node).values())
        maps = model(small_probe.images)
    assert all(torch.equal(torch.cat(pair, 1), y) for pair, y in zip(zip(boxes_and_scores[::2], boxes_and_scores[1::2]), maps))


def test_the_landmarks_of_a_detector_are_its_trunk_and_what_its_head_reads(tiny):
    model = to_torch(tiny("fp32", rep=True))
    sides = [model.graph[name].shape[1] for name in head_inputs(model)]
    assert sides == [8, 4, 2]
    blocks = [model.graph[name] for name in trunk(model)]
    assert all(node.op in ("activation", "add") for node in blocks)
    assert [a.shape[1] >= b.shape[1] for a, b in zip(blocks, blocks[1:])] == [True] * (len(blocks) - 1)
