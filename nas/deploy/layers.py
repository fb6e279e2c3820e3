"""What every layer of a net costs on this machine, from the compiled net itself."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from torch import Tensor

from nas.compiler import compile as compile_plan
from nas.deploy.timing import in_bursts, time_calls
from nas.quant.qat import fake_quantized
from nas.runtime import Executor, write
from searchspaces import Graph, Weights
from searchspaces.quantizers import quantized

PROFILES = 25  # runs whose instructions are timed one by one
SECONDS, PAUSE_S = 0.3, 0.1  # of a burst of runs of the whole, at most, and between bursts


def whole_and_layers(graph: Graph, weights: Weights, images: Iterable[Tensor]) -> tuple[float, dict[str, float]]:
    """(milliseconds of a run, name of an instruction -> its median milliseconds) of a net at the bits of its graph.

    weights are float ones; the steps of the quantizers are fitted to `images`, batches (N, 3, H, W) in 0..1.
    """
    net = fake_quantized(graph, weights, images)
    classes = graph.of("dfl_decode")[0]["classes"] if graph.of("dfl_decode") else 0
    engine = Executor(write(compile_plan(quantized(graph), net.weights(), classes=[f"class{i}" for i in range(classes)])))
    height, width = engine.metadata.input_size
    image = np.full((height, width, 3), 114, np.uint8)
    whole = in_bursts(lambda: time_calls(lambda: engine.run(image), max_seconds=SECONDS), PAUSE_S)
    profiles = [engine.profile(image) for _ in range(PROFILES)]
    return whole.median_ms, {rows[0].name: float(np.median([row.us for row in rows])) / 1e3 for rows in zip(*profiles)}
