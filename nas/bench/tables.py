"""The YOLOBench tables (Lazarevich et al. 2023, arXiv:2307.13901), joined: accuracy by data set, latency by device.

They are third-party measurements and not part of the package; a folder of them is given.  Accuracies belong to heads of 20 classes
(VOC), latencies were measured with heads of CLASSES_TIMED.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from searchspaces.tables import Column, TableError, read
from searchspaces.yolobench import check

CLASSES_TIMED = 80
SCRATCH = "voc-scratch"
# data set -> file; column "mAP_0.5:0.95"
ACCURACIES = {
    SCRATCH: "VOC_scratch_100epochs.csv",
    "voc": "VOC_finetuned.csv",
    "coco": "COCO_pretrain_300epochs.csv",
    "sku110k": "SKU-110K_finetuned.csv",
    "widerface": "WIDERFACE_finetuned.csv",
}
# device file -> (file, column, unit in ms); in the order of the paper's boards
LATENCIES = {
    "raspi4-tflite-fp32": ("YOLO_latency.csv", "raspi4_tflite_latency", 1e3),
    "raspi4-tflite-int8": ("VOC_scratch_100epochs.csv", "pi4_tflite_int8_latency", 1e3),
    "raspi4-ort-fp32": ("VOC_scratch_100epochs.csv", "pi4_ort_latency", 1e3),
    "raspi5-ort-fp32": ("merged_results.csv", "pi5_ort_latency", 1.0),
    "jetson_nano-ort-fp32": ("YOLO_latency.csv", "nano_gpu_latency", 1e3),
    "x86-openvino-fp32": ("YOLO_latency.csv", "openvino_latency", 1e3),
    "vim3-npu-int16": ("YOLO_latency.csv", "vim3_latency", 1e3),
    "orange_pi5-npu-fp16": ("YOLO_latency.csv", "orange_pi_latency", 1e3),
    "a40-tensorrt-fp32": ("YOLO_latency.csv", "a40_trt_latency", 1e3),
}
_MAP = "mAP_0.5:0.95"


@dataclass(frozen=True)
class Tables:
    """`names` of all networks; `map50_95[data set]` (fractions) and `latency_ms[device]` are (networks,) arrays in that order, NaN
    where the tables have no value.
    """

    folder: Path
    names: tuple[str, ...]
    map50_95: dict[str, Column]
    latency_ms: dict[str, Column]

    def known(self, *columns: Column) -> np.ndarray:
        """(n,) positions of the networks that have a value in every column given."""
        return np.flatnonzero(np.isfinite(np.stack(columns)).all(axis=0))


def load(folder: Path) -> Tables:
    """The tables of a folder; raises TableError naming file, line and column of what is missing, no number, or an unknown model."""
    if not folder.is_dir():
        raise TableError(f"no folder {folder}: the YOLOBench tables are needed ({', '.join(sorted(set(ACCURACIES.values())))}, ...)")
    base = read(folder / ACCURACIES[SCRATCH], check=check)
    row = {name: i for i, name in enumerate(base.names)}

    def column(file: str, name: str, positive: bool) -> Column:
        table = read(folder / file, (name,), check=check, positive=positive)
        joined = np.full(len(row), np.nan)
        for i, (model, value) in enumerate(zip(table.names, table[name])):
            if model not in row:
                raise TableError(f"{table.path}:{table.lines[i]}: '{model}' is not in {base.path.name}")
            joined[row[model]] = value
        return joined

    accuracies = {data: column(file, _MAP, False) for data, file in ACCURACIES.items()}
    latencies = {device: unit * column(file, name, True) for device, (file, name, unit) in LATENCIES.items()}
    return Tables(folder, base.names, accuracies, latencies)
