"""`edgenas bench model`: whole networks at several precisions on our runtime, beside the engines that are installed.

Every engine runs the same graph with the same weights, without box decode, its input already in place; contenders take turns.
Latency, the file, and the memory that a process needs to load and run it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nas.bench.engines import BenchError, litert, onnxruntime, openvino
from nas.bench.engines.core import Call, installed
from nas.bench.engines.edgenas import exact, network
from nas.bench.memory import Load, peak_mb
from nas.bench.networks import CLASSES, NETWORKS
from nas.bench.process import limit, settled
from nas.bench.timing import ROUNDS, Timed, alternate
from nas.progress import Progress, Silent

PRECISIONS = ("w2a2", "w4a4", "w8a8")
OURS = "edgenas"


@dataclass(frozen=True)
class Engine:
    """One that runs whole networks.  `module` is what it imports, `file` the form it reads."""

    name: str
    package: str
    module: str
    file: str
    load: Load


ENGINES = (
    Engine("litert", "ai-edge-litert", "ai_edge_litert.interpreter", "tflite", litert.network),
    Engine("openvino", "openvino", "openvino", "onnx", openvino.network),
    Engine("onnxruntime", "onnxruntime", "onnxruntime", "onnx", onnxruntime.network),
)


@dataclass(frozen=True)
class Row:
    """One contender.  memory_mb: growth of a process at its peak; speedups: of ours over each peer's int8, over the best fp32."""

    model: str
    act: str
    engine: str
    precision: str
    ms: float
    iqr_ms: float
    size_mb: float
    memory_mb: float
    exact: bool | None
    speedups: dict[str, float]


@dataclass(frozen=True)
class Bench:
    rows: tuple[Row, ...]
    about: dict[str, Any]
    left_out: dict[str, str]

    def json(self) -> dict[str, Any]:
        return {**self.about, "left_out": self.left_out, "rows": [asdict(row) for row in self.rows]}

    def text(self) -> str:
        about = self.about
        lines = [f"{about['cpu']}, {about['isa']}, {about['threads']} thread(s), median of {about['rounds']} alternating batches or more, "
                 f"without box decode, commit {about['commit'] or 'unknown'}",
                 "peers: " + ", ".join(f"{name} {version}" for name, version in about["engines"].items())]  # fmt: skip
        lines += [f"left out: {name}: {why}" for name, why in self.left_out.items()]
        names = [*about["engines"], "fp32"]
        columns = f"{'model':10}{'act':6}{'engine':13}{'bits':6}{'ms':>8}{'+-':>7}{'file MB':>9}{'RAM MB':>8}{'exact':>7}"
        lines += ["", f"{columns}   times the speed of " + ", ".join(f"{name} int8" if name != "fp32" else "best fp32" for name in names)]
        for row in self.rows:
            exact = {None: "", True: "yes", False: "NO"}[row.exact]
            line = f"{row.model:10}{row.act:6}{row.engine:13}{row.precision:6}{row.ms:8.2f}{row.iqr_ms:7.2f}{row.size_mb:9.2f}"
            ratios = "".join(f"{row.speedups[name]:7.2f}" if name in row.speedups else f"{'-':>7}" for name in names)
            lines.append(line + f"{row.memory_mb:8.1f}{exact:>7}" + (ratios if row.speedups else ""))
        return "\n".join(lines)


def run(models: Sequence[str] = (), precisions: Sequence[str] = (), acts: Sequence[str] = (), engines: Sequence[str] = (), isa: str = "",
        threads: int = 1, size: int = 0, seconds: float = 1.0, progress: Progress | None = None) -> Bench:  # fmt: skip
    """size: side of the input in pixels, 0 for each network's own.  seconds: of each contender.  Empty names are all of them."""
    for kind, names, known in (("network", models, list(NETWORKS)), ("engine", engines, [e.name for e in ENGINES]),
                               ("activation", acts, ["silu", "relu"])):  # fmt: skip
        if strange := [name for name in names if name not in known]:
            raise BenchError(f"'{strange[0]}' is no {kind} to measure; choose from {', '.join(known)}")
    wanted = [engine for engine in ENGINES if not engines or engine.name in engines]
    peers = [engine for engine in wanted if installed(engine.package)]
    left_out = {e.name: f"{e.package} is not installed (pip install 'edgenas[peers]')" for e in wanted if e not in peers}
    chosen = [(name, act) for name in models or NETWORKS for act in NETWORKS[name][2] if not acts or act in acts]
    limit(isa)
    rows: list[Row] = []
    with settled(threads), (progress or Silent()).task("networks", len(chosen)) as task, tempfile.TemporaryDirectory() as folder:
        for name, act in chosen:
            files = _Files(name, act, size or NETWORKS[name][1], Path(folder))
            rows += _measured(files, precisions or PRECISIONS, peers, threads, seconds, left_out)
            task.advance(1, f"{name} {act}")
    return Bench(tuple(rows), _about(peers, isa, threads), left_out)


def _about(peers: Sequence[Engine], isa: str, threads: int) -> dict[str, Any]:
    from nas.provenance import commit, cpu_name
    from nas.runtime.executor import isa as in_use

    return {"cpu": cpu_name(), "isa": isa or in_use(), "threads": threads, "rounds": ROUNDS, "commit": commit(),
            "engines": {peer.name: installed(peer.package) for peer in peers}}  # fmt: skip


class _Files:
    """One network with random weights in every form that some engine reads."""

    def __init__(self, name: str, act: str, size: int, folder: Path) -> None:
        import torch

        from searchspaces.module import to_torch
        from searchspaces.quantizers import floated

        torch.manual_seed(0)
        self.name, self.act, self.folder = name, act, folder
        self.classes = () if name == "resnet18" else CLASSES
        self.graph = partial(NETWORKS[name][0], size, act)
        self.image = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
        self.weights = to_torch(floated(self.graph("w8a8"))).eval().weights()

    def trained(self, precision: str) -> tuple[Any, Any]:
        """(graph, weights) with the steps of its codes fitted to the image."""
        import torch

        from nas.quant import fake_quantized
        from searchspaces.quantizers import floated, quantized

        if precision == "fp32":
            return floated(self.graph("w8a8")), self.weights
        graph = self.graph(precision)
        net = fake_quantized(graph, self.weights, [torch.from_numpy(self.image).permute(2, 0, 1)[None].float() / 255])
        return quantized(graph), net.weights()

    def write(self, precision: str, form: str) -> Path:
        path = self.folder / f"{self.name}-{self.act}-{precision}.{form}"
        if path.exists():
            return path
        graph, weights = self.trained(precision)
        if form == "edge":
            from nas.compiler import compile as compile_plan
            from nas.compiler import save

            save(compile_plan(graph, weights, classes=self.classes), path)
        elif form == "onnx":
            import nas.compiler.onnx as to_onnx

            to_onnx.export(graph, weights, path, classes=self.classes, quantized=precision != "fp32", decode=False)
        else:
            from nas.bench.engines.tflite_network import to_tflite

            path.write_bytes(to_tflite(graph, weights, self.classes, self._ranges()))
        return path

    def _ranges(self) -> dict[str, tuple[float, float]]:
        """Of the outputs, by the float net."""
        from nas.compiler.onnx import without_decode
        from nas.compiler.pipeline import prepared
        from nas.runtime import Executor

        outputs = without_decode(prepared(*self.trained("fp32"), self.classes)[0]).outputs
        found = Executor.load(self.write("fp32", "edge")).run(self.image)
        return {name: (float(y.min()), float(y.max())) for name, y in zip(outputs, found, strict=True)}


def _measured(files: _Files, precisions: Sequence[str], peers: Sequence[Engine], threads: int, seconds: float,
              left_out: dict[str, str]) -> list[Row]:  # fmt: skip
    from nas.runtime import Executor

    rows: list[Row] = []
    calls: list[Timed] = []
    for precision in (*precisions, "fp32"):
        path = files.write(precision, "edge")
        executor = Executor.load(path, threads=threads)
        memory = peak_mb(network, "nas.runtime._csrc", path, files.image, threads)
        same = exact(path.read_bytes(), executor, files.image)
        rows.append(Row(files.name, files.act, OURS, precision, 0.0, 0.0, path.stat().st_size / 1e6, memory, same, {}))
        calls.append(partial(_inside, executor, files.image))
    for peer in peers:
        for precision in ("w8a8", "fp32"):
            path, bits = files.write(precision, peer.file), "int8" if precision == "w8a8" else precision
            try:
                call = peer.load(path, files.image, threads)
                call()
                memory = peak_mb(peer.load, peer.module, path, files.image, threads)
            except Exception as error:  # whatever a foreign library raises
                left_out[f"{peer.name} {bits} on {files.name} {files.act}"] = f"{type(error).__name__}: {error}".splitlines()[0]
                continue
            rows.append(Row(files.name, files.act, peer.name, bits, 0.0, 0.0, path.stat().st_size / 1e6, memory, None, {}))
            calls.append(partial(_outside, call))
    return _compared(rows, alternate(calls, seconds))


def _inside(executor: Any, image: np.ndarray, runs: int) -> float:
    return float(np.mean(executor.time(image, runs)))


def _outside(call: Call, runs: int) -> float:
    start = time.perf_counter()
    for _ in range(runs):
        call()
    return (time.perf_counter() - start) * 1e6 / runs


def _compared(rows: Sequence[Row], samples: Sequence[np.ndarray]) -> list[Row]:
    quartiles = [np.percentile(kept, [25, 50, 75]) / 1e3 for kept in samples]
    rows = [replace(row, ms=float(q[1]), iqr_ms=float(q[2] - q[0])) for row, q in zip(rows, quartiles)]
    base = {row.engine: row.ms for row in rows if row.precision == "int8"}
    floats = [row.ms for row in rows if row.engine != OURS and row.precision == "fp32"]
    if floats:
        base["fp32"] = min(floats)
    return [replace(row, speedups={name: ms / row.ms for name, ms in base.items()}) if row.engine == OURS else row for row in rows]
