"""The process that measures: its instruction sets, its CPUs and its memory."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nas.bench.engines.core import BenchError

# Read once, when a library first looks at the CPU.
AVX2_ONLY = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "DNNL_MAX_CPU_ISA": "AVX2"}
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3            # of malloc.h
_KEPT_BYTES = 32 << 20                                  # the most that glibc takes for the second
ISAS = ("avx512", "avx2", "portable", "neon")


def limit(isa: str) -> None:
    """Hold this process to an instruction set; '' is what the CPU has.  Call it before a peer is imported."""
    if not isa:
        return
    if isa not in ISAS:
        raise BenchError(f"'{isa}' is no instruction set to measure; choose from {', '.join(ISAS)}")
    os.environ["EDGENAS_ISA"] = isa
    if isa == "avx2" and wider_than_avx2():
        if "torch" in sys.modules:
            raise BenchError("torch has looked at the CPU already; measure AVX2 in a process of its own: edgenas bench kernels --isa avx2")
        os.environ.update(AVX2_ONLY)


def wider_than_avx2() -> bool:
    """Whether this CPU has AVX-512 or AVX-VNNI, which a peer would use unless it is held back."""
    try:
        return any(flag in Path("/proc/cpuinfo").read_text() for flag in (" avx512f", " avx_vnni"))
    except OSError:
        return True


@contextmanager
def settled(threads: int) -> Iterator[None]:
    """This process on the last `threads` of the CPUs it may use, and what it frees kept in its hands.

    glibc gives the end of its heap back to the system at every call of an engine that allocates its outputs, and takes it again page by
    page: that engine (torch, ncnn) would be several times slower than in a program with anything else on its heap.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cpus = sorted(os.sched_getaffinity(0))
    if not 1 <= threads <= len(cpus):
        raise BenchError(f"{threads} threads on {len(cpus)} CPUs would take turns; give 1 to {len(cpus)}")
    os.sched_setaffinity(0, cpus[-threads:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, cpus)
