"""The arena is replayed byte by byte: every operator must find in memory what was computed for it."""

import sys
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodels.errors import DeviceError
from hwmodels.layout import ON_HOST, planner
from hwmodels.memory import ALIGNMENT, Part, arena, place
from searchspaces import YOLO, Builder, Graph
from searchspaces.graph import verify
from searchspaces.quantizers import quantized
from searchspaces.rewrite import DEPLOY, deployed
from searchspaces.yolo import with_precisions


def replay(graph: Graph) -> tuple[int, list[str]]:
    """Runs a graph on numbered bytes in its arena: how many inputs of concats and slices had to be copied, and every tensor that was not
    what it should be.

    A tensor is (groups, bytes of a group): four channels for codes, one for floats.  Only lanes that hold a channel are compared.
    """
    plan = arena(graph)
    memory = np.zeros(plan.peak_bytes, dtype=np.int64)
    channels: dict[str, np.ndarray] = {}  # (C, pixels, bytes of an element)
    fresh, copies = 1, 0
    broken: list[str] = []

    def view(name: str) -> np.ndarray:
        c, codes = graph[name].shape[0], graph.code_bits[name] < 32
        raw = memory[plan.offsets[name] : plan.offsets[name] + plan.sizes[name]]
        if not codes:
            return raw.reshape(c, -1, 4)
        return raw.reshape(-1, len(raw) // (-(-c // 4) * 4), 4).transpose(0, 2, 1).reshape(-(-c // 4) * 4, -1, 1)[:c]

    def write(name: str, value: np.ndarray, first: int = 0, last: int = 10**6) -> None:
        """Channels first..last, groups taken whole; what pads the last group is written too."""
        c, codes = len(value), graph.code_bits[name] < 32
        raw = memory[plan.offsets[name] : plan.offsets[name] + plan.sizes[name]]
        if codes:
            padded = np.full((-(-c // 4) * 4, *value.shape[1:]), -1, dtype=np.int64)
            padded[:c] = value
            grouped = padded.reshape(-1, 4, value.shape[1]).transpose(0, 2, 1).reshape(len(padded) // 4, -1)
            groups = slice(first // 4, -(-last // 4))
            raw.reshape(grouped.shape)[groups] = grouped[groups]
        else:
            raw.reshape(c, -1)[first:last] = value.reshape(c, -1)[first:last]

    for node in graph.nodes:
        for name in node.inputs:
            broken += [] if np.array_equal(view(name), channels[name]) else [f"{node.name} finds {name} destroyed"]
        if node.op in ON_HOST:
            continue
        read = [channels[name] for name in node.inputs]
        if node.op == "concat":
            channels[node.name] = np.concatenate(read)
        elif node.op == "slice":
            channels[node.name] = read[0][node["start"] : node["stop"]]
        else:
            element = 1 if graph.code_bits[node.name] < 32 else 4
            size = int(np.prod(node.shape)) * element
            channels[node.name] = np.arange(fresh, fresh + size).reshape(node.shape[0], -1, element)
            fresh += size
        shared = plan.aliases.get(node.name, ())
        if node.op == "concat":
            first = 0
            for name, value in zip(node.inputs, read):
                if name not in shared:
                    write(node.name, channels[node.name], first, first + len(value))
                    copies += 1
                first += len(value)
        elif node.op != "slice" or not shared:
            write(node.name, channels[node.name])
            copies += node.op == "slice"
        broken += [] if np.array_equal(view(node.name), channels[node.name]) else [f"{node.name} is not what its inputs make it"]
    broken += [f"output {name}" for name in graph.outputs if name in channels and not np.array_equal(view(name), channels[name])]
    return copies, broken


@given(st.integers(0, 2**31), st.booleans())
@settings(max_examples=12, deadline=None)
def test_a_yolo_net_finds_all_its_tensors_intact_and_copies_nothing(seed, quantize):
    space = (YOLO if quantize else with_precisions(YOLO, ["fp32"])).limited({"resolution": [96]})
    assert replay(deployed(quantized(space.build(space.sample(np.random.default_rng(seed)), 3)))) == (0, [])


@st.composite
def tangles(draw):
    """Random graphs of convs, slices, sums and concats on odd channel counts, where not every alias is allowed."""
    g = Builder()
    with g.precision(8, 8) if draw(st.booleans()) else g.precision(32, 32):
        names = [g.activation(g.conv2d(g.input(3, 2, 2), draw(st.integers(4, 12)), 1, bias=True), "relu")]
        for _ in range(draw(st.integers(3, 9))):
            x = draw(st.sampled_from(names))
            op = draw(st.sampled_from(["conv", "slice", "concat", "concat", "add", "maxpool"]))
            c = g.channels(x)
            if op == "conv":
                names.append(g.activation(g.conv2d(x, draw(st.integers(1, 12)), 1, bias=True), "relu"))
            elif op == "slice" and c > 1:
                start = draw(st.integers(0, c - 1))
                names.append(g.slice(x, start, draw(st.integers(start + 1, c))))
            elif op == "concat":
                names.append(g.concat(x, *draw(st.lists(st.sampled_from(names), min_size=1, max_size=3))))
            elif op == "add":
                same = [name for name in names if g.channels(name) == c]
                names.append(g.add(x, draw(st.sampled_from(same))))
            else:
                names.append(g.maxpool(x, 3))
        last = g.conv2d(names[-1], 4, 1, bias=True)
    return g.graph(last, *draw(st.lists(st.sampled_from(names), max_size=2)))


@given(tangles())
@settings(max_examples=100, deadline=None)
def test_a_tangle_is_deployed_in_one_sweep_as_pass_by_pass(graph):
    stepwise = quantized(graph)
    for deploy_pass in DEPLOY:
        stepwise, _ = deploy_pass(stepwise)
        verify(stepwise, after=deploy_pass.__name__)
    assert deployed(quantized(graph)) == stepwise


@given(tangles())
@settings(max_examples=150, deadline=None)
def test_any_tangle_of_slices_and_concats_finds_its_tensors_intact(graph):
    assert replay(graph)[1] == replay(deployed(quantized(graph)))[1] == []


def test_the_slices_of_a_c2f_and_its_bottlenecks_lie_in_the_concat():
    space = YOLO.limited({"backbone.block": ["c2f"], "resolution": [96]})
    graph = deployed(quantized(space.build(space.sample(np.random.default_rng(3)), 3)))
    plan = arena(graph)
    assert all(set(plan.aliases[concat.name]) == set(concat.inputs) for concat in graph.of("concat"))
    assert all(plan.aliases[part.name] == part.inputs for part in graph.of("slice"))


def test_a_misaligned_piece_is_copied_and_so_named():
    g = Builder()
    with g.precision(8, 8):
        x = g.activation(g.conv2d(g.input(3, 4, 4), 6, 1, bias=True), "relu")
        y = g.activation(g.conv2d(x, 8, 1, bias=True), "relu")
        z = g.activation(g.conv2d(x, 4, 1, bias=True), "relu")
        graph = deployed(quantized(g.graph(g.conv2d(g.concat(z, x, y), 4, 1, bias=True))))
    concat = graph.of("concat")[0]
    assert arena(graph).aliases[concat.name] == (concat.inputs[0],)  # 4 channels in place; 6 cut a group, and 8 start inside one


def test_the_peak_of_yolo_nets_is_the_live_set_for_most_and_near_it_for_all():
    rng = np.random.default_rng(0)
    plans = [arena(deployed(quantized(YOLO.build(YOLO.sample(rng), 10)))) for _ in range(300)]
    excess = np.array([plan.peak_bytes / plan.bound_bytes for plan in plans])
    assert (excess >= 1).all() and excess.max() < 1.12
    assert (excess <= 1.001).mean() >= 0.98 and (excess == 1).mean() >= 0.8


@st.composite
def puzzles(draw):
    n = draw(st.integers(1, 5))
    blocks = []
    for _ in range(n):
        birth = draw(st.integers(0, 6))
        size = draw(st.integers(1, 6)) * ALIGNMENT
        parts = [(0, size, birth, birth + draw(st.integers(0, 4)))]
        if draw(st.booleans()):
            parts.append((size, size + ALIGNMENT * draw(st.integers(1, 3)), birth + draw(st.integers(0, 3)), birth + 4))
        blocks.append(parts)
    return blocks


def best_by_brute_force(blocks: list[list[Part]]) -> int:
    """First fit over every order; some order gives an optimum, since an optimal plan can be pushed down block by block."""
    best = 10**9
    for order in permutations(range(len(blocks))):
        starts: dict[int, int] = {}
        for i in order:
            candidates = (s for s in range(0, 10**6, ALIGNMENT) if not any(overlap(blocks[i], s, blocks[j], starts[j]) for j in starts))
            starts[i] = next(candidates)
        best = min(best, max(starts[i] + size(blocks[i]) for i in starts))
    return best


def overlap(a: list[Part], at: int, b: list[Part], bt: int) -> bool:
    return any(
        low + at < high2 + bt and low2 + bt < high + at and birth <= death2 and birth2 <= death
        for low, high, birth, death in a
        for low2, high2, birth2, death2 in b
    )


def size(parts: list[Part]) -> int:
    return max(high for _, high, _, _ in parts)


def alive(blocks: list[list[Part]], step: int) -> int:
    return sum(high - low for parts in blocks for low, high, birth, death in parts if birth <= step <= death)


@given(puzzles())
@settings(max_examples=150, deadline=None)
def test_small_arenas_are_placed_as_brute_force_would(blocks):
    starts, bound = place(blocks)
    assert all(start % ALIGNMENT == 0 and start >= 0 for start in starts)
    assert not any(overlap(blocks[i], starts[i], blocks[j], starts[j]) for i in range(len(blocks)) for j in range(i))
    peak = max(start + size(block) for start, block in zip(starts, blocks))
    assert bound == max(alive(blocks, step) for step in range(20))
    assert bound <= peak == best_by_brute_force(blocks)


@pytest.mark.parametrize(
    ("nodes", "outputs", "says"),
    [
        ([1, 0, 4, 3], [], "cut off"),
        ([9, 0, 4, 3, 0, 0], [], "kind is unknown"),
        ([1, 0, 4, 3, 0, 1, 0], [], "reads node 0"),
        ([1, 0, 4, 3, 0, 0], [1], "no node 1"),
        ([1, 0, 4, 3, 0, 0, 2, 0, 4, 3, 0, 0, 3, 0, 4, 3, 0, 2, 0, 1], [], "a view reads one tensor"),
    ],
)
def test_the_planner_refuses_nodes_that_are_no_graph(nodes, outputs, says):
    with pytest.raises(ValueError, match=says):
        planner().Layout(nodes, outputs)


def test_without_the_planner_an_arena_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "hwmodels._planner", None)
    planner.cache_clear()
    try:
        with pytest.raises(DeviceError, match="pip install -e"):
            place([])
    finally:
        planner.cache_clear()
