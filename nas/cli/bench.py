"""Measurements side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nas.cli.common import Accelerator, Data, JsonFile, Seed, Verbose, group, progress, write

app = group("Measurements side by side, in one alternating run.")

Tables = Annotated[Path, typer.Option(help="Folder of the YOLOBench tables (CSV).")]


@app.command("kernels")
def bench_kernels(
    layers: Annotated[str, typer.Option(help="Names such as y1,r4; default: all 17.")] = "",
    bits: Annotated[str, typer.Option(help="Bit-widths such as w2a2,w1a1; default: all, fp32 included.")] = "",
    isa: Annotated[str, typer.Option(help="avx512, avx2, neon or portable; default: what this CPU has.")] = "",
    peers: Annotated[str, typer.Option(help="Engines, separated by commas, or none; default: every one that is installed.")] = "",
    threads: Annotated[int, typer.Option(help="Threads of every engine; more than 1 also times ours with one.")] = 1,
    seconds: Annotated[float, typer.Option(help="Time of each contender on each layer, s.")] = 0.1,
    json_: JsonFile = None,
    verbose: Verbose = False,
) -> None:
    """Our convolutions on 17 layers, beside the int8 and fp32 ones of every engine that is installed, alternating."""
    from nas.bench.kernels import run

    shown = progress()
    write(run(_names(layers), _names(bits), isa=isa, peers=_names(peers), threads=threads, seconds=seconds, progress=shown), json_)


@app.command("instructions")
def bench_instructions(
    on: Annotated[str, typer.Option(help="qemu-aarch64 or qemu-arm; the environment variable QEMU_CPU chooses the core.")] = "qemu-aarch64",
    layers: Annotated[str, typer.Option(help="Names such as y1,r4, as of bench kernels.")] = "y8",
    bits: Annotated[str, typer.Option(help="Bit-widths such as w2a2,w1a1; default: all but fp32.")] = "",
    isa: Annotated[str, typer.Option(help="neon leaves the dot product out, portable everything; default: what the core has.")] = "",
    json_: JsonFile = None,
    verbose: Verbose = False,
) -> None:
    """Instructions of an Arm CPU that our convolutions take for each multiply-add, counted under QEMU; no times."""
    from nas.bench.instructions import run

    write(run(on, _names(layers), _names(bits), isa, progress()), json_)


@app.command("model")
def bench_model(
    models: Annotated[str, typer.Option(help="yolov5n, yolov8n, resnet18; default: all.")] = "",
    precisions: Annotated[str, typer.Option(help="Of ours, such as w2a2,w4a4; default: w2a2,w4a4,w8a8.")] = "",
    acts: Annotated[str, typer.Option(help="silu, relu; default: both for the detectors, relu for resnet18.")] = "",
    peers: Annotated[str, typer.Option(help="litert, openvino, onnxruntime; default: every one that is installed.")] = "",
    isa: Annotated[str, typer.Option(help="avx512, avx2, neon or portable; default: what this CPU has.")] = "",
    threads: Annotated[int, typer.Option(help="Threads of every engine.")] = 1,
    size: Annotated[int, typer.Option(help="Side of the input, px; 0: 320 for detectors, 224 for resnet18.")] = 0,
    seconds: Annotated[float, typer.Option(help="Time of each contender, s.")] = 1.0,
    json_: JsonFile = None,
    verbose: Verbose = False,
) -> None:
    """Whole networks at several precisions: latency, file and memory beside the int8 and fp32 of the engines that are installed."""
    from nas.bench.model import run

    shown = progress()
    write(run(_names(models), _names(precisions), _names(acts), _names(peers), isa, threads, size, seconds, shown), json_)


@app.command("yolobench")
def bench_yolobench(
    tables: Tables,
    proxies: Annotated[str, typer.Option(help="Names, separated by commas, or 'all' (hours).")] = "nwot_conv",
    models: Annotated[int, typer.Option(help="Networks that each proxy scores at their own resolution.")] = 140,
    out: Annotated[Path | None, typer.Option(help="Folder for the picture of the fronts.")] = None,
    seed: Seed = 0,
    json_: JsonFile = None,
    verbose: Verbose = False,
) -> None:
    """How well proxies rank, predictors time and the toolkit selects 968 measured detectors, beside the counting baselines."""
    from nas.bench.yolobench import run

    write(run(tables, proxies=_names(proxies), models=models, out=out, seed=seed, progress=progress()), json_)


@app.command("search")
def bench_search(
    tables: Tables,
    searchers: Annotated[str, typer.Option(help="Names, separated by commas; default: ours and every peer installed.")] = "",
    devices: Annotated[str, typer.Option(help="Names, separated by commas; default: the protocol's six.")] = "",
    data: Annotated[str, typer.Option(help="Data sets, separated by commas: voc-scratch, voc, coco, sku110k, widerface.")] = "voc-scratch",
    latency: Annotated[str, typer.Option(help="known, predicted (from 20 measured networks), or both with a comma.")] = "known",
    seeds: Annotated[int, typer.Option(help="Searches over which the median is taken.")] = 50,
    budget: Annotated[int, typer.Option(help="Accuracies after which a search ends.")] = 1000,
    workers: Annotated[int, typer.Option(help="Processes.")] = 1,
    json_: JsonFile = None,
    verbose: Verbose = False,
) -> None:
    """How many trainings each searcher needs on tables of measured detectors, ours beside pymoo, Optuna and NNI."""
    from nas.bench.search import DEVICES, run
    from nas.bench.tables import load

    shown = progress()
    found = run(load(tables), searchers=_names(searchers) or None, devices=_names(devices) or DEVICES, data=_names(data),
                latencies=_names(latency), seeds=seeds, budget=budget, workers=workers, note=shown.say)  # fmt: skip
    write(found, json_)


@app.command("scale")
def bench_scale(
    candidates: Annotated[int, typer.Option(help="Random networks of the joint space.")] = 10_000,
    device: Annotated[str, typer.Option(help="A name from `edgenas devices list`, or a device file.")] = "raspi4-edgenas",
    seed: Seed = 0,
    json_: JsonFile = None,
    verbose: Verbose = False,
) -> None:
    """What one core needs to cost random candidates: latency, RAM, flash and counts, part by part."""
    from hwmodels.device import load
    from nas.bench.scale import run

    with progress().task("candidates", candidates) as task:
        found = run(load(device), candidates, seed, lambda done: task.advance(1))
    write(found, json_)


@app.command("accuracy")
def bench_accuracy(
    tables: Annotated[str, typer.Option(help="Names, separated by commas; default: all.")] = "",
    data: Data = "digits",
    epochs: Annotated[int, typer.Option(help="Of a float training; what starts from its weights takes a half or less.")] = 60,
    size: Annotated[int, typer.Option(help="Side of the images in pixels, where it is not searched.")] = 160,
    seeds: Annotated[int, typer.Option(help="Trainings over which mean and spread are taken.")] = 3,
    accelerator: Accelerator = "auto",
    out: Annotated[Path, typer.Option(help="Folder of the results; what is there is not done again.")] = Path("runs/accuracy"),
    json_: JsonFile = None,
    verbose: Verbose = False,
) -> None:
    """What trainings, bit-widths and searched networks reach over seeds: hours, which are said before it starts."""
    from nas.bench.accuracy import Plan, named, run

    write(run(named(_names(tables)), Plan(data, epochs, seeds, accelerator, out, size), progress()), json_)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
