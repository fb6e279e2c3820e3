"""`edgenas bench instructions`: how many instructions of another CPU our convolutions take for each multiply-add, counted by QEMU.

QEMU names every block of instructions that it runs (-d exec,nochain), and before the first time what is in it (in_asm).  What the benchmark
program executes with one run of a layer more than with none is the layer's, packing and requantization included.  Counts repeat exactly;
they say nothing of time.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nas.bench.engines.core import BenchError
from nas.bench.layers import LAYERS
from nas.bench.process import ISAS
from nas.deploy import runner
from nas.deploy.places import Qemu, place_named
from nas.progress import Progress, Silent

PROGRAM = "edgenas_bench_kernels"
BITS = ("w1a1", "w1a2", "w2a2", "w4a4", "w8a8")


@dataclass(frozen=True)
class Row:
    """The fastest variant on one layer, one run."""

    layer: str
    bits: str
    variant: str
    macs: int
    instructions: int


@dataclass(frozen=True)
class Instructions:
    rows: tuple[Row, ...]
    about: dict[str, Any]

    def json(self) -> dict[str, Any]:
        return {**self.about, "rows": [asdict(row) for row in self.rows]}

    def text(self) -> str:
        shapes = {layer.name: layer.shape for layer in LAYERS}
        lines = [f"{self.about['on']}, CPU {self.about['cpu']}, commit {self.about['commit'] or 'unknown'}",
                 f"{'layer':21}{'bits':6}{'variant':14}{'instructions':>14}{'per multiply-add':>18}"]  # fmt: skip
        return "\n".join(lines + [f"{row.layer:4}{shapes[row.layer]:17}{row.bits:6}{row.variant:14}{row.instructions:14,}"
                                  f"{row.instructions / row.macs:18.3f}" for row in self.rows])  # fmt: skip


def run(on: str, layers: Sequence[str], bits: Sequence[str], isa: str = "", progress: Progress | None = None) -> Instructions:
    """on: qemu-aarch64 or qemu-arm; the environment variable QEMU_CPU chooses the core.  No bits are all of BITS."""
    place = place_named(on)
    if not isinstance(place, Qemu):
        raise BenchError(f"--on {on}: instructions are counted by an emulator; choose qemu-aarch64 or qemu-arm")
    for kind, names, known in (("layer", layers, [layer.name for layer in LAYERS]), ("bit-width", bits, BITS),
                               ("instruction set", [isa] if isa else [], ISAS)):  # fmt: skip
        if wrong := [name for name in names if name not in known]:
            raise BenchError(f"'{wrong[0]}' is no {kind} to measure; choose from {', '.join(known)}")
    shown = progress or Silent()
    command, rows = [place.emulator(), str(runner.build(place.target(), PROGRAM, shown))], []
    with shown.task("layers", len(layers)) as task:
        for layer in layers:
            rows += [_row(command, isa, layer, each) for each in bits or BITS]
            task.advance(1, layer)
    return Instructions(tuple(rows), _about(on, isa))


def _about(on: str, isa: str) -> dict[str, Any]:
    from nas.provenance import commit

    return {"on": on, "cpu": os.environ.get("QEMU_CPU", "default"), "isa": isa, "commit": commit()}


def _row(command: Sequence[str], isa: str, layer: str, bits: str) -> Row:
    (_, none), (said, one) = (_executed([*command, "--run", bits, layer, "", runs], isa) for runs in ("0", "1"))
    macs, variant = said.split()
    return Row(layer, bits, variant, int(macs), one - none)


def _executed(command: Sequence[str], isa: str) -> tuple[str, int]:
    """What a program writes, and how many instructions it takes."""
    emulator, *program = command
    traced = [emulator, "-d", "in_asm,exec,nochain", *program]
    with subprocess.Popen(traced, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "EDGENAS_ISA": isa}) as running:
        assert running.stdout is not None and running.stderr is not None
        count = executed(running.stderr)
        said = running.stdout.read().decode()
    if running.returncode != 0:
        raise BenchError(f"{Path(emulator).name} {' '.join(program)} ended with exit code {running.returncode}")
    return said, count


def executed(trace: Iterable[bytes]) -> int:
    """Instructions in a trace of QEMU: of each block the lines `0xADDRESS: ...` before the first `Trace 0: 0xBLOCK [...]` of it."""
    sizes: dict[bytes, int] = {}
    total = fresh = 0
    for line in trace:
        if line.startswith(b"0x"):
            fresh += 1
        elif line.startswith(b"Trace"):
            block = line.partition(b"[")[0]
            if fresh:  # also where QEMU has used the memory of an older block again
                sizes[block], fresh = fresh, 0
            total += sizes[block]
    return total
