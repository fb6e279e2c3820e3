"""Calibration: the networks to measure on a machine, and the device file that comes out of the measurements.

Each network is compiled and run; the time of every operator in it and the time of the whole are rows of the fit.  Operators are
timed where they run, between their neighbours, so caches are as warm as they will be.  No clock here: data in, device out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod, sqrt
from typing import Any

import numpy as np

from hwmodels.device import Device
from hwmodels.operators import OperatorTable, features
from hwmodels.workload import Workload, workload
from searchspaces.graph import Graph, Node
from searchspaces.ops import FLOAT_BITS, WEIGHTED
from searchspaces.quantizers import quantized
from searchspaces.rewrite import deployed
from searchspaces.space import Space
from searchspaces.weights import Weights
from searchspaces.yolo import YOLO, with_precisions

CLASSES = 10
NETS = 24
POOL = 144  # random networks from which the set is picked: three of each kind of neck at each of eight precisions
TRIES = 30  # draws of a network until one is small enough
LARGEST_MACS = 600e6  # of one network, so that measuring the set stays below a minute
# Standard deviation of weight codes before they are clipped.  Up to 4 bits codes are so as large as those of a trained YOLOv5n, 3.4 and .83
# on average at 4 and 2 bits; at 8 bits, where these have 54, the kernels take as long for smaller ones, since large ones do not meet.
_SPREAD = {2: 1.34, 3: 2.4, 4: 4.6, 8: 60.0}


@dataclass(frozen=True)
class Measurement:
    """A whole network or one operator of it, and its time."""

    workload: Workload
    ms: float


def calibration_graphs(precisions: Sequence[str], seed: int = 0, nets: int = NETS) -> list[Graph]:
    """Deployed random networks of the space that together hold every feature that a network of these precisions can have.

    Picked greedily from a random pool: each next network is the one that adds most to the features seen least so far.
    """
    pool = _pool(with_precisions(YOLO, precisions), np.random.default_rng(seed))
    held = [_counts(graph) for graph in pool]
    seen: dict[str, int] = {}
    chosen: list[Graph] = []
    while pool and len(chosen) < nets:
        gains = [sum(sqrt(seen.get(f, 0) + n) - sqrt(seen.get(f, 0)) for f, n in counts.items()) for counts in held]
        best = int(np.argmax(gains))
        for feature, n in held.pop(best).items():
            seen[feature] = seen.get(feature, 0) + n
        chosen.append(pool.pop(best))
    return chosen


def _pool(space: Space, rng: np.random.Generator) -> list[Graph]:
    """Deployed random networks of at most LARGEST_MACS, with every pair of neck and neck precision in turn: some operators stand in
    one kind of neck alone, once or twice.
    """
    names = [choice.name for choice in space.choices]
    neck, precision = names.index("neck"), names.index("neck.precision")
    pool = []
    for place in range(POOL):
        genes = space.sample_genes(rng, TRIES)
        genes[:, neck] = place % space.sizes[neck]
        genes[:, precision] = place // space.sizes[neck] % space.sizes[precision]
        for row in space.canonical(genes):
            graph = deployed(quantized(space.build(space.decode(row), CLASSES)))
            if workload(graph).macs <= LARGEST_MACS:
                pool.append(graph)
                break
    return pool


def _counts(graph: Graph) -> dict[str, int]:
    counts: dict[str, int] = {}
    for op in workload(graph).ops:
        for feature, _ in features(op):
            counts[feature] = counts.get(feature, 0) + 1
    return counts


def random_weights(graph: Graph, seed: int = 0) -> Weights:
    """Weights with which a deployed graph compiles and runs as long as with trained ones.

    Kernels keep sums in narrow integers until the weights could overflow them, so codes have to be as large as trained ones: a network
    of 2-bit codes that are mostly 0 runs 1.2 to 1.3 times as fast.
    """
    rng = np.random.default_rng(seed)
    arrays: dict = {}
    for node in graph.nodes:
        if node.op in WEIGHTED:
            arrays |= _weighted(graph, node, rng)
        elif node.op == "batchnorm":
            arrays |= {(node, param): np.ones(node.shape[0], np.float32) for param in ("gamma", "beta", "mean", "var")}
        elif node.op == "scale":
            arrays[node, "value"] = np.float32(1)
        bits = node.get("bits") if node.op == "quantize" else node.get("out_bits", FLOAT_BITS)
        if bits < FLOAT_BITS:
            key = node.name if node.op == "quantize" else f"quant.{node['quant']}"
            arrays[key, "scale"] = np.float32(node.get("scale", 6.0 / 2**bits))
            arrays[key, "zero_point"] = np.int64(2**bits // 8 if node.get("asymmetric", node.op != "input") else 0)
    return Weights({}).edited(arrays)


def _weighted(graph: Graph, node: Node, rng: np.random.Generator) -> dict:
    c_in = graph.in_shapes(node)[0][-1 if node.op == "linear" else 0]
    c_out, bits = node.shape[-1 if node.op == "linear" else 0], node.get("wbits", FLOAT_BITS)
    kernel = () if node.op == "linear" else (node["kernel"], node["kernel"])
    shape = (c_in, c_out, *kernel) if node.op == "conv_transpose2d" else (c_out, c_in // node.get("groups", 1), *kernel)
    spread = 1 / sqrt(prod(shape) / c_out)  # keeps sums near 1
    arrays = {(node, "bias"): rng.normal(0, 0.1, c_out).astype(np.float32)}
    if bits == FLOAT_BITS:
        return {**arrays, (node, "weight"): rng.normal(0, spread, shape).astype(np.float32)}
    codes = _codes(shape, bits, rng)
    scale = spread / float(np.sqrt(np.mean(codes**2)) or 1.0)
    return {**arrays, (node, "weight"): codes.astype(np.int8), (node, "weight_scale"): np.full(c_out, scale, np.float32)}


def _codes(shape: tuple[int, ...], bits: int, rng: np.random.Generator) -> np.ndarray:
    if bits == 1:
        return rng.choice([-1.0, 1.0], shape)
    half = 2 ** (bits - 1)
    return np.clip(np.rint(rng.normal(0, _SPREAD[bits], shape)), 1 - half if bits == 8 else -half, half - 1)


def measurements(graph: Graph, ms: float, operator_ms: Mapping[str, float]) -> list[Measurement]:
    """The rows of one measured network: the whole at `ms`, and each operator that `operator_ms` has a time for, by node name."""
    whole = workload(graph)
    rows = [Measurement(Workload((op,)), operator_ms[op.name]) for op in whole.ops if operator_ms.get(op.name, 0.0) > 0.0]
    return [Measurement(whole, ms), *rows]


Fit = Callable[[Sequence[Workload], Sequence[float], Sequence[int]], OperatorTable]


def calibrated(networks: Sequence[Sequence[Measurement]], fit: Fit, **facts: Any) -> Device:
    """The device whose operator costs `fit` finds in the measurements of each network; `facts` are its other fields, as `name`.

    `fit(workloads, ms, groups)` is a predictor's, as `lambda *rows: predictors.OperatorSums().fit(*rows).table`; rows of one
    network share a group.
    """
    rows = [(row.workload, row.ms, number) for number, network in enumerate(networks) for row in network]
    table = fit([load for load, _, _ in rows], [ms for _, ms, _ in rows], [number for _, _, number in rows])
    sources = {**facts.pop("sources", {}), "operators": f"{len(networks)} networks timed, {len(rows)} timings with their operators"}
    return Device(**facts, operators=table, sources=sources)
