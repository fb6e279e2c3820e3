"""The kernel benchmark: every engine computes the same convolution, and ours what the portable reference computes."""

import dataclasses
import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from nas.bench import kernels, layers
from nas.bench.engines import PEERS, BenchError, edgenas, litert, onnx_layers
from nas.bench.kernels import Bench, Row, run
from nas.bench.kernels_text import fastest
from nas.bench.layers import LAYERS, X_SCALE, Y_SCALE, Layer, Repeated, int8_weights, repeated
from nas.runtime import reference

ROOT = Path(__file__).resolve().parents[2]
CHAIN, BRANCHES = Repeated(Layer("chain", 8, 8, 6, 3, 1), 4), Repeated(Layer("branches", 8, 16, 7, 3, 2), 3)


def _row(peer: str, us: float, **other) -> Row:
    given = {"layer": "y1", "bits": "w2a2", "isa": "avx2", "variant": "avx2", "chosen": True, "gmacs": 1.0, "exact": True} | other
    return Row(us=10.0, peer=peer, peer_us=us, ratio=us / 10.0, **given)


def convolved(graph: Repeated, x: np.ndarray) -> list[np.ndarray]:
    """The integer definition: codes (C, H, W) of each output, from x of codes."""
    layer, values = graph.layer, [x.astype(np.int64)]
    for source, y in graph.wiring:
        q = int8_weights(layer, y)
        pad = layer.kernel // 2
        padded = np.pad(values[source], ((0, 0), (pad, pad), (pad, pad)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (layer.kernel,) * 2, axis=(1, 2))[:, :: layer.stride, :: layer.stride]
        total = np.einsum("chwij,ocij->ohw", windows, q.w.astype(np.int64)) + q.bias[:, None, None]
        real = total * (q.scale.astype(np.float64) * X_SCALE)[:, None, None]
        values.append(np.clip(np.rint(real / Y_SCALE), 0, 255).astype(np.int64))
    return [values[k] for k in graph.outputs]


def codes(graph: Repeated) -> np.ndarray:
    layer = graph.layer
    return np.random.default_rng(1).integers(0, 256, (layer.c_in, layer.size, layer.size)).astype(np.uint8)


def off_by_one(wanted: list[np.ndarray], got: list[np.ndarray]) -> bool:
    """Engines round halves and scales in ways of their own, which adds up along a chain."""
    return all(np.abs(a - b.astype(np.int64)).max() <= 2 for a, b in zip(wanted, got, strict=True))


@pytest.mark.parametrize("graph", [CHAIN, BRANCHES], ids=["chain", "branches"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_the_onnx_graphs_compute_the_repeated_convolution(graph, channels_last, monkeypatch):
    import onnxruntime as ort

    def seven_bits(layer: Layer, copy: int):
        """On x86 without VNNI onnxruntime adds two products in 16 bits, which weights of 8 bits overflow."""
        q = layers.int8_weights(layer, copy)
        return dataclasses.replace(q, w=q.w // 2)

    for module in (onnx_layers, sys.modules[__name__]):
        monkeypatch.setattr(module, "int8_weights", seven_bits)
    model = (onnx_layers.qlinear_model if channels_last else onnx_layers.qdq_model)(graph)
    x = codes(graph)
    fed = x.transpose(1, 2, 0)[None] if channels_last else x[None]
    found = ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"x0": np.ascontiguousarray(fed)})
    got = [y[0].transpose(2, 0, 1) if channels_last else y[0] for y in found]
    assert off_by_one(convolved(graph, x), got)


@pytest.mark.skipif(importlib.util.find_spec("ai_edge_litert") is None, reason="ai-edge-litert is not installed")
@pytest.mark.parametrize("graph", [CHAIN, BRANCHES], ids=["chain", "branches"])
def test_the_tflite_graph_computes_the_repeated_convolution(graph):
    from ai_edge_litert.interpreter import Interpreter

    interpreter, x = Interpreter(model_content=litert.int8_model(graph)), codes(graph)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], (x.transpose(1, 2, 0)[None].astype(int) - 128).astype(np.int8))
    interpreter.invoke()
    got = [interpreter.get_tensor(at["index"])[0].transpose(2, 0, 1).astype(int) + 128 for at in interpreter.get_output_details()]
    assert off_by_one(convolved(graph, x), got)


@pytest.mark.parametrize("bits", edgenas.BITS)
def test_every_variant_of_ours_equals_the_numpy_reference_on_the_benchmarks_plan(bits):
    for graph in (CHAIN, BRANCHES):
        found = edgenas.contenders(graph, bits)
        assert found
        assert all(ours.exact for ours in found)
        assert [ours.chosen for ours in found].count(True) == 1
        wanted = reference.run(edgenas.plan(graph, bits), found[0].inputs)
        for ours in found:
            for a, b in zip(wanted, ours.executor.run(ours.inputs), strict=True):
                assert (a == b).all() if bits != "fp32" else np.allclose(a, b, atol=1e-4)


def test_outputs_of_the_benchmarks_plan_use_their_range():
    for bits in ("w1a1", "w2a2", "w4a4", "w8a8"):
        (ours, *_) = edgenas.contenders(CHAIN, bits)
        y = ours.executor.run(ours.inputs)[0]
        assert len(np.unique(y)) >= min(2 ** int(bits[-1]), 10)


def test_a_chain_hands_each_output_on_and_branches_read_the_input():
    assert CHAIN.wiring == [(0, 1), (1, 2), (0, 3), (3, 4)]
    assert CHAIN.outputs == [2, 4]
    assert BRANCHES.wiring == [(0, 1), (0, 2), (0, 3)]
    assert BRANCHES.outputs == [1, 2, 3]
    assert all(repeated(layer).copies * layer.macs >= 60e6 for layer in LAYERS)


def test_the_layers_are_those_of_the_cpp_benchmark():
    text = (ROOT / "csrc/bench/kernels.cpp").read_text()
    found = re.findall(r'\{"(\w+) [^"]*", layer\((\d+), (\d+), (\d+), (\d+), (\d+)\)\}', text)
    assert [(name, *map(int, numbers)) for name, *numbers in found] == [
        (x.name, x.c_in, x.c_out, x.size, x.kernel, x.stride) for x in LAYERS
    ]


def test_the_fastest_peer_is_of_the_asked_precision_and_may_leave_winograd_out():
    rows = [_row("litert", 20.0), _row("ncnn", 15.0), _row("litert-fp32", 5.0)]
    assert fastest(rows).peer == "ncnn"
    assert fastest(rows, winograd=False).peer == "litert"
    assert fastest(rows, "fp32").peer == "litert-fp32"
    assert fastest([_row("", float("nan"))]) is None


def test_a_bench_shows_and_writes_what_it_found_and_whom_it_left_out():
    peer = next(peer for peer in PEERS if peer.name == "onnxruntime")
    about = {"cpu": "c", "isa": "avx2", "threads": 1, "rounds": 15, "commit": ""}
    bench = Bench((_row("onnxruntime", 20.0),), about, (peer,), {"ncnn": "why"})
    assert "(2.00)" in bench.text()
    assert "left out: ncnn: why" in bench.text()
    (row,) = bench.json()["rows"]
    assert {"layer", "bits", "isa", "variant", "us", "gmacs", "peer", "peer_us", "ratio", "exact"} <= row.keys()


def test_the_gain_of_threads_is_that_of_the_large_layers_beside_what_separate_networks_reach():
    about = {"cpu": "c", "isa": "avx2", "threads": 2, "rounds": 15, "commit": ""}
    gains = {"y1": (9.0, 9.0), "r1": (1.5, 1.8), "r4": (2.0, 2.0)}
    rows = tuple(_row("", float("nan"), layer=name, speedup=gain, side_by_side=most) for name, (gain, most) in gains.items())
    lines = Bench(rows, about, (), {}).text().splitlines()
    assert lines[lines.index("2 threads over one, layers above 50 MMAC") + 2].split() == ["w2a2", "1.73", "r1", "1.50", "1.90"]
    alone = Bench(rows, about | {"threads": 1}, (), {}).text()
    assert "over one" not in alone


def test_with_two_threads_ours_is_timed_with_one_and_in_two_networks_at_once_and_no_peer_need_take_part(monkeypatch):
    monkeypatch.setattr(kernels, "repeated", lambda layer: CHAIN)
    rows = kernels._layer(CHAIN.layer, ["w1a1"], "", kernels._present(["none"], "")[0], {}, 2, 0.0)
    assert {row.peer for row in rows} == {""}
    assert all(row.exact and row.speedup > 0 and row.side_by_side > 0 for row in rows)
    assert 1.0 not in {gain for row in rows for gain in (row.speedup, row.side_by_side)}


@pytest.mark.parametrize("asked", [{"layers": ["y99"]}, {"bits": ["w5a5"]}, {"peers": ["abacus"]}, {"isa": "mmx"}])
def test_an_unknown_name_is_refused_with_those_that_are_known(asked):
    (value,) = asked.values()
    with pytest.raises(BenchError, match=rf"'{value if isinstance(value, str) else value[0]}' is no .* choose from"):
        run(**asked)
