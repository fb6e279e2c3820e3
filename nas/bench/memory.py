"""What a network costs in memory: the growth of a fresh process that loads it and runs it, at its peak."""

from __future__ import annotations

import importlib
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from nas.bench.engines.core import Call

Load = Callable[[Path, np.ndarray, int], Call]  # (file, image, threads) -> one run
RUNS = 3


def peak_mb(load: Load, package: str, path: Path, image: np.ndarray, threads: int) -> float:
    """Megabytes above those of the process with the engine's package imported; nan where the system does not tell (not Linux)."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_grown, load, package, path, image, threads).result()


def _grown(load: Load, package: str, path: Path, image: np.ndarray, threads: int) -> float:
    importlib.import_module(package)
    try:
        before = _status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew here
    except OSError:
        return float("nan")
    call = load(path, image, threads)
    for _ in range(RUNS):
        call()
    return (_status("VmHWM") - before) / 1e3


def _status(key: str) -> int:
    """KiB, as the kernel counts."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key + ":"))
