"""The main job and what comes after it: search, resume, report, export, predict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from nas.cli.common import Accelerator, Data, Epochs, Json, Seed, Threads, Tuned, Verbose, finish, progress

app = typer.Typer()


@app.command()
def search(
    out: Annotated[Path, typer.Option(help="Folder of the run; it must not hold one yet.")],
    data: Data = "digits",
    device: Annotated[str, typer.Option(help="A name from `edgenas devices list`, or a device file.")] = "local",
    max_latency: Annotated[str, typer.Option(help="With its unit: 6ms.")] = "",
    max_ram: Annotated[str, typer.Option(help="Peak of activations, with its unit: 512KiB.")] = "",
    max_flash: Annotated[str, typer.Option(help="Weights and plan, with its unit: 1MiB.")] = "",
    max_size: Annotated[str, typer.Option(help="Artifact file, with its unit: 2MB.")] = "",
    space: Annotated[str, typer.Option(help="The search space.")] = "yolo",
    strategy: Annotated[str, typer.Option(help="surrogate, nsga2, evolution, local, screening, random, or nni:NAME.")] = "surrogate",
    objectives: Annotated[
        str, typer.Option(help="Columns that make the front: latency, score, ram, flash, size, energy. With over two NSGA-II asks.")
    ] = "latency,score",
    budget: Annotated[int, typer.Option(help="Candidates that are scored.")] = 500,
    finalists: Annotated[int, typer.Option(help="Candidates that are trained, compiled and verified.")] = 3,
    halving: Annotated[
        int, typer.Option(help="Candidates that are trained for a few epochs first; a third goes on, until the finalists remain. 0: none.")
    ] = 0,
    layer_bits: Annotated[
        bool, typer.Option("--layer-bits", help="Choose each layer's bits anew for what is trained in float, within latency and size.")
    ] = False,
    epochs: Epochs = 40,
    proxy: Annotated[str, typer.Option(help="A proxy in place of the accuracy score; see `edgenas proxies list`.")] = "",
    workers: Annotated[int, typer.Option(help="Processes that score candidates; the trials do not depend on it.")] = 1,
    accelerator: Accelerator = "auto",
    seed: Seed = 0,
    json_: Json = False,
    verbose: Verbose = False,
) -> None:
    """The main job: search under hard limits, train the finalists, compile them, measure them, re-rank, report."""
    from nas.finalist import Recipe
    from nas.job import SearchSettings
    from nas.job import search as run_job
    from nas.objectives import parse_quantity

    given = {
        "latency_ms": (max_latency, "latency"),
        "ram_kib": (max_ram, "ram"),
        "flash_kib": (max_flash, "flash"),
        "size_mb": (max_size, "size"),
    }
    limits = {name: parse_quantity(text, kind) for name, (text, kind) in given.items() if text}
    settings = SearchSettings(
        data=data,
        device=device,
        space=space,
        strategy=strategy,
        budget=budget,
        finalists=finalists,
        halving=halving,
        layer_bits=layer_bits,
        objectives=tuple(name.strip() for name in objectives.split(",") if name.strip()),
        limits=limits,
        proxy=proxy,
        workers=workers,
        seed=seed,
        recipe=Recipe(epochs=epochs, accelerator=accelerator, seed=seed),
    )
    finish(run_job(settings, out, progress()), json_)


@app.command()
def resume(run: Path, json_: Json = False, verbose: Verbose = False) -> None:
    """Go on with a run after Ctrl-C, kill -9 or a reboot: nothing finished is done again."""
    from nas.job import resume as resume_job

    finish(resume_job(run, progress()), json_)


@app.command()
def report(
    run: Path, out: Annotated[Path | None, typer.Option(help="Default: report.html in the run.")] = None, verbose: Verbose = False
) -> None:
    """One self-contained HTML page: front, predicted and measured, pictures with boxes, provenance."""
    from nas.job import Run
    from nas.report import write_report

    print(write_report(Run.open(run), out))


@app.command()
def export(
    run: Path,
    pick: Annotated[str, typer.Option(help="knee, best, fastest or a trial number.")] = "knee",
    format: Annotated[str, typer.Option(help="edge, onnx (fp32) or onnx-int8.")] = "edge",
    out: Annotated[Path | None, typer.Option(help="File to write.")] = None,
    verbose: Verbose = False,
) -> None:
    """A Pareto-optimal model, ready to run."""
    from nas.job import Run

    print(Run.open(run).export(pick, format, out))


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="A .edge artifact or one of our .onnx exports.")],
    images: Annotated[Path, typer.Argument(help="An image, or a folder of images.")],
    save: Annotated[Path | None, typer.Option(help="Where to draw: a file for one image, a folder for a folder.")] = None,
    score: Annotated[float, typer.Option(help="Boxes below this score are left out.")] = 0.25,
    threads: Threads = 1,
    tuned: Tuned = False,
    json_: Json = False,
    verbose: Verbose = False,
) -> None:
    """Detect objects in images and draw their boxes."""
    from nas.predict import predict as run_predict

    for row in run_predict(model, images, save, score, threads, tuned):
        if json_:
            print(json.dumps(row))
        else:
            found = ", ".join(f"{o['class']} {o['score']:.2f}" for o in row["objects"]) or "nothing found"
            print(f"{row['image']}: {found}" + (f" -> {row['saved']}" if row.get("saved") else ""))
