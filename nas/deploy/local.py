"""Device `local`: this machine under our own runtime, measured at first use and kept for the next run.

The measurement belongs to a CPU, its instruction sets, one build of the engine and one set of networks; a change of any measures again.
"""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import numpy as np

from hwmodels import calibrate, operators
from hwmodels import device as device_files
from hwmodels.calibrate import Measurement, calibrated, calibration_graphs, measurements, random_weights
from hwmodels.device import LOCAL, Device
from nas.compiler import requant
from nas.compiler.lower import lower
from nas.deploy.timing import time_calls
from nas.model import write_whole
from nas.progress import Progress, Silent
from nas.provenance import cpu_name
from nas.runtime import Executor, executor, write
from predictors import OperatorSums
from searchspaces import Graph, yolo
from searchspaces.yolo import PRECISIONS

NET_SECONDS = 0.8  # of timing a network, at most
PROFILES = 9  # runs whose operators are timed one by one


def find_device(name: str, progress: Progress | None = None) -> Device:
    """A device by name or file; `local` is measured where no earlier measurement fits this machine."""
    if name != LOCAL:
        return device_files.load(name)
    path = cached_path()
    return Device.load(path) if path.exists() else measure_device(progress)


def cached_path() -> Path:
    """Where this machine's device file is kept: its name hangs on the kernels, on what is measured, and on the CPU."""
    mark = hashlib.sha256(Path(executor.engine().__file__).read_bytes())
    for measured_by in (calibrate, operators, yolo, requant):
        mark.update(Path(str(measured_by.__file__)).read_bytes())
    mark.update(f"{cpu_name()}|{executor.isa()}".encode())
    cache = Path(os.environ.get("EDGENAS_CACHE") or Path.home() / ".cache" / "edgenas")
    return cache / "devices" / f"{LOCAL}-{mark.hexdigest()[:16]}.toml"


def measure_device(progress: Progress | None = None) -> Device:
    """Time the calibration networks on this machine, fit the device, and keep it; under a minute."""
    progress = progress or Silent()
    started = time.perf_counter()
    graphs = calibration_graphs(PRECISIONS)
    networks: list[list[Measurement]] = []
    with progress.task("measure local", len(graphs)) as task:
        for graph in graphs:
            networks.append(_timed(graph))
            task.advance(1)
    device = calibrated(
        networks,
        lambda *rows: OperatorSums().fit(*rows).table,
        name=LOCAL,
        board=cpu_name(),
        runtime="edgenas, 1 thread",
        precisions=PRECISIONS,
        isa=tuple(executor.isa().split()),
    )
    write_whole(cached_path(), device.to_toml().encode())
    progress.say(f"device local measured in {time.perf_counter() - started:.0f} s: {cached_path()}")
    return device


def _timed(graph: Graph) -> list[Measurement]:
    """Rows of one network: its whole time, and the median time of each of its operators."""
    classes = graph.of("dfl_decode")[0]["classes"]
    plan = lower(graph, random_weights(graph), classes=[f"class{i}" for i in range(classes)])
    engine = Executor(write(plan))
    height, width = engine.metadata.input_size
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    whole = time_calls(lambda: engine.run(image), max_seconds=NET_SECONDS)
    profiles = [engine.profile(image) for _ in range(PROFILES)]
    operators = {rows[0].name: float(np.median([row.us for row in rows])) / 1e3 for rows in zip(*profiles)}
    return measurements(graph, whole.median_ms, operators)
