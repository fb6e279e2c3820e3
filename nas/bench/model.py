"""`edgenas bench model`: one detector at several precisions on our runtime, beside ONNX Runtime, with as many threads each."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import nas.compiler.onnx as to_onnx
from nas.compiler import compile as compile_plan
from nas.compiler import save
from nas.deploy.verify import exact_on
from nas.provenance import cpu_name, versions
from nas.quant import fake_quantized
from nas.runtime import Executor, executor
from searchspaces import YOLO, Arch, Weights
from searchspaces.module import to_torch
from searchspaces.quantizers import floated, quantized
from searchspaces.yolo import PARTS

CLASSES = tuple(f"class{i}" for i in range(20))
PRECISIONS = ("w8a8", "w4a4", "w2a2")


def yolov8n(size: int, act: str, precision: str = "w8a8") -> Arch:
    """YOLOv8n as a point of the space, with one activation and one precision throughout."""
    widths, depths = (32, 64, 128, 256), (1, 2, 2, 1)
    return YOLO.arch({
        **YOLO.repair({}).genes, "resolution": size, "backbone.block": "c2f", "neck": "pan", "stem.width": 16,
        **{f"stage{i}.width": width for i, width in enumerate(widths, 1)}, **{f"stage{i}.depth": n for i, n in enumerate(depths, 1)},
        **{name: act for name in YOLO.repair({}).genes if name.endswith(".act")}, "head.box": 64, "head.cls": 64,
        **{f"{part}.precision": precision for part in PARTS},
    })  # fmt: skip


def bench(size: int, seconds: float, threads: int = 1) -> dict[str, Any]:
    """Median milliseconds of each contender.  Ours are checked against the numpy reference first, bit for bit where they are integer."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    image = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    rows: list[dict[str, Any]] = []
    calls: list[Callable[[], object]] = []
    with tempfile.TemporaryDirectory() as folder:
        for act in ("silu", "relu"):
            graph = YOLO.build(yolov8n(size, act), len(CLASSES))
            weights = to_torch(floated(graph)).eval().weights()
            for precision in ("fp32", *PRECISIONS):
                path = Path(folder) / f"{act}-{precision}.edge"
                row, call = _ours(act, precision, size, weights, image, path, threads)
                rows.append(row)
                calls.append(call)
            for precision in ("fp32", "w8a8"):
                row, call = _onnxruntime(act, precision, size, weights, image, Path(folder) / f"{act}-{precision}.onnx", threads)
                rows.append(row)
                calls.append(call)
        times = alternate(calls, seconds)
    for row, samples in zip(rows, times):
        q1, median, q3 = np.percentile(samples, [25, 50, 75])
        row |= {"ms": float(median), "iqr_ms": float(q3 - q1), "runs": len(samples)}
    for row in rows:
        base = next(r for r in rows if (r["act"], r["engine"], r["precision"]) == (row["act"], "edgenas", "fp32"))
        row["speedup_over_our_fp32"] = base["ms"] / row["ms"]
    about = {"model": f"YOLOv8n {size}x{size}, {len(CLASSES)} classes, without box decode", "threads": threads, "cpu": cpu_name()}
    return {**about, "isa": executor.isa(), "onnxruntime": versions()["onnxruntime"], "rows": rows}


def _ours(
    act: str, precision: str, size: int, weights: Weights, image: np.ndarray, path: Path, threads: int
) -> tuple[dict[str, Any], Callable[[], object]]:
    graph = YOLO.build(yolov8n(size, act, precision if precision != "fp32" else "w8a8"), len(CLASSES))
    if precision == "fp32":
        plan = compile_plan(floated(graph), weights, classes=CLASSES)
    else:
        net = fake_quantized(graph, weights, [torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255])
        plan = compile_plan(quantized(graph), net.weights(), classes=CLASSES)
    save(plan, path)
    engine = Executor.load(path, threads=threads)
    row = {"engine": "edgenas", "act": act, "precision": precision, "size_mb": path.stat().st_size / 1e6,
           "arena_kib": engine.memory.arena_bytes / 1024, "exact": exact_on(path, engine, [image])}  # fmt: skip
    return row, lambda: engine.run(image)


def _onnxruntime(
    act: str, precision: str, size: int, weights: Weights, image: np.ndarray, path: Path, threads: int
) -> tuple[dict[str, Any], Callable[[], object]]:
    import onnxruntime as ort

    graph = YOLO.build(yolov8n(size, act), len(CLASSES))
    if precision == "w8a8":
        net = fake_quantized(graph, weights, [torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255])
        weights = net.weights()
    to_onnx.export(graph, weights, path, classes=CLASSES, quantized=precision == "w8a8", decode=False)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    x = image.transpose(2, 0, 1)[None].astype(np.float32) / 255
    name = session.get_inputs()[0].name
    row = {
        "engine": "onnxruntime",
        "act": act,
        "precision": "fp32" if precision == "fp32" else "int8 QDQ",
        "size_mb": os.path.getsize(path) / 1e6,
    }
    return row, lambda: session.run(None, {name: x})


def alternate(calls: list[Callable[[], object]], seconds: float, rounds: int = 8) -> list[list[float]]:
    """Milliseconds of each call; contenders take turns in rounds, so that a machine that changes speed changes it for all."""
    for call in calls:
        call()
    samples: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, kept in zip(calls, samples):
            call()
            until = time.perf_counter() + seconds / rounds
            while time.perf_counter() < until:
                before = time.perf_counter()
                call()
                kept.append((time.perf_counter() - before) * 1e3)
    return samples
