"""An artifact on another device than this machine, or in an emulator: verified, and timed layer by layer."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas.data import Dataset
from nas.deploy.elsewhere import run_there
from nas.deploy.errors import DeployError
from nas.deploy.places import Place
from nas.deploy.timing import DRIFT
from nas.deploy.verify import DeviceVerification, boxed, exact_there, grey, input_of, limits_met
from nas.finalist import CHECKED_IMAGES, scored
from nas.progress import Progress
from nas.runtime import Executor, artifact

SENT_IMAGES = 4  # whose outputs are compared with this machine's; CHECKED_IMAGES of them also with the reference
TIMED_S = 3.0


def verify_on(
    place: Place,
    path: Path,
    dataset: Dataset,
    *,
    limits: Mapping[str, float],
    split: str = "val",
    threads: int = 1,
    runner: Path | None = None,
    progress: Progress | None = None,
) -> DeviceVerification:
    """From the artifact alone, on a device or in an emulator: bit-exactness, latency, RAM and size, and the limits judged on them."""
    if place.emulated and "latency_ms" in limits:
        raise DeployError(f"--max-latency: {place.name} emulates, so its time says nothing; verify over ssh:// on the device itself")
    executor, plan, file = Executor.load(path), artifact.load(path), path.read_bytes()
    samples = dataset.splits[split]
    images = boxed(samples[:SENT_IMAGES], executor.metadata.input_size[0])
    there = run_there(
        place,
        file,
        [input_of(plan, image) for image in images],
        seconds=0.0 if place.emulated else TIMED_S,
        threads=threads,
        runner=runner,
        progress=progress,
    )
    metrics = scored(executor, samples, dataset)
    report, latency, memory = there.report, there.report.latency, there.report.memory
    found = {"ram_kib": memory.arena_bytes / 1024, "flash_kib": len(file) / 1024, "size_mb": len(file) / 1e6}
    if latency is not None:
        found["latency_ms"] = latency.median_ms
    return DeviceVerification(
        on=place.name,
        target=there.target,
        cpu=f"emulated {os.environ.get('QEMU_CPU', 'core')}" if place.emulated else report.cpu,
        isa=report.isa,
        threads=report.threads,
        emulated=place.emulated,
        bit_exact=exact_there(path, executor, there, images, CHECKED_IMAGES),
        checked_images=len(images),
        referenced_images=min(CHECKED_IMAGES, len(images)),
        map=metrics.map,
        map50=metrics.map50,
        per_class={name: (float(ap), float(ap50)) for name, (ap, ap50) in metrics.per_class.items()},
        latency_ms=latency.median_ms if latency else None,
        latency_q1_ms=latency.q1_ms if latency else None,
        latency_q3_ms=latency.q3_ms if latency else None,
        latency_runs=latency.runs if latency else 0,
        throttled=latency is not None and latency.drift > DRIFT,
        ram_kib=found["ram_kib"],
        scratch_kib=memory.scratch_bytes / 1024,
        prepared_kib=memory.prepared_bytes / 1024,
        peak_rss_kib=None if place.emulated else memory.peak_rss_kib or None,
        size_mb=found["size_mb"],
        constraints=limits_met(limits, found, {}),
    )


def measure_on(
    place: Place, path: Path, *, threads: int = 1, runner: Path | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Whole-network latency, and the time of each instruction in the median of several runs, on a device."""
    if place.emulated:
        raise DeployError(f"{place.name} emulates, so its time says nothing; measure over ssh:// on the device itself")
    file = path.read_bytes()
    plan = artifact.read(file)
    inputs = [input_of(plan, grey(Executor(file)))]
    report = run_there(place, file, inputs, seconds=TIMED_S, profile=True, threads=threads, runner=runner, progress=progress).report
    assert report.latency is not None
    return {
        "artifact": str(path),
        "on": place.name,
        "cpu": report.cpu,
        "isa": report.isa,
        "threads": report.threads,
        "latency_ms": report.latency.median_ms,
        "iqr_ms": report.latency.q3_ms - report.latency.q1_ms,
        "ram_kib": report.memory.arena_bytes / 1024,
        "peak_rss_kib": report.memory.peak_rss_kib,
        "size_mb": len(file) / 1e6,
        "throttled": report.latency.drift > DRIFT,
        "layers": [{"layer": row.layer, "op": row.op, "variant": row.variant, "us": row.us} for row in report.layers],
    }
