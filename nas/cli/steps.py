"""The steps of the main job, each alone on files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nas.cli.common import CHECK_FAILED, Accelerator, Data, Epochs, Json, Seed, Threads, Tuned, Verbose, progress, show

app = typer.Typer()


@app.command()
def train(
    genes: Annotated[Path, typer.Argument(help="JSON file of genes; missing ones take their first option.")],
    out: Annotated[Path, typer.Option(help="Model file to write (.safetensors).")],
    data: Data = "digits",
    space: Annotated[str, typer.Option(help="The search space of the genes.")] = "yolo",
    epochs: Epochs = 40,
    accelerator: Accelerator = "auto",
    seed: Seed = 0,
    json_: Json = False,
    verbose: Verbose = False,
) -> None:
    """Train one network from scratch in float; an interrupted training goes on."""
    from nas.steps import train_genes

    show(train_genes(genes, out, data, space, epochs, accelerator, seed, progress()), json_)


@app.command()
def quantize(
    model: Annotated[Path, typer.Argument(help="A float model (.safetensors) of `edgenas train`.")],
    out: Annotated[Path, typer.Option(help="Model file to write (.safetensors).")],
    data: Data = "digits",
    precision: Annotated[str, typer.Option(help="w8a8, w4a4, w2a2 ... for every stage; default: the genes' own.")] = "",
    epochs: Epochs = 10,
    accelerator: Accelerator = "auto",
    seed: Seed = 0,
    json_: Json = False,
    verbose: Verbose = False,
) -> None:
    """Quantization-aware training of a float model."""
    from nas.steps import quantize_model

    show(quantize_model(model, out, data, precision, epochs, accelerator, seed, progress()), json_)


@app.command("compile")
def compile_(
    model: Annotated[Path, typer.Argument(help="A float or quantized model (.safetensors).")],
    out: Annotated[Path, typer.Option(help="Artifact to write (.edge).")],
    tune: Annotated[bool, typer.Option("--tune", help="Also time the kernels of each layer here; --tuned then uses the fastest.")] = False,
    json_: Json = False,
    verbose: Verbose = False,
) -> None:
    """Compile a model to an artifact for our runtime."""
    from nas.steps import compile_file

    show(compile_file(model, out, tune), json_)


@app.command()
def verify(
    artifact: Annotated[Path, typer.Argument(help="A .edge artifact.")],
    data: Data = "digits",
    split: Annotated[str, typer.Option(help="Split to score on.")] = "val",
    max_latency: Annotated[str, typer.Option(help="With its unit: 6ms.")] = "",
    threads: Threads = 1,
    tuned: Tuned = False,
    json_: Json = False,
    verbose: Verbose = False,
) -> None:
    """What an artifact does on this machine: bit-exactness, mAP, latency, RAM, size.  Exit code 1 where a check fails."""
    from nas.steps import verify_file

    result = verify_file(artifact, data, split, max_latency, threads, tuned)
    show(result, json_)
    if not result["met"]:
        raise typer.Exit(CHECK_FAILED)


@app.command()
def measure(
    artifact: Annotated[Path | None, typer.Argument(help="A .edge artifact; without one, the device file of this machine is made.")] = None,
    threads: Threads = 1,
    tuned: Tuned = False,
    json_: Json = False,
    verbose: Verbose = False,
) -> None:
    """Time an artifact layer by layer on this machine, or measure this machine as device `local` (under a minute)."""
    from nas.steps import measure_artifact, measure_local

    if artifact is None and (threads != 1 or tuned):
        raise typer.BadParameter("the device file of this machine prices one thread and the usual kernels; name an artifact")
    show(measure_local(progress()) if artifact is None else measure_artifact(artifact, threads, tuned), json_)


@app.command()
def doctor(json_: Json = False, verbose: Verbose = False) -> None:
    """Versions, instruction sets, kernels chosen, and where each package comes from."""
    from nas.steps import doctor as examine

    show(examine(), json_)
