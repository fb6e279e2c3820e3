"""Plans against the float64 meaning of their graphs, and the executor against the numpy reference."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import nas.compiler as compiler
from hwmodels.memory import arena
from nas.bench.networks import CLASSES as BENCHED
from nas.bench.networks import yolov8n
from nas.compiler import CompilerError, run_passes
from nas.compiler.grids import Grid
from nas.compiler.interpret import evaluate, without_quantizer
from nas.compiler.requant import table_error
from nas.runtime import Executor, artifact, decode, reference
from nas.runtime.plan import Plan
from searchspaces import Builder, Graph, Weights, yolobench
from searchspaces.blocks import BLOCKS, conv_bn_act, repvgg, sppf
from searchspaces.heads import yolov8_head
from searchspaces.module import to_torch
from searchspaces.ops import ACTIVATION_BITS, ACTIVATIONS, NARROW_BITS, WEIGHTED
from searchspaces.quantizers import quantized
from searchspaces.rewrite import merge_rep
from searchspaces.yolo import ACTS, PRECISIONS, bits

CLASSES = ("a", "b", "c")
SIZE = 32


def detector(block: str, acts: list[str], precisions: list[str], widths: list[int], shortcut: bool) -> Graph:
    """A merged detector of the yolo space's blocks at 32 px: strides 2, 4 and 8, one precision and activation a part."""
    g = Builder()
    edge = 32 if precisions[0] == "fp32" else 8
    with g.precision(edge, edge):
        x = conv_bn_act(g, g.input(3, SIZE, SIZE), widths[0], 3, stride=2, act=acts[0])
    levels: list[str] = []
    for part in range(3):
        with g.scope(f"stage{part}"), g.precision(*bits(precisions[part])):
            if part:
                x = conv_bn_act(g, x, widths[part], 3, stride=2, act=acts[part])
            x = BLOCKS[block](g, x, widths[part], 1, act=acts[part], shortcut=shortcut)
            if part == 2:
                x = sppf(g, x, widths[part], act=acts[part])
            levels.append(x)
    with g.scope("neck"), g.precision(*bits(precisions[3])):
        up = g.concat(g.upsample(levels[2]), levels[1])
        levels[1] = BLOCKS[block](g, up, widths[1], 1, act=acts[3], shortcut=False)
    with g.scope("head"), g.precision(*bits(precisions[4])):
        decoded = yolov8_head(g, levels, len(CLASSES), act=acts[4], box_width=8, class_width=8, strides=(2, 4, 8), last_bits=edge)
    return merge_rep(g.graph(decoded))[0]


def real_values(plan: Plan, image: np.ndarray) -> dict[str, np.ndarray]:
    """What each tensor of a run stands for, by name."""
    trace = reference.trace(plan, [image])
    return {t.name: trace[k].astype(np.float64) if t.dtype == "f32" else t.scale * (trace[k].astype(np.float64) - t.zero_point)
            for k, t in enumerate(plan.tensors)}


def plan_has_float_operators(plan: Plan) -> bool:
    """Whether some instruction reads floats, which engines add up in any order."""
    return any(plan.tensors[t].dtype == "f32" for i in plan.instructions for t in i.inputs)


def check(graph: Graph, weights: Weights, image: np.ndarray, classes: tuple[str, ...] = (), rounding: float = 1e-4) -> Plan:
    """Each instruction, fed what the plan fed it, gives the nearest code of the real arithmetic, or where a table stands for a curve
    one within its table's error; floats to rounding.  The executor gives the reference's bits, or floats within `rounding` of the largest.
    """
    plan = compiler.compile(graph, weights, classes=classes)
    deployed, folded = run_passes(graph, weights)
    real, tensors = real_values(plan, image), {t.name: t for t in plan.tensors}
    curves = {i.name for i in plan.instructions if i.requant is not None and i.requant.kind == "table"}
    for node in deployed:
        if node.name not in real or node.op in ("input", "dfl_decode"):
            continue
        inputs = [real[name if name in real else deployed[name].inputs[0]].reshape(deployed[name].shape) for name in node.inputs]
        wanted, found, tensor = evaluate(without_quantizer(node), folded, inputs), real[node.name], tensors[node.name]
        if tensor.dtype == "u8":
            lowest = -tensor.scale * tensor.zero_point
            wanted = np.clip(wanted, lowest, lowest + tensor.scale * (2**tensor.bits - 1))
            curve = table_error(node["act"], Grid(tensor.bits, tensor.scale, tensor.zero_point)) if node.name in curves else 0.0
            slack = tensor.scale * (0.501 + curve)
        else:
            slack = 1e-5 * max(1.0, np.abs(wanted).max())
        assert np.abs(wanted.reshape(found.shape) - found).max() <= slack, (node.name, node.op)
    expected = reference.run(plan, [image])
    for variant in ("", "reference"):
        found = Executor(artifact.write(plan), variant).run([image])
        for a, b in zip(found, expected):
            exact = image.dtype == np.uint8 and not plan_has_float_operators(plan)
            assert a.dtype == b.dtype and (np.array_equal(a, b) if exact else np.abs(a - b).max() < rounding * np.abs(b).max())
    return plan


def photo(seed: int = 5, size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (3, size, size), dtype=np.uint8)


PARTS = st.lists(st.sampled_from(PRECISIONS), min_size=5, max_size=5)


@settings(max_examples=16, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    block=st.sampled_from(sorted(BLOCKS)), acts=st.lists(st.sampled_from(ACTS), min_size=5, max_size=5), shortcut=st.booleans(),
    precisions=PARTS, widths=st.lists(st.sampled_from([4, 8, 12, 20]), min_size=3, max_size=3), seed=st.integers(0, 99),
)  # fmt: skip
def test_mixed_precision_detectors_compute_what_their_graphs_mean(weights_of, block, acts, precisions, widths, shortcut, seed):
    graph = quantized(detector(block, acts, precisions, widths, shortcut))
    check(graph, weights_of(graph, seed), photo(seed), CLASSES)


@pytest.mark.parametrize("act", ["relu", "silu"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_computes_what_its_graph_means(weights_of, precision, act):
    graph = quantized(detector("c2f", [act] * 5, [precision] * 5, [8, 12, 8], True))
    plan = check(graph, weights_of(graph), photo(), CLASSES)
    kinds = {i.requant.kind for i in plan.instructions if i.op == "conv2d" and i.requant}
    low = bits(precision)[1] <= (4 if act == "silu" else 2)  # a clip of 3 bits and more is linear
    assert ("table" in kinds) == (act == "silu") and "float" in kinds and ("threshold" in kinds) == low


@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("width", ACTIVATION_BITS)
def test_every_activation_computes_what_its_graph_means_at_every_width(weights_of, width, act):
    """Behind a conv, behind a sum, and alone, where another reader keeps it from being fused."""
    g = Builder()
    with g.precision(width, width):
        x = conv_bn_act(g, g.input(3, 8, 8), 6, 3, stride=1, act=act)
        y = g.activation(g.add(x, conv_bn_act(g, x, 6, act=act)), act)
        z = g.activation(y, act)
        graph = quantized(g.graph(g.conv2d(g.concat(y, z), 4, bias=True)))
    check(graph, weights_of(graph), photo(size=8))


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("width", [width for width in ACTIVATION_BITS if width <= NARROW_BITS])
def test_codes_of_few_bits_are_those_of_the_torch_module(weights_of, width, act):
    """One that differs would move the sums of the last layer, which are compared, by a step of a weight."""
    g = Builder()
    with g.precision(8, 8):
        x = conv_bn_act(g, g.input(3, SIZE, SIZE), 8, 3, stride=2, act=act)
    with g.precision(width, width):
        y = g.add(x, conv_bn_act(g, conv_bn_act(g, x, 8, 3, act=act), 8, 3, act=act))
        z = conv_bn_act(g, g.concat(x, y), 16, 3, act=act)
        graph = quantized(g.graph(g.conv2d(z, 4, bias=True)))
    for seed in range(3):
        weights, image = weights_of(graph, seed), photo(seed)
        (found,) = Executor(artifact.write(compiler.compile(graph, weights))).run([image])
        with torch.no_grad():
            (wanted,) = to_torch(graph, weights).eval()(torch.from_numpy(image)[None].float() / 255)
        assert len(np.unique(found)) > 4 and np.abs(found - wanted[0].numpy()).max() <= 1e-5 * np.abs(found).max()


@pytest.mark.parametrize("block", sorted(BLOCKS))
def test_float_detectors_compute_what_their_graphs_mean(weights_of, block):
    graph = detector(block, ["silu", "hardswish", "relu", "leaky_relu", "relu6"], ["fp32"] * 5, [8, 12, 8], True)
    plan = check(graph, weights_of(graph), np.random.default_rng(2).uniform(size=(3, SIZE, SIZE)).astype(np.float32), CLASSES)
    assert {t.dtype for t in plan.tensors} == {"f32"}


def test_a_compiled_detector_ends_in_boxes(weights_of):
    graph = quantized(detector("c2f", ["relu"] * 5, ["w4a4"] * 5, [8, 12, 8], True))
    plan = compiler.compile(graph, weights_of(graph), classes=CLASSES)
    assert (plan.metadata.classes, plan.metadata.strides, plan.metadata.input_size) == (CLASSES, (2, 4, 8), (SIZE, SIZE))
    boxes, scores = Executor(artifact.write(plan)).decoded(photo())
    wanted_boxes, wanted_scores = decode(reference.run(plan, [photo()]), (2, 4, 8), 16, len(CLASSES))
    assert np.array_equal(boxes, wanted_boxes) and np.array_equal(scores, wanted_scores)


def classifier(weights: int, activations: int) -> Graph:
    """Every operator that detectors of the yolo space leave out and the runtime has."""
    g = Builder()
    with g.precision(weights, activations):
        x = conv_bn_act(g, g.input(3, 16, 16), 6, 3, stride=2, act="relu6")
        x = repvgg(g, x, 6) if weights == 32 else x
        gate = g.activation(g.add_node("global_avgpool", x), "sigmoid")
        scaled = g.add_node("scale", g.activation(g.batchnorm(x), "hardswish"))
        up = g.add_node("conv_transpose2d", g.maxpool(g.add(x, scaled), 2, stride=2, padding=0), channels=6, kernel=2, stride=2, bias=True)
        x = g.add_node("mul", g.activation(g.batchnorm(up), "gelu"), x)
        x = g.add_node("flatten", g.add_node("global_avgpool", conv_bn_act(g, x, 9, 3, act="silu")))
        hidden = g.activation(g.add_node("linear", x, features=8, bias=True), "leaky_relu")
        return g.graph(g.add_node("linear", hidden, features=4, bias=True), gate)


@pytest.mark.parametrize("bits", [(8, 8), (4, 8), (2, 4), (1, 2)], ids=str)
def test_integer_classifiers_compute_what_their_graphs_mean(weights_of, bits):
    graph = quantized(classifier(*bits))
    check(graph, weights_of(graph), photo(size=16))


def test_float_classifiers_compute_what_their_graphs_mean(weights_of):
    graph = classifier(32, 32)
    check(graph, weights_of(graph), np.random.default_rng(2).uniform(size=(3, 16, 16)).astype(np.float32))


def test_the_arena_is_the_planned_one_and_concats_copy_nothing(weights_of):
    graph = quantized(detector("c2f", ["relu"] * 5, ["w8a8"] * 5, [16, 16, 16], True))
    plan = compiler.compile(graph, weights_of(graph), classes=CLASSES)
    memory = arena(run_passes(graph, weights_of(graph))[0])
    assert plan.arena_bytes == memory.peak_bytes
    assert all(memory.offsets[t.name] == t.offset for t in plan.tensors)


def test_compiling_twice_gives_the_same_file(weights_of):
    graph = quantized(detector("csp", ["silu"] * 5, ["w4a4"] * 5, [8, 8, 8], False))
    weights = weights_of(graph)
    files = [artifact.write(compiler.compile(graph, weights, classes=CLASSES, provenance={"seed": 1})) for _ in range(2)]
    assert files[0] == files[1]


def test_sizes_account_for_the_file(tmp_path, weights_of):
    graph = quantized(detector("c2f", ["silu"] * 5, ["w4a8"] * 5, [16, 16, 16], True))
    plan = compiler.compile(graph, weights_of(graph), classes=CLASSES)
    found = compiler.sizes(plan)
    assert compiler.save(plan, tmp_path / "a.edge") == found.total == (tmp_path / "a.edge").stat().st_size
    weighted = [i for i in plan.instructions if "wbits" in i.attrs]
    assert found.weights == sum(plan.weights[i.params["weight"]].size * int(i.attrs["wbits"]) // 8 for i in weighted)
    assert found.weights + found.tables + found.epilogues < found.total


@pytest.mark.parametrize("act", ["silu", "relu"])
def test_a_file_is_its_packed_weights_and_epilogues_and_three_percent(weights_of, act):
    graphs = [quantized(yolov8n(96, act, precision)) for precision in ("w2a2", "w8a8")]
    two, eight = (compiler.sizes(compiler.compile(graph, weights_of(graph), classes=BENCHED)) for graph in graphs)
    assert two.overhead < 0.03 and eight.overhead < 0.03
    assert two.total < 0.30 * eight.total


def test_a_wrong_number_of_classes_is_refused(weights_of):
    graph = quantized(detector("c2f", ["relu"] * 5, ["w8a8"] * 5, [8, 8, 8], True))
    with pytest.raises(CompilerError, match="1 class names for a detector of 3 classes"):
        compiler.compile(graph, weights_of(graph), classes=("a",))


def test_a_concat_of_different_scales_is_refused_by_name(weights_of):
    graph = quantized(detector("c3", ["relu"] * 5, ["w8a8"] * 5, [8, 8, 8], True))
    weights = weights_of(graph)
    piece = graph[graph["stage0.concat"].inputs[0]]
    with pytest.raises(CompilerError, match=r"group .* has different scales"):
        compiler.compile(graph, weights.edited({(piece, "scale"): weights[piece, "scale"] * 2}), classes=CLASSES)


def test_weights_that_are_not_finite_are_refused_by_name(weights_of):
    graph = quantized(detector("c2f", ["relu"] * 5, ["w8a8"] * 5, [8, 8, 8], True))
    weights = weights_of(graph)
    for param, value in (("weight", np.full_like(weights["conv2d", "weight"], np.nan)), ("weight_scale", np.full(8, np.inf))):
        with pytest.raises(CompilerError, match="'conv2d'"):
            compiler.compile(graph, weights.edited({("conv2d", param): value}), classes=CLASSES)


def family(name: str, bits: int) -> tuple[Graph, Graph]:
    """(training form, form to quantize) of a whole detector of a YOLOBench family, thin and at 64 px; odd widths included."""
    train = yolobench.detector(yolobench.Name(name, 0.33, 0.0625, 64), len(CLASSES))
    merged, _ = merge_rep(train)
    if bits == 32:
        return train, merged
    attrs = {node.name: {"abits": bits, **({"wbits": bits} if node.op in WEIGHTED else {})} for node in merged}
    return train, quantized(merged.edited({node.name: node.having(**attrs[node.name]) for node in merged}))


@pytest.mark.parametrize("name", yolobench.FAMILIES)
def test_every_family_compiles_in_float_to_what_its_training_form_means(weights_of, name):
    train, _ = family(name, 32)
    check(train, weights_of(train), np.random.default_rng(2).uniform(size=(3, 64, 64)).astype(np.float32), CLASSES, 5e-3)


@pytest.mark.parametrize("name", yolobench.FAMILIES)
def test_every_family_compiles_to_integers_that_mean_what_its_merged_form_does(weights_of, name):
    _, graph = family(name, 8)
    plan = check(graph, weights_of(graph), photo(size=64), CLASSES)
    floats = {t.name for t in plan.tensors if t.dtype == "f32"}
    assert floats == {name for node in graph.of("dfl_decode") for name in (*node.inputs, node.name)}
