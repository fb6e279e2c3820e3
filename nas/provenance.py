"""Where a result came from: versions, commit, machine, data and device; written into every study, artifact and report."""

from __future__ import annotations

import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hwmodels.device import Device
from nas.data import Dataset
from nas.runtime.machine import cpu_name

PACKAGES = ("edgenas", "torch", "numpy", "onnxruntime", "opencv-python-headless", "faster-coco-eval", "scikit-learn")


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def commit() -> str:
    """The commit of the checkout this runs from; '' outside of one."""
    here = Path(__file__).resolve().parent
    try:
        asked = ["git", "-C", str(here), "describe", "--always", "--dirty"]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def provenance(dataset: Dataset, device: Device) -> dict[str, Any]:
    from nas.runtime.executor import isa

    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "versions": versions(),
        "cpu": cpu_name(),
        "isa": isa(),
        "data": {"name": dataset.name, "images": {split: len(samples) for split, samples in dataset.splits.items()}},
        "classes": list(dataset.classes),
        "device": device.name,
    }
