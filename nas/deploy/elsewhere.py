"""An artifact run by edgenas-run in another place: what it computed, how long it took, what memory it held."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from nas.deploy.errors import DeployError
from nas.deploy.places import OUTPUTS, REPORT, Place
from nas.deploy.runner import PROGRAM, check_architecture, runner_for
from nas.progress import Progress
from nas.runtime import Plan, Tensor, artifact

Maps = list[NDArray[Any]]  # the outputs of one run, (C, H, W)
MODEL, INPUTS = "model.edge", "inputs"
RUNS = 2000  # timed ones, at most


class Latency(msgspec.Struct, frozen=True):
    """`drift` is the slowest over the fastest third of the time, by medians."""

    runs: int
    median_ms: float
    q1_ms: float
    q3_ms: float
    drift: float


class Memory(msgspec.Struct, frozen=True):
    """peak_rss_kib is the most that the whole process held, by the kernel's count; 0 where it does not tell."""

    file_bytes: int
    arena_bytes: int
    scratch_bytes: int
    prepared_bytes: int
    peak_rss_kib: int


class Layer(msgspec.Struct, frozen=True):
    layer: str
    op: str
    variant: str
    us: float


class Sums(msgspec.Struct, frozen=True):
    crc32: tuple[int, ...]


class Report(msgspec.Struct, frozen=True):
    """What edgenas-run prints; csrc/runner/main.cpp writes it."""

    isa: str
    cpu: str
    threads: int
    runs: tuple[Sums, ...]
    memory: Memory
    latency: Latency | None = None
    layers: tuple[Layer, ...] = ()


@dataclass(frozen=True)
class Elsewhere:
    """One session in a place: its architecture, a report, and the outputs of each run of inputs."""

    target: str
    report: Report
    outputs: list[Maps]


def run_there(
    place: Place,
    file: bytes,
    inputs: Sequence[Sequence[NDArray[Any]]],
    *,
    seconds: float = 0.0,
    profile: bool = False,
    threads: int = 1,
    runner: Path | None = None,
    progress: Progress | None = None,
) -> Elsewhere:
    """Run an artifact's bytes on each set of input tensors (C, H, W), then time it for `seconds`, where they are not 0.

    `runner` is a program that was built before; without one it is built here for the place's architecture.
    """
    target = place.target()
    program = _contents(runner) if runner else runner_for(target, progress).read_bytes()
    check_architecture(program, target, place.name)
    plan = artifact.read(file)
    arguments = [MODEL, "--input", INPUTS, "--outputs", OUTPUTS, "--threads", str(threads)]
    arguments += ["--runs", str(RUNS if seconds else 0), "--seconds", f"{seconds:g}"]
    sent = b"".join(np.ascontiguousarray(array).tobytes() for tensors in inputs for array in tensors)
    files = {PROGRAM: program, MODEL: file, INPUTS: sent}
    found = place.run(files, [*arguments, "--profile"] if profile else arguments)
    try:
        report = msgspec.json.decode(found[REPORT], type=Report)
    except msgspec.MsgspecError as fault:
        raise DeployError(f"{place.name}: the runner printed no report of ours ({fault}); was it built from another version?") from None
    outputs = split(plan, found[OUTPUTS], len(inputs))
    if [run.crc32 for run in report.runs] != [tuple(zlib.crc32(each.tobytes()) for each in maps) for maps in outputs]:
        raise DeployError(f"{place.name}: the outputs that came back have other checksums than the runner gave them; run the command again")
    return Elsewhere(target.name, report, outputs)


def split(plan: Plan, data: bytes, runs: int) -> list[Maps]:
    """The outputs (C, H, W) of each run from the bytes of all of them; raises DeployError where the size is wrong."""
    tensors = [plan.tensors[t] for t in plan.outputs]
    each = sum(_size(tensor) for tensor in tensors)
    if len(data) != runs * each:
        raise DeployError(f"{len(data)} bytes of outputs came back, {runs} runs give {runs * each}; run the command again")
    found, at = [], 0
    for _ in range(runs):
        maps = []
        for tensor in tensors:
            maps.append(np.frombuffer(data, _dtype(tensor), int(np.prod(tensor.shape)), at).reshape(tensor.shape))
            at += _size(tensor)
        found.append(maps)
    return found


def _dtype(tensor: Tensor) -> str:
    return "u1" if tensor.dtype == "u8" else "<f4"


def _size(tensor: Tensor) -> int:
    return int(np.prod(tensor.shape)) * np.dtype(_dtype(tensor)).itemsize


def _contents(runner: Path) -> bytes:
    try:
        return runner.read_bytes()
    except OSError as fault:
        raise DeployError(f"--runner {runner}: {fault.strerror}") from None
