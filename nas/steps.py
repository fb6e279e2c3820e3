"""The steps of the main job one at a time, on files, as the command line offers them.  Each returns plain data to show."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from nas.progress import Progress
from searchspaces import SPACES, Arch, Graph, Space

STEP_FOLDER = ".{name}.training"  # beside the model that is being made; it goes when the model is there


class StepError(ValueError):
    """A step that cannot be done on what it was given."""


def read_genes(path: Path, space: Space) -> Arch:
    """An arch from a JSON file: {"gene": option} or a finalist's {"genes": {...}}.  Genes that are left out take their first option."""
    try:
        found = json.loads(path.read_text())
    except OSError as fault:
        raise StepError(f"{path}: {fault.strerror}") from None
    except json.JSONDecodeError as fault:
        raise StepError(f"{path}:{fault.lineno}: not JSON: {fault.msg}") from None
    genes = found.get("genes", found) if isinstance(found, dict) else None
    if not isinstance(genes, dict):
        raise StepError(f'{path}: want an object of genes such as {{"resolution": 160}}')
    return space.arch({**space.repair({}).genes, **genes})


def space_named(name: str) -> Space:
    if name not in SPACES:
        raise StepError(f"no space '{name}'; spaces: {', '.join(SPACES)}")
    return SPACES[name]


def train_genes(
    genes: Path, out: Path, data: str, space: str, epochs: int, accelerator: str, seed: int, progress: Progress
) -> dict[str, Any]:
    from nas.data import load
    from nas.finalist import Recipe, train_float
    from nas.model import save

    arch, dataset = read_genes(genes, space_named(space)), load(data)
    graph = SPACES[space].build(arch, len(dataset.classes))
    recipe = Recipe(epochs=epochs, accelerator=accelerator, seed=seed)
    settings = recipe.for_float(int(arch["resolution"]), dataset, quantized=False)
    folder = out.parent / STEP_FOLDER.format(name=out.name)
    with progress.task("train", epochs) as task:
        model, history = train_float(graph, dataset, settings, folder, lambda stage, record: task.advance(1))
    save(model, out)
    shutil.rmtree(folder, ignore_errors=True)
    return {"model": str(out), **_scores(history)}


def quantize_model(
    model: Path, out: Path, data: str, precision: str, epochs: int, accelerator: str, seed: int, progress: Progress
) -> dict[str, Any]:
    from nas.data import load as load_data
    from nas.finalist import Recipe, train_quantized
    from nas.model import load, save

    trained, dataset = load(model), load_data(data)
    if trained.stage != "float":
        raise StepError(f"{model} is quantized already; quantize the float model that it came from")
    if trained.classes != dataset.classes:
        raise StepError(f"{model} knows the classes {', '.join(trained.classes)}; {data} has {', '.join(dataset.classes)}")
    if precision:
        trained = replace(trained, graph=at_precision(trained.graph, precision))
    recipe = Recipe(epochs=epochs, qat_share=1.0, accelerator=accelerator, seed=seed)
    folder = out.parent / STEP_FOLDER.format(name=out.name)
    with progress.task("quantize", epochs) as task:
        result, history = train_quantized(
            trained, dataset, recipe.for_qat(trained.size, dataset), recipe.qat, folder, lambda stage, record: task.advance(1)
        )
    save(result, out)
    shutil.rmtree(folder, ignore_errors=True)
    return {"model": str(out), **_scores(history)}


def at_precision(graph: Graph, precision: str) -> Graph:
    """The graph with every stage at one precision; the stem and the last 1x1, whose results are float maps, stay at 8 bits."""
    from searchspaces.yolo import EDGE_BITS, PRECISIONS, bits

    if precision not in PRECISIONS:
        raise StepError(f"no precision '{precision}'; precisions: {', '.join(PRECISIONS)}")
    weights, activations = bits(precision)
    ends = {name for node in graph.of("dfl_decode") for name in node.inputs}
    changed = {}
    for node in graph:
        edge = node.name.startswith("stem.") or node.op == "input" or node.name in ends
        w, a = (EDGE_BITS, EDGE_BITS) if edge else (weights, activations)
        changed[node.name] = node.having(abits=a, **({"wbits": w} if "wbits" in node.attrs else {}))
    return graph.edited(changed)


def compile_file(model: Path, out: Path, tuned: bool = False) -> dict[str, Any]:
    from nas.finalist import compile_model
    from nas.model import load

    compile_model(load(model), out, {"model": model.name})
    return {"artifact": str(out), "size_mb": out.stat().st_size / 1e6, **(tune_file(out) if tuned else {})}


def tune_file(artifact: Path) -> dict[str, Any]:
    """Times the kernels of each convolution on this machine and keeps the choice beside the artifact's own business, in the cache."""
    from nas.runtime.tune import keep, tune

    choices = tune(artifact.read_bytes())
    rows = [{"layer": c.key, "usual": c.usual, "us": c.usual_us, "fastest": c.fastest, "fastest_us": c.fastest_us} for c in choices]
    changed = [c for c in choices if c.fastest != c.usual]
    gain = sum(c.usual_us for c in choices) / max(1e-9, sum(c.fastest_us for c in choices))
    return {"tuned": str(keep(choices)), "layers_changed": len(changed), "gain": gain, "layers": rows}


def verify_file(artifact: Path, data: str, split: str, max_latency: str, threads: int = 1, tuned: bool = False) -> dict[str, Any]:
    from nas.data import load
    from nas.finalist import verify
    from nas.objectives import parse_quantity

    dataset = load(data)
    if split not in dataset.splits:
        raise StepError(f"data set '{dataset.name}' has no split '{split}'; splits: {', '.join(dataset.splits)}")
    limits = {"latency_ms": parse_quantity(max_latency, "latency")} if max_latency else {}
    result = verify(artifact, dataset, limits=limits, split=split, threads=threads, tuned=tuned)
    per_class = [{"class": name, "ap": ap, "ap50": ap50} for name, (ap, ap50) in result.per_class.items()]
    return {**msgspec.to_builtins(result), "met": result.met, "per_class": per_class}


def measure_artifact(artifact: Path, threads: int = 1, tuned: bool = False) -> dict[str, Any]:
    """Whole-network latency, and the time of each instruction in the median of several runs."""
    import numpy as np

    from nas.deploy.verify import measure

    run = measure(artifact, threads=threads, tuned=tuned)
    height, width = run.executor.metadata.input_size
    image = np.full((height, width, 3), 114, np.uint8)
    profiles = [run.executor.profile(image) for _ in range(15)]
    layers = [
        {"layer": rows[0].name, "op": rows[0].op, "variant": rows[0].variant, "us": float(np.median([row.us for row in rows]))}
        for rows in zip(*profiles)
    ]
    return {
        "artifact": str(artifact),
        "latency_ms": run.timing.median_ms,
        "iqr_ms": run.timing.iqr_ms,
        "ram_kib": run.ram_kib,
        "size_mb": run.size_mb,
        "throttled": run.timing.throttled,
        "layers": layers,
    }


def measure_local(progress: Progress) -> dict[str, Any]:
    from nas.deploy.local import measure_device

    return device_rows(measure_device(progress))


def list_devices() -> list[dict[str, Any]]:
    from hwmodels.device import known

    rows = [{"device": d.name, "board": d.board, "runtime": d.runtime, "precisions": ", ".join(d.precisions)} for d in known().values()]
    return [{"device": "local", "board": "this machine", "runtime": "edgenas", "precisions": "measured at first use"}, *rows]


def show_device(name: str, progress: Progress) -> dict[str, Any]:
    from nas.deploy.local import find_device

    return device_rows(find_device(name, progress))


def device_rows(device: Any) -> dict[str, Any]:
    return {key: value for key, value in device.facts().items() if value not in ({}, (), [], None, "")}


def doctor() -> dict[str, Any]:
    """What a person who asks for help should paste."""
    from nas.provenance import commit, cpu_name, versions
    from nas.runtime import executor

    places = [
        {"package": name, "from": str(Path(str(importlib.import_module(name).__file__)).parent)}
        for name in ("nas", "searchspaces", "proxies", "predictors", "hwmodels")
    ]
    kernels = {op: list(executor.variants(op)) for op in ("conv2d", "conv2d_f32")}
    engine: Mapping[str, Any] = {"isa": executor.isa(), **kernels}
    return {
        "cpu": cpu_name(),
        "commit": commit() or "not a checkout",
        "compiler": shutil.which("c++") or "none",
        "engine": engine,
        "versions": versions(),
        "packages": places,
    }


def _scores(history: Any) -> dict[str, Any]:
    last = history.epochs[-1]
    return {"epochs": len(history.epochs), "seconds": history.seconds, "map50": last.map50, "map": last.map}
