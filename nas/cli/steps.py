"""The steps of the main job, each alone on files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nas.cli.common import CHECK_FAILED, Accelerator, Data, Epochs, Json, Seed, Verbose, progress, show

app = typer.Typer()

On = Annotated[str, typer.Option("--on", help="local, qemu-aarch64, qemu-arm, or ssh://user@host[:port].")]
Runner = Annotated[Path | None, typer.Option(help="A runner of `compile --target` for that place; without one it is built here.")]
SshConfig = Annotated[Path | None, typer.Option(help="An ssh_config file instead of your own: keys, known hosts, jump hosts.")]


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
    target: Annotated[str, typer.Option(help="aarch64, armv7 or x86_64: also a static runner for it, beside the artifact.")] = "",
    json_: Json = False,
    verbose: Verbose = False,
) -> None:
    """Compile a model to an artifact for our runtime."""
    from nas.steps import compile_file

    show(compile_file(model, out, target, progress()), json_)


@app.command()
def verify(
    artifact: Annotated[Path, typer.Argument(help="A .edge artifact.")],
    data: Data = "digits",
    split: Annotated[str, typer.Option(help="Split to score on.")] = "val",
    max_latency: Annotated[str, typer.Option(help="With its unit: 6ms.")] = "",
    on: On = "local",
    runner: Runner = None,
    ssh_config: SshConfig = None,
    json_: Json = False,
    verbose: Verbose = False,
) -> None:
    """What an artifact does on a machine: bit-exactness, mAP, latency, RAM, size.

    Exit code 1 where a check fails, 4 where a device cannot be reached or the connection is lost: the command can be run again.
    """
    from nas.steps import Elsewhere, verify_file

    result = verify_file(artifact, data, split, max_latency, Elsewhere(on, runner, ssh_config), progress())
    show(result, json_)
    if not result["met"]:
        raise typer.Exit(CHECK_FAILED)


@app.command()
def measure(
    artifact: Annotated[Path | None, typer.Argument(help="A .edge artifact; without one, the device file of this machine is made.")] = None,
    on: On = "local",
    runner: Runner = None,
    ssh_config: SshConfig = None,
    json_: Json = False,
    verbose: Verbose = False,
) -> None:
    """Time an artifact layer by layer on a machine, or measure this machine as device `local` (under a minute)."""
    from nas.steps import Elsewhere, measure_artifact, measure_local

    if artifact is None and on != "local":
        raise typer.BadParameter(f"--on {on} times an artifact: give a .edge file")
    elsewhere = Elsewhere(on, runner, ssh_config)
    show(measure_local(progress()) if artifact is None else measure_artifact(artifact, elsewhere, progress()), json_)


@app.command()
def doctor(json_: Json = False, verbose: Verbose = False) -> None:
    """Versions, instruction sets, kernels chosen, and where each package comes from."""
    from nas.steps import doctor as examine

    show(examine(), json_)
