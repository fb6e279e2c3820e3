"""Our own kernels on repeated convolutions: the same graph as the peers' in a plan, timed inside the engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nas.bench.engines.core import Call
from nas.bench.layers import Layer, Repeated
from nas.compiler.grids import Grid
from nas.compiler.requant import requant
from nas.runtime import ALIGNMENT, Executor, Instruction, Plan, Requant, Tensor, artifact
from searchspaces.ops import FLOAT_BITS
from searchspaces.yolo import bits as bits_of

BITS = ("w1a1", "w1a2", "w2a2", "w3a3", "w4a4", "w4a8", "w2a8", "w8a8", "fp32")
# Standard deviation of normal weights in steps of their best uniform quantizer (Max 1960, IRE Trans. Inf. Theory 6, table II).
SPREAD = {2: 1.0, 3: 1.71, 4: 2.98, 8: 32.0}
FLOAT_TOLERANCE = 1e-4  # of the largest value; every instruction set sums in an order of its own


@dataclass(frozen=True)
class Ours:
    """One plan on one kernel variant, its input in place.  `exact`: its outputs equal the portable reference's, of floats to rounding."""

    bits: str
    variant: str
    chosen: bool                                        # by the engine, when nothing is asked for
    file: bytes
    executor: Executor
    inputs: list[np.ndarray]
    exact: bool

    def time(self, runs: int) -> float:
        """Mean microseconds of a run of the whole graph."""
        return float(np.mean(self.executor.time(self.inputs, runs)))

    def on_one_thread(self) -> Ours:
        return replace(self, executor=Executor(self.file, self.variant))


def contenders(graph: Repeated, bits: str, threads: int = 1) -> list[Ours]:
    """Every variant that runs this layer on the instruction sets in use, the one that the engine chooses first."""
    from nas.runtime.executor import variants

    file = artifact.write(plan(graph, bits))
    inputs: list[np.ndarray] = [_values(graph.layer, bits)]
    found: list[Ours] = []
    for variant in ("", *variants("conv2d_f32" if bits == "fp32" else "conv2d")):
        executor = Executor(file, variant, threads)
        (ran, *_) = {row.variant for row in executor.profile(inputs)}
        if (ran == "reference" and found) or any(ran == ours.variant for ours in found):
            continue
        found.append(Ours(bits, ran, variant == "", file, executor, inputs, exact(file, executor, inputs)))
    return found


def network(path: Path, image: np.ndarray, threads: int) -> Call:
    """A run of a compiled net on an image (H, W, 3) uint8."""
    executor = Executor.load(path, threads=threads)
    return lambda: executor.time(image, 1)


def exact(file: bytes, executor: Executor, inputs: np.ndarray | Sequence[np.ndarray]) -> bool:
    """Whether every output equals the portable reference's in every bit, a float network's to rounding."""
    wanted, integer = Executor(file, "reference").run(inputs), executor.inputs[0].dtype == "u8"
    return all(_same(a, b, integer) for a, b in zip(wanted, executor.run(inputs), strict=True))


def plan(graph: Repeated, bits: str) -> Plan:
    """Random weights as of a trained net, a ReLU behind every convolution, requantized as the compiler would.

    A chain's values take turns in two places, so that it needs no more cache than a network does.
    """
    layer = graph.layer
    wbits, abits = bits_of(bits)
    tensors, instructions = [_tensor("x0", layer.c_in, layer.size, abits, 0)], []
    weights: dict[str, np.ndarray] = {}
    end = place = _aligned(tensors[0].nbytes)
    for x, y in graph.wiring:
        rng = np.random.default_rng([y, layer.c_in, layer.c_out, layer.size, wbits])
        slot = 2 * (y > graph.copies // 2) + y % 2 if graph.chained else y - 1
        output = _tensor(f"x{y}", layer.c_out, layer.out_size, abits, 0)
        output = replace(output, offset=place + slot * _aligned(output.nbytes))
        tensors.append(output)
        end = max(end, output.offset + _aligned(output.nbytes))
        attrs = {"kernel": layer.kernel, "stride": layer.stride, "padding": layer.kernel // 2, "groups": 1}
        if abits == FLOAT_BITS:
            weights[f"w{y}"], weights[f"b{y}"] = _float_weights(rng, layer)
            instructions.append(Instruction("conv2d", f"conv{y}", (x,), (y,), {**attrs, "activation": "relu"},
                                            {"weight": f"w{y}", "bias": f"b{y}"}))  # fmt: skip
            continue
        weights[f"w{y}"] = _codes(rng, layer, wbits)
        instructions.append(Instruction("conv2d", f"conv{y}", (x,), (y,), {**attrs, "wbits": wbits}, {"weight": f"w{y}"},
                                        _requant(rng, weights[f"w{y}"], abits)))  # fmt: skip
    return Plan(tuple(tensors), tuple(instructions), weights, (0,), tuple(graph.outputs), end)


def _aligned(n: int) -> int:
    return -(-n // ALIGNMENT) * ALIGNMENT


def _tensor(name: str, channels: int, size: int, bits: int, offset: int) -> Tensor:
    return Tensor(name, "f32" if bits == FLOAT_BITS else "u8", (channels, size, size), offset, bits)


def _values(layer: Layer, bits: str) -> np.ndarray:
    rng, shape, abits = np.random.default_rng(0), (layer.c_in, layer.size, layer.size), bits_of(bits)[1]
    if abits == FLOAT_BITS:
        return rng.normal(size=shape).astype(np.float32)
    return rng.integers(0, 2**abits, shape).astype(np.uint8)


def _codes(rng: np.random.Generator, layer: Layer, wbits: int) -> np.ndarray:
    shape = layer.c_out, layer.c_in, layer.kernel, layer.kernel
    if wbits == 1:
        return rng.choice(np.array([-1, 1], np.int8), shape)
    low = -127 if wbits == 8 else -(2 ** (wbits - 1))
    return np.clip(np.rint(rng.normal(size=shape) * SPREAD[wbits]), low, 2 ** (wbits - 1) - 1).astype(np.int8)


def _requant(rng: np.random.Generator, weights: np.ndarray, abits: int) -> Requant:
    """A batch-norm and ReLU: two standard deviations of a sum over uniform codes fill the output's range."""
    w = weights.reshape(len(weights), -1).astype(np.float64)
    codes = np.arange(2**abits)
    mean, deviation = w.sum(axis=1) * codes.mean(), np.sqrt((w**2).sum(axis=1)) * codes.std()
    gain = 2**abits / (2 * deviation) * rng.choice([-1.0, 1.0, 1.0, 1.0], len(w))
    return requant(gain, -mean * gain, "relu", Grid(abits, 1.0, 0), int(np.abs(w).sum(axis=1).max()) * (2**abits - 1))


def _float_weights(rng: np.random.Generator, layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    w = rng.normal(size=(layer.c_out, layer.c_in, layer.kernel, layer.kernel)) * np.sqrt(2 / layer.terms)
    return w.astype(np.float32), rng.normal(size=layer.c_out).astype(np.float32) * np.float32(0.1)


def _same(wanted: np.ndarray, got: np.ndarray, integer: bool) -> bool:
    if integer:
        return wanted.tobytes() == got.tobytes()
    return bool(np.abs(wanted - got).max() <= FLOAT_TOLERANCE * np.abs(wanted).max())
