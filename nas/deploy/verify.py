"""Verification: what a compiled artifact really does on the device, from the file alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

import msgspec
import numpy as np

from nas.data import Sample, letterbox, read_image
from nas.deploy.elsewhere import Elsewhere
from nas.deploy.timing import RETRIES, Timing, in_bursts, time_calls, within
from nas.runtime import Executor, Plan, artifact, reference

FLOAT_TOLERANCE = 1e-4
Found = tuple[np.ndarray, np.ndarray, np.ndarray]  # boxes_xyxy (D, 4) px, scores (D,), labels (D,)


class Constraint(msgspec.Struct, frozen=True):
    """A limit and what was found for it, in the unit that closes the name.  `measured` is False for a predicted value."""

    name: str
    limit: float
    value: float
    measured: bool = True

    @property
    def met(self) -> bool:
        return self.value <= self.limit


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured from one artifact on one device."""

    bit_exact: bool  # raw maps equal the numpy integer reference in every bit; of a float network, to rounding
    checked_images: int
    map: float
    map50: float
    per_class: dict[str, tuple[float, float]]  # (AP, AP50)
    latency_ms: float  # median of a run of the network on this machine
    latency_q1_ms: float
    latency_q3_ms: float
    latency_runs: int
    throttled: bool
    predicted_ms: float | None
    predicted_low_ms: float | None
    predicted_high_ms: float | None
    ram_kib: float  # arena: activations at their peak
    scratch_kib: float
    size_mb: float  # the file
    constraints: tuple[Constraint, ...]
    isa: str
    threads: int = 1  # one is what latency models price

    @property
    def met(self) -> bool:
        return self.bit_exact and all(constraint.met for constraint in self.constraints)


class DeviceVerification(msgspec.Struct, frozen=True, kw_only=True):
    """What edgenas-run did with one artifact in another place, beside this machine's engine and the numpy reference."""

    on: str
    target: str
    cpu: str
    isa: str
    threads: int
    emulated: bool  # then there is no latency, and the process's peak is the emulator's
    bit_exact: bool  # raw maps equal this machine's on all images sent, and the reference on the first; of a float network, to rounding
    checked_images: int
    referenced_images: int
    map: float  # by this machine's engine on the whole split: the same maps give the same boxes
    map50: float
    per_class: dict[str, tuple[float, float]]  # (AP, AP50)
    latency_ms: float | None
    latency_q1_ms: float | None
    latency_q3_ms: float | None
    latency_runs: int
    throttled: bool
    ram_kib: float  # arena: activations at their peak
    scratch_kib: float
    prepared_kib: float  # weights as the kernels of that CPU want them
    peak_rss_kib: int | None  # of the whole process
    size_mb: float  # the file
    constraints: tuple[Constraint, ...]

    @property
    def met(self) -> bool:
        return self.bit_exact and all(constraint.met for constraint in self.constraints)


@dataclass(frozen=True)
class Run:
    """An artifact loaded, with what a pass over it costs."""

    executor: Executor
    timing: Timing
    ram_kib: float
    scratch_kib: float
    size_mb: float


def measure(
    path: Path, *, max_seconds: float = 1.0, threads: int = 1, tuned: bool = False, limit_ms: float = inf, retries: int = RETRIES
) -> Run:
    """Load an artifact and time it on a grey image of its input size, on this machine, in bursts that agree.

    `limit_ms`: a latency above it that a busy host may explain is measured again, so often (timing.within).
    """
    executor = Executor.load(path, threads=threads, tuned=tuned)
    image = grey(executor)
    timing = within(limit_ms, lambda: in_bursts(lambda: time_calls(lambda: executor.run(image), max_seconds=max_seconds)), retries)
    memory = executor.memory
    return Run(executor, timing, memory.arena_bytes / 1024, memory.scratch_bytes / 1024, path.stat().st_size / 1e6)


def grey(executor: Executor) -> np.ndarray:
    """An image of the input size, (H, W, 3) uint8."""
    height, width = executor.metadata.input_size
    return np.full((height, width, 3), 114, np.uint8)


def exact_on(path: Path, executor: Executor, images: Sequence[np.ndarray]) -> bool:
    """Whether every raw map equals the numpy reference bit for bit; images are (H, W, 3) uint8 of the input size."""
    plan = artifact.load(path)
    return all(agree(plan, reference.run(plan, input_of(plan, image)), executor.run(image)) for image in images)


def exact_there(path: Path, executor: Executor, there: Elsewhere, images: Sequence[np.ndarray], referenced: int) -> bool:
    """Whether the maps that came from elsewhere equal this machine's on all images, and the numpy reference on the first ones."""
    plan = artifact.load(path)
    return all(agree(plan, executor.run(image), maps) for image, maps in zip(images, there.outputs, strict=True)) and all(
        agree(plan, reference.run(plan, input_of(plan, image)), maps) for image, maps in zip(images[:referenced], there.outputs)
    )


def agree(plan: Plan, wanted: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> bool:
    """Whether two runs of a plan gave the same maps, bit for bit.

    A float network sums in another order on every instruction set: its maps must agree to FLOAT_TOLERANCE of their range.
    """
    if is_integer(plan):
        return all(a.tobytes() == b.tobytes() for a, b in zip(wanted, found, strict=True))
    return all(np.abs(a - b).max() <= FLOAT_TOLERANCE * np.abs(a).max() for a, b in zip(wanted, found, strict=True))


def is_integer(plan: Plan) -> bool:
    return any(tensor.dtype == "u8" for tensor in plan.tensors)


def input_of(plan: Plan, image: np.ndarray) -> list[np.ndarray]:
    """The input tensors of a detector for an image (H, W, 3) uint8."""
    planes = image.transpose(2, 0, 1)
    return [planes if is_integer(plan) else planes.astype(np.float32) / 255]


def detector(executor: Executor, score_threshold: float = 0.001) -> Callable[[np.ndarray], Found]:
    """From an image (H, W, 3) uint8 RGB of any size to boxes_xyxy in its pixels, scores and labels."""
    size = executor.metadata.input_size[0]

    def detect(image: np.ndarray) -> Found:
        fitted, _, transform = letterbox(image, np.zeros((0, 4), np.float32), size)
        boxes, scores, labels = executor.detect(fitted, score_threshold)
        return transform.invert(boxes), scores, labels

    return detect


def boxed(samples: Sequence[Sample], size: int) -> list[np.ndarray]:
    """The samples' images as the network sees them: (size, size, 3) uint8 RGB."""
    return [letterbox(read_image(sample), np.zeros((0, 4), np.float32), size)[0] for sample in samples]


def limits_met(limits: Mapping[str, float], measured: Mapping[str, float], predicted: Mapping[str, float]) -> tuple[Constraint, ...]:
    """One Constraint per limit, judged on the measured value, or on a predicted one for what could not be measured here.

    A limit that has neither raises: it must never pass in silence.
    """
    found = []
    for name, limit in limits.items():
        if name not in measured and name not in predicted:
            raise ValueError(f"'{name}' is limited but was not measured; measured: {', '.join(measured)}")
        found.append(Constraint(name, limit, measured.get(name, predicted.get(name, 0.0)), name in measured))
    return tuple(found)
