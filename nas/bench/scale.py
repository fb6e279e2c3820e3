"""`edgenas bench scale`: what one core needs to cost random candidates of the joint space, part by part, and what memory grows by."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from hwmodels.device import Device
from hwmodels.errors import DeviceError
from hwmodels.flash import flash_bytes
from hwmodels.limits import priced
from hwmodels.memory import arena
from hwmodels.workload import workload
from nas.candidates import Costs
from nas.provenance import cpu_name
from proxies.counting import counted_deployed
from searchspaces import SPACES, YOLO, Arch, Graph
from searchspaces.deploy import DeployBuilder

CLASSES = 20
CHECKED = 20  # candidates whose costs are compared with the search's own
WARM = 500  # candidates before memory is read for the first time
T = TypeVar("T")
PARTS = ("graph", "workload", "latency", "RAM", "flash", "proxies")


@dataclass(frozen=True)
class Scale:
    """CPU seconds by part of all `candidates`, of which the device refused some; `operators` of a deployed network are a mean.

    Memory is what the process held more at the end than after the first WARM candidates.
    """

    device: str
    cpu: str
    seed: int
    candidates: int
    refused: int
    operators: float
    seconds: dict[str, float]
    growth_mib: float

    @property
    def cpu_seconds(self) -> float:
        return sum(self.seconds.values())

    def json(self) -> dict[str, Any]:
        return {
            "device": self.device, "cpu": self.cpu, "seed": self.seed, "candidates": self.candidates, "refused": self.refused,
            "operators": self.operators, "cpu_seconds": self.cpu_seconds,
            "candidates_per_second": self.candidates / self.cpu_seconds, "rss_growth_mib": self.growth_mib,
            "parts": [{"part": part, "cpu_seconds": s, "ms": 1e3 * s / self.candidates} for part, s in self.seconds.items()],
        }  # fmt: skip

    def text(self) -> str:
        """One aligned row a part under a line that says what was done."""
        what = f"{self.candidates} random candidates of the joint space for {self.device}, seed {self.seed}"
        size = f"{self.operators:.0f} operators a network when deployed"
        head = f"{what}; CPU time, one thread of {self.cpu}; {size}"
        rows = [(part, f"{s:.2f}", f"{1e3 * s / self.candidates:.3f}", f"{s / self.cpu_seconds:.0%}") for part, s in self.seconds.items()]
        total = ("all", f"{self.cpu_seconds:.2f}", f"{1e3 * self.cpu_seconds / self.candidates:.3f}", "100%")
        table = [f"{a:<12}{b:>10}{c:>14}{d:>8}" for a, b, c, d in [("part", "seconds", "ms/candidate", "share"), *rows, total]]
        refused = f"; {self.refused} refused by the device" if self.refused else ""
        foot = f"{self.candidates / self.cpu_seconds:.0f} candidates/s; memory grew by {self.growth_mib:.1f} MiB{refused}"
        return "\n".join([head, *table, foot])


def run(device: Device, n: int = 10_000, seed: int = 0, progress: Callable[[int], object] = lambda done: None) -> Scale:
    """Costs n random candidates of the space that the device prices, with nothing kept.

    The first ones are held against nas.candidates.Costs: raises RuntimeError where the two differ.  A network that the device refuses
    to price (a combination of operators that was never measured) is counted, and its time up to there.
    """
    space, costs = priced(YOLO, device), Costs(device, CLASSES)
    seconds = dict.fromkeys(PARTS, 0.0)
    operators = refused = 0
    held = 0.0
    for done, genes in enumerate(space.sample_genes(np.random.default_rng(seed), n)):
        if done == min(WARM, n // 2):
            held = resident_mib()
        arch, stamps = space.decode(genes), [time.process_time()]
        try:
            graph, found = _cost(arch, device, stamps)
        except DeviceError:
            refused += 1
        else:
            operators += len(graph.nodes)
            if done < CHECKED and found.items() - costs(arch).items():
                raise RuntimeError(f"candidate {done} costs {found} here and {dict(costs(arch))} in a search")
        for part, start, end in zip(PARTS, stamps, stamps[1:]):
            seconds[part] += end - start
        progress(done + 1)
    return Scale(device.name, cpu_name(), seed, n, refused, operators / max(n - refused, 1), seconds, resident_mib() - held)


def _cost(arch: Arch, device: Device, stamps: list[float]) -> tuple[Graph, dict[str, float]]:
    """Deploy form and costs of a candidate; the CPU time at the end of each part goes to `stamps`."""

    def timed(result: T) -> T:
        stamps.append(time.process_time())
        return result

    g = DeployBuilder()
    graph = timed(SPACES[arch.space].build(arch, CLASSES, g))
    load = timed(workload(graph))
    latency = timed(device.predict(load))
    ram = timed(arena(graph).peak_bytes)
    flash = timed(flash_bytes(graph))
    counts = timed(counted_deployed(load, g.saved))
    return graph, {"latency_ms": latency.mean_ms, "ram_kib": ram / 1024, "flash_kib": flash / 1024, "macs_m": counts.macs / 1e6}


def resident_mib() -> float:
    """MiB of memory that this process holds now; where the system does not say, the most it ever held."""
    status = Path("/proc/self/statm")
    if status.exists():
        return int(status.read_text().split()[1]) * resource.getpagesize() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
