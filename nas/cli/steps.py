"""The steps of the main job, each alone on files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nas.cli.common import CHECK_FAILED, Accelerator, Data, Epochs, Json, Seed, Threads, Tuned, Verbose, progress, show

app = typer.Typer()

On = Annotated[str, typer.Option("--on", help="local, qemu-aarch64, qemu-arm, or ssh://user@host[:port].")]
Runner = Annotated[Path | None, typer.Option(help="A runner of `compile --target` for that place; without one it is built here.")]
SshConfig = Annotated[Path | None, typer.Option(help="An ssh_config file instead of your own: keys, known hosts, jump hosts.")]


@app.command()
def train(
    genes: Annotated[Path, typer.Argument(help="JSON file of genes; missing ones take their first option. Or a float model to train on.")],
    out: Annotated[Path, typer.Option(help="Model file to write (.safetensors).")],
    data: Data = "digits",
    space: Annotated[str, typer.Option(help="The search space of the genes.")] = "yolo",
    start: Annotated[Path | None, typer.Option(help="Start weights: any model of ours, .safetensors or a torch state dict.")] = None,
    teacher: Annotated[Path | None, typer.Option(help="A float model (.safetensors), such as a larger one, to learn from too.")] = None,
    patience: Annotated[int, typer.Option(help="Stop after so many epochs without a better mAP and keep the best; 0: never.")] = 0,
    repeat_rare: Annotated[float, typer.Option(help="Show images of classes in less than this share of them more often, 0..1.")] = 0.0,
    epochs: Epochs = 40,
    accelerator: Accelerator = "auto",
    seed: Seed = 0,
    json_: Json = False,
    verbose: Verbose = False,
) -> None:
    """Train one network in float, from scratch or from somebody's weights; an interrupted training goes on."""
    from nas.steps import train_genes, train_onward

    if genes.suffix == ".safetensors":
        if start is not None or teacher is not None:
            raise typer.BadParameter("a model is trained on from its own weights, without a teacher; leave --start and --teacher out")
        show(train_onward(genes, out, data, epochs, accelerator, seed, progress(), patience=patience, repeat_rare=repeat_rare), json_)
        return
    found = train_genes(
        genes, out, data, space, start, epochs, accelerator, seed, progress(), teacher=teacher, patience=patience, repeat_rare=repeat_rare
    )
    show(found, json_)


@app.command()
def quantize(
    model: Annotated[Path, typer.Argument(help="A float model (.safetensors) of `edgenas train`.")],
    out: Annotated[Path, typer.Option(help="Model file to write (.safetensors).")],
    data: Data = "digits",
    precision: Annotated[str, typer.Option(help="w8a8, w4a4, w2a2 ... for every layer; default: the genes' own.")] = "",
    target_latency: Annotated[str, typer.Option(help="Choose each layer's bits within this: 4ms.")] = "",
    target_size: Annotated[str, typer.Option(help="Choose each layer's bits so that the artifact is no larger: 1MB.")] = "",
    device: Annotated[str, typer.Option(help="Device on which a target latency is meant.")] = "local",
    sensitivity: Annotated[str, typer.Option(help="What tells which layers mind: loss, hessian or noise.")] = "loss",
    epochs: Epochs = 10,
    accelerator: Accelerator = "auto",
    seed: Seed = 0,
    json_: Json = False,
    verbose: Verbose = False,
) -> None:
    """Quantization-aware training of a float model, at given bits or at those that a target leaves each layer."""
    from nas.objectives import parse_quantity
    from nas.steps import quantize_model

    limits = {"latency_ms": parse_quantity(target_latency, "latency")} if target_latency else {}
    limits |= {"size_mb": parse_quantity(target_size, "size")} if target_size else {}
    show(quantize_model(model, out, data, precision, limits, device, sensitivity, epochs, accelerator, seed, progress()), json_)


@app.command()
def activations(
    model: Annotated[Path, typer.Argument(help="A float model (.safetensors) of `edgenas train`.")],
    out: Annotated[Path, typer.Option(help="Model file to write (.safetensors): float, to be trained on with `train` and `quantize`.")],
    target_latency: Annotated[str, typer.Option(help="Of the whole compiled net, with its unit: 4ms.")],
    data: Data = "digits",
    device: Annotated[str, typer.Option(help="Device on which the latency is meant.")] = "local",
    candidates: Annotated[str, typer.Option(help="With commas between them; default: relu,relu6,leaky_relu,hardswish,silu.")] = "",
    precision: Annotated[str, typer.Option(help="Bits at which it will run: w8a8, w2a2 ...; default: the genes' own.")] = "",
    per: Annotated[str, typer.Option(help="One choice a layer, or one a part of the net (stem, stage1, ..).")] = "layer",
    sensitivity: Annotated[str, typer.Option(help="What tells which sites mind: loss (of the trained net) or nwot.")] = "loss",
    check: Annotated[int, typer.Option(help="Random mixes that are measured too, to see how well the sites' costs add up.")] = 0,
    seed: Seed = 0,
    json_: Json = False,
    verbose: Verbose = False,
) -> None:
    """Choose the activation of each layer within a latency, by what each costs on the device and what the net minds."""
    from nas.objectives import parse_quantity

    limit = parse_quantity(target_latency, "latency")  # a wrong unit is said before torch is loaded
    from nas.activations import mix_file
    from searchspaces.yolo import ACTS

    names = dict.fromkeys(name.strip() for name in candidates.split(",") if name.strip())
    show(mix_file(model, out, data, limit, device, tuple(names) or ACTS, precision, per, sensitivity, check, seed, progress()), json_)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A .pt2 file of torch.export.save; nothing in it is run or unpickled.")],
    out: Annotated[Path, typer.Option(help="Model file to write (.safetensors).")],
    classes: Annotated[str, typer.Option(help="Names, with commas between them; default: class0, class1, ..")] = "",
    strides: Annotated[str, typer.Option(help="A detector's, such as 8,16,32: its outputs are raw maps, and boxes are decoded here.")] = "",
    bins: Annotated[int, typer.Option(help="Bins of a detector's box sides.")] = 16,
    mean: Annotated[str, typer.Option(help="Of a net that wants (image - mean) / std, images in 0..1: one number or one a channel.")] = "",
    std: Annotated[str, typer.Option(help="See --mean.")] = "",
    json_: Json = False,
    verbose: Verbose = False,
) -> None:
    """Take in a network of your own, from torch.export."""
    from nas.steps import import_file

    show(import_file(file, out, classes, strides, bins, mean, std), json_)


@app.command("compile")
def compile_(
    model: Annotated[Path, typer.Argument(help="A float or quantized model (.safetensors).")],
    out: Annotated[Path, typer.Option(help="Artifact to write (.edge).")],
    tune: Annotated[bool, typer.Option("--tune", help="Also time the kernels of each layer here; --tuned then uses the fastest.")] = False,
    target: Annotated[str, typer.Option(help="aarch64, armv7 or x86_64: also a static runner for it, beside the artifact.")] = "",
    json_: Json = False,
    verbose: Verbose = False,
) -> None:
    """Compile a model to an artifact for our runtime."""
    from nas.steps import compile_file

    show(compile_file(model, out, target, tune, progress()), json_)


@app.command()
def verify(
    artifact: Annotated[Path, typer.Argument(help="A .edge artifact.")],
    data: Data = "digits",
    split: Annotated[str, typer.Option(help="Split to score on.")] = "val",
    max_latency: Annotated[str, typer.Option(help="With its unit: 6ms.")] = "",
    threads: Threads = 1,
    tuned: Tuned = False,
    on: On = "local",
    runner: Runner = None,
    ssh_config: SshConfig = None,
    json_: Json = False,
    verbose: Verbose = False,
) -> None:
    """What an artifact does on a machine: bit-exactness, mAP, latency, RAM, size.

    Exit code 1 where a check fails, 4 where a device cannot be reached or the connection is lost: the command can be run again.
    """
    from nas.steps import Where, verify_file

    result = verify_file(artifact, data, split, max_latency, Where(on, runner, ssh_config, threads, tuned), progress())
    show(result, json_)
    if not result["met"]:
        raise typer.Exit(CHECK_FAILED)


@app.command()
def measure(
    artifact: Annotated[Path | None, typer.Argument(help="A .edge artifact; without one, the device file of this machine is made.")] = None,
    threads: Threads = 1,
    tuned: Tuned = False,
    on: On = "local",
    runner: Runner = None,
    ssh_config: SshConfig = None,
    json_: Json = False,
    verbose: Verbose = False,
) -> None:
    """Time an artifact layer by layer on a machine, or measure this machine as device `local` (under a minute)."""
    from nas.steps import Where, measure_artifact, measure_local

    where = Where(on, runner, ssh_config, threads, tuned)
    if artifact is None and where != Where():
        raise typer.BadParameter("without an artifact, the device file of this machine is made, for one thread and the usual kernels")
    show(measure_local(progress()) if artifact is None else measure_artifact(artifact, where, progress()), json_)


@app.command()
def doctor(json_: Json = False, verbose: Verbose = False) -> None:
    """Versions, instruction sets, kernels chosen, and where each package comes from."""
    from nas.steps import doctor as examine

    show(examine(), json_)
