"""The steps of the main job one at a time, on files, as the command line offers them.  Each returns plain data to show."""

from __future__ import annotations

import hashlib
import importlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from hwmodels.device import LOCAL
from nas.progress import Progress
from searchspaces import SPACES, Arch, Space

if TYPE_CHECKING:
    from nas.data import Dataset
    from nas.deploy.places import Place
    from nas.model import Model
    from searchspaces import Weights

STEP_FOLDER = ".{name}.training"  # beside the model that is being made; it goes when the model is there


class StepError(ValueError):
    """A step that cannot be done on what it was given."""


@dataclass(frozen=True)
class Where:
    """Where and how a step runs an artifact, as the command line says it: on 'local', an emulator, or ssh://user@host."""

    on: str = LOCAL
    runner: Path | None = None
    ssh_config: Path | None = None
    threads: int = 1
    tuned: bool = False  # by this machine's table, so for this machine

    def place(self) -> Place | None:
        """None for this machine."""
        from nas.deploy.places import place_named

        if self.on != LOCAL and self.tuned:
            raise StepError(f"--tuned takes this machine's table of kernels; --on {self.on} is another machine")
        return None if self.on == LOCAL else place_named(self.on, self.ssh_config)


HERE = Where()


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


def training_folder(out: Path, **files: Path | None) -> Path:
    """Where the training that makes `out` keeps itself until it is done, started with these files.

    Raises StepError where an interrupted one was started with others, which its checkpoint alone cannot know.
    """
    from nas.model import write_whole
    from nas.train.fit import CHECKPOINT

    folder = out.parent / STEP_FOLDER.format(name=out.name)
    kept = folder / "started-with.json"
    asked = {option: _digest(file) for option, file in files.items() if file is not None}
    found = json.loads(kept.read_text()) if kept.exists() and any(folder.rglob(CHECKPOINT)) else asked
    for option in dict.fromkeys([*found, *asked]):
        if found.get(option) != asked.get(option):
            had = "no" if option not in found else "a" if option not in asked else "another"
            raise StepError(f"{folder} holds an interrupted training that had {had} {option}: start it as before, or delete the folder")
    write_whole(kept, json.dumps(asked).encode())
    return folder


def _digest(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as fault:
        raise StepError(f"{file}: {fault.strerror}") from None


def train_genes(
    genes: Path, out: Path, data: str, space: str, start: Path | None, epochs: int, accelerator: str, seed: int, progress: Progress,
    *, teacher: Path | None = None, patience: int = 0, repeat_rare: float = 0.0,
) -> dict[str, Any]:  # fmt: skip
    """From scratch, or from what the file `start` has that fits; with the maps of the float model `teacher` as further targets."""
    from nas.data import load
    from nas.finalist import Recipe, train_float
    from nas.model import save
    from nas.start import started, teacher_from
    from nas.train import TrainSettings
    from searchspaces.quantizers import floated

    arch, dataset = read_genes(genes, space_named(space)), load(data)
    graph = SPACES[space].build(arch, len(dataset.classes))
    train = TrainSettings(patience=patience, repeat_rare=repeat_rare)
    recipe = Recipe(epochs=epochs, accelerator=accelerator, seed=seed, train=train)
    settings = recipe.for_float(int(arch["resolution"]), dataset, quantized=False)
    folder = training_folder(out, genes=genes, start=start, teacher=teacher)
    said: dict[str, Any] = {}

    def from_file(weights: Weights) -> Weights:
        assert start is not None
        found, said["start"] = started(start, floated(graph), weights)
        return found

    with progress.task("train", epochs) as task:
        model, history = train_float(
            graph,
            dataset,
            settings,
            folder,
            lambda stage, record: task.advance(1),
            from_file if start is not None else None,
            teacher_from(teacher, graph, dataset.classes) if teacher is not None else None,
        )
    save(model, out)
    shutil.rmtree(folder, ignore_errors=True)
    return {"model": str(out), **_scores(history), **said}


def train_onward(
    model: Path, out: Path, data: str, epochs: int, accelerator: str, seed: int, progress: Progress, *, patience: int = 0,
    repeat_rare: float = 0.0,
) -> dict[str, Any]:  # fmt: skip
    """A float model from its own weights, at the rate of a fine-tuning, such as one whose activations were chosen."""
    from nas.finalist import Recipe, train_float
    from nas.model import save
    from nas.train import TrainSettings

    trained, dataset = float_detector(model, data)
    train = TrainSettings(patience=patience, repeat_rare=repeat_rare)
    settings = Recipe(epochs=epochs, qat_share=1.0, accelerator=accelerator, seed=seed, train=train).for_qat(trained.size, dataset)
    folder = training_folder(out, model=model)
    with progress.task("train", epochs) as task:
        result, history = train_float(
            trained.graph, dataset, settings, folder, lambda stage, record: task.advance(1), lambda random: trained.weights
        )
    save(result, out)
    shutil.rmtree(folder, ignore_errors=True)
    return {"model": str(out), **_scores(history)}


def import_file(file: Path, out: Path, classes: str, strides: str, bins: int, mean: str, std: str) -> dict[str, Any]:
    """A .pt2 file as a float model; lists come as text with commas."""
    from nas.importer import Decode
    from nas.importer import import_file as convert
    from nas.model import Model, save

    names = tuple(name.strip() for name in classes.split(",") if name.strip())
    if strides and not names:
        raise StepError("a detector's maps do not say which of their channels are classes: name them with --classes")
    decode = Decode(tuple(int(stride) for stride in _numbers("strides", strides)), len(names), bins) if strides else None
    graph, weights = convert(file, mean=_numbers("mean", mean) or None, std=_numbers("std", std) or None, decode=decode)
    outputs = [graph[name].shape for name in graph.outputs]
    found = decode.classes if decode else outputs[0][0]
    names = names or tuple(f"class{k}" for k in range(found))
    if len(names) != found:
        raise StepError(f"{len(names)} classes are named, and the first output of {file} has {found} channels")
    save(Model(graph, weights, names, "float", {"imported": file.name}), out)
    counts = {"nodes": len(graph.nodes), "parameters": sum(array.size for array in weights.arrays().values())}
    return {"model": str(out), "input": graph.of("input")[0].shape, "outputs": outputs, **counts}


def _numbers(option: str, text: str) -> list[float]:
    try:
        return [float(number) for number in text.split(",") if number.strip()]
    except ValueError:
        raise StepError(f"--{option} {text}: want numbers with commas between them") from None


def quantize_model(
    model: Path, out: Path, data: str, precision: str, limits: Mapping[str, float], device: str, sensitivity: str, epochs: int,
    accelerator: str, seed: int, progress: Progress,
) -> dict[str, Any]:  # fmt: skip
    """Bits of the genes, of one `precision` for all layers, or chosen for each layer within `limits` of 'latency_ms' and 'size_mb'."""
    from nas.finalist import Recipe, train_quantized
    from nas.model import save
    from nas.quant import at_precision

    if precision and limits:
        raise StepError("--precision gives every layer its bits; leave it out where a target is to choose them")
    trained, dataset = float_detector(model, data)
    chosen: dict[str, Any] = {}
    if precision:
        trained = replace(trained, graph=at_precision(trained.graph, precision))
    elif limits:
        trained, chosen = with_chosen_bits(trained, dataset, limits, device, sensitivity, progress)
    recipe = Recipe(epochs=epochs, qat_share=1.0, accelerator=accelerator, seed=seed)
    folder = training_folder(out, model=model)
    with progress.task("quantize", epochs) as task:
        result, history = train_quantized(
            trained, dataset, recipe.for_qat(trained.size, dataset), recipe.qat, folder, lambda stage, record: task.advance(1)
        )
    save(result, out)
    shutil.rmtree(folder, ignore_errors=True)
    return {"model": str(out), **_scores(history), **chosen}


def float_detector(path: Path, data: str) -> tuple[Model, Dataset]:
    """A trained float model and the data set of its classes; raises StepError for anything else."""
    from nas.data import load as load_data
    from nas.model import load

    trained, dataset = load(path), load_data(data)
    if trained.stage != "float":
        raise StepError(f"{path} is quantized already; take the float model that it came from")
    if not trained.graph.of("dfl_decode") or trained.graph.of("input")[0].shape[1] != trained.size:
        raise StepError(f"{path} takes {trained.graph.of('input')[0].shape} images; square detectors are trained (import: --strides)")
    if trained.classes != dataset.classes:
        raise StepError(f"{path} knows the classes {', '.join(trained.classes)}; {data} has {', '.join(dataset.classes)}")
    return trained, dataset


def with_chosen_bits(
    trained: Model, dataset: Dataset, limits: Mapping[str, float], device: str, sensitivity: str, progress: Progress
) -> tuple[Model, dict[str, Any]]:
    """A float model with the least sensitive bits within the limits on its graph, and what was chosen, to show."""
    from nas.deploy.local import find_device
    from nas.finalist import calibration_batches
    from nas.quant.choice import choose
    from nas.quant.precisions import mixed

    images = list(calibration_batches(dataset, trained.size, 2))
    found = choose(
        trained.graph, trained.weights, images, len(dataset.classes), find_device(device, progress), limits, measure=sensitivity
    )
    layers = [{"layer": name, "precision": p, "sensitivity": found.sensitivity[name][p]} for name, p in found.precisions.items()]
    return replace(trained, graph=mixed(trained.graph, found.precisions)), {**found.costs, "layers": layers}


def compile_file(
    model: Path, out: Path, target: str = "", tuned: bool = False, progress: Progress | None = None
) -> dict[str, Any]:
    from nas.deploy.runner import PROGRAM, runner_for, target_named
    from nas.finalist import compile_model
    from nas.model import load, write_whole

    wanted = target_named(target) if target else None
    compile_model(load(model), out, {"model": model.name})
    found: dict[str, Any] = {"artifact": str(out), "size_mb": out.stat().st_size / 1e6}
    if wanted is not None:
        runner = out.with_name(f"{PROGRAM}-{wanted.name}")
        write_whole(runner, runner_for(wanted, progress).read_bytes())
        runner.chmod(0o755)
        found |= {"runner": str(runner), "runner_mb": runner.stat().st_size / 1e6}
    return found | (tune_file(out) if tuned else {})


def tune_file(artifact: Path) -> dict[str, Any]:
    """Times the kernels of each convolution on this machine and keeps the choice beside the artifact's own business, in the cache."""
    from nas.runtime.tune import keep, tune

    choices = tune(artifact.read_bytes())
    rows = [{"layer": c.key, "usual": c.usual, "us": c.usual_us, "fastest": c.fastest, "fastest_us": c.fastest_us} for c in choices]
    changed = [c for c in choices if c.fastest != c.usual]
    gain = sum(c.usual_us for c in choices) / max(1e-9, sum(c.fastest_us for c in choices))
    return {"tuned": str(keep(choices)), "layers_changed": len(changed), "gain": gain, "layers": rows}


def verify_file(
    artifact: Path, data: str, split: str, max_latency: str, where: Where = HERE, progress: Progress | None = None
) -> dict[str, Any]:
    from nas.data import load
    from nas.finalist import verify
    from nas.objectives import parse_quantity

    place = where.place()
    dataset = load(data)
    if split not in dataset.splits:
        raise StepError(f"data set '{dataset.name}' has no split '{split}'; splits: {', '.join(dataset.splits)}")
    limits = {"latency_ms": parse_quantity(max_latency, "latency")} if max_latency else {}
    if place is None:
        result: Any = verify(artifact, dataset, limits=limits, split=split, threads=where.threads, tuned=where.tuned)
    else:
        from nas.on_device import verify_on

        result = verify_on(
            place, artifact, dataset, limits=limits, split=split, runner=where.runner, progress=progress, threads=where.threads
        )
    per_class = [{"class": name, "ap": ap, "ap50": ap50} for name, (ap, ap50) in result.per_class.items()]
    note = {"note": "emulated: correctness only; latency and peak memory need the device"} if place and place.emulated else {}
    return {**msgspec.to_builtins(result), "met": result.met, **note, "per_class": per_class}


def measure_artifact(artifact: Path, where: Where = HERE, progress: Progress | None = None) -> dict[str, Any]:
    """Whole-network latency, and the time of each instruction in the median of several runs."""
    import numpy as np

    from nas.deploy.verify import grey, measure

    if (place := where.place()) is not None:
        from nas.on_device import measure_on

        return measure_on(place, artifact, runner=where.runner, progress=progress, threads=where.threads)
    run = measure(artifact, threads=where.threads, tuned=where.tuned)
    image = grey(run.executor)
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
