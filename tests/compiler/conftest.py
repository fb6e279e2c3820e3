"""Random nets with plausible weights: float weights, batch-norms with negative gammas, and quantizers fitted to one image."""

from collections.abc import Callable

import numpy as np
import pytest

from nas.compiler.interpret import evaluate
from nas.compiler.passes import code_range, out_axis
from searchspaces import Graph, Node, Weights
from searchspaces.ops import FLOAT_BITS, WEIGHTED


def _weighted(node: Node, c_in: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    if node.op == "linear":
        shape: tuple[int, ...] = (node["features"], c_in)
    elif node.op == "conv_transpose2d":
        shape = (c_in, node["channels"], node["kernel"], node["kernel"])
    else:
        shape = (node["channels"], c_in // node.get("groups", 1), node["kernel"], node["kernel"])
    w = rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape).astype(np.float32)
    arrays = {"weight": w}
    if node.get("bias"):
        arrays["bias"] = rng.normal(0, 0.3, w.shape[out_axis(node)]).astype(np.float32)
    if (bits := node.get("wbits", FLOAT_BITS)) < FLOAT_BITS:
        rows = np.abs(np.swapaxes(w, 0, out_axis(node)).reshape(w.shape[out_axis(node)], -1))
        arrays["weight_scale"] = rows.mean(1) if bits == 1 else rows.max(1) / code_range(bits)[1]
    return arrays


def _norm(x: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Statistics of the map it reads, and a gamma that is negative for one channel in four."""
    channels = len(x)
    gamma = rng.uniform(0.5, 1.5, channels) * rng.choice([1, 1, 1, -1], channels)
    stats = {"gamma": gamma, "beta": rng.normal(0, 0.5, channels), "mean": x.mean((1, 2)), "var": x.var((1, 2)) + 0.1}
    return {name: value.astype(np.float32) for name, value in stats.items()}


def _params(node: Node, x: np.ndarray | None, rng: np.random.Generator) -> dict[str, np.ndarray]:
    if node.op in WEIGHTED and x is not None:
        return _weighted(node, len(x), rng)
    if node.op == "batchnorm" and x is not None:
        return _norm(x, rng)
    if node.op == "scale":
        return {"value": np.float32(rng.uniform(0.5, 1.5))}
    if node.op == "layernorm":
        return {"gamma": rng.normal(1, 0.2, node.shape[-1]), "beta": rng.normal(0, 0.2, node.shape[-1])}
    return {}


def _sweep(graph: Graph, seed: int, grids: dict[str, dict[str, np.ndarray]]) -> tuple[dict[str, np.ndarray], dict[str, list[float]]]:
    """Weights fitted node by node to one random image, and the range of each quantizer group; quantizers in `grids` round."""
    rng = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray] = {}
    ranges: dict[str, list[float]] = {}
    values: dict[str, np.ndarray] = {}
    for node in graph:
        x = [values[name] for name in node.inputs] or [rng.uniform(size=node.shape)]
        params = _params(node, x[0], rng)
        if node.op == "quantize":
            ranges.setdefault(node["group"], [0.0, 1e-3]).extend([x[0].min(), x[0].max()])
            params = grids.get(node["group"], {})
        arrays |= {f"{node.name}.{param}": np.asarray(value) for param, value in params.items()}
        if node.op == "quantize" and not params:
            values[node.name] = x[0]
        elif node.op != "dfl_decode":
            local = Weights({f"{node.name}.{param}": np.asarray(value) for param, value in params.items()})
            values[node.name] = evaluate(node, local, x)
    return arrays, ranges


def random_weights(graph: Graph, seed: int = 0) -> Weights:
    """Weights of a graph in training form; a first sweep in float gives the quantizers' ranges, a second one the statistics."""
    _, ranges = _sweep(graph, seed, {})
    grids = {}
    for node in graph.of("quantize"):
        top, found = 2 ** node["bits"] - 1, ranges[node["group"]]
        low, high = (0.7 * min(found) if node.get("asymmetric") else 0.0), 0.7 * max(found)
        scale = float(np.float32(node.get("scale") or (high - low) / top))
        grids[node["group"]] = {"scale": np.float64(scale), "zero_point": np.int64(min(round(-low / scale), top))}
    return Weights(_sweep(graph, seed, grids)[0])


@pytest.fixture(scope="session")
def weights_of() -> Callable[..., Weights]:
    return random_weights
