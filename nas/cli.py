"""The command `edgenas`.  Each command says what it takes; the work is elsewhere and loaded on first use.

Exit codes: 0 done, 1 a check failed, 2 bad input, 3 nothing fits the limits, 130 interrupted.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Searches, trains, quantizes, compiles and verifies object detectors within a device's limits.",
)
proxies_app = typer.Typer(no_args_is_help=True, help="Zero-cost proxies: scores of untrained nets.")
devices_app = typer.Typer(no_args_is_help=True, help="Devices: what they price, where each number comes from, how wrong it is.")
data_app = typer.Typer(no_args_is_help=True, help="Data sets: VOC folders, YOLO data.yaml, COCO JSON, or 'digits'.")
bench_app = typer.Typer(no_args_is_help=True, help="Measurements side by side, in one alternating run.")
app.add_typer(proxies_app, name="proxies")
app.add_typer(devices_app, name="devices")
app.add_typer(data_app, name="data")
app.add_typer(bench_app, name="bench")

DONE, CHECK_FAILED, BAD_INPUT, NOTHING_FITS, INTERRUPTED = 0, 1, 2, 3, 130

Data = Annotated[str, typer.Option(help="VOC folder, YOLO data.yaml, COCO JSON, or 'digits' (embedded).")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Show a traceback where something fails.")]
Epochs = Annotated[int, typer.Option(help="Epochs of each finalist, quantized ones included.")]
Accelerator = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]


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
    strategy: Annotated[str, typer.Option(help="nsga2, evolution or random.")] = "nsga2",
    budget: Annotated[int, typer.Option(help="Candidates that are scored.")] = 500,
    finalists: Annotated[int, typer.Option(help="Candidates that are trained, compiled and verified.")] = 3,
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
        limits=limits,
        proxy=proxy,
        workers=workers,
        seed=seed,
        recipe=Recipe(epochs=epochs, accelerator=accelerator, seed=seed),
    )
    _finish(run_job(settings, out, _progress()), json_)


@app.command()
def resume(run: Path, json_: Json = False, verbose: Verbose = False) -> None:
    """Go on with a run after Ctrl-C, kill -9 or a reboot: nothing finished is done again."""
    from nas.job import resume as resume_job

    _finish(resume_job(run, _progress()), json_)


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
    json_: Json = False,
    verbose: Verbose = False,
) -> None:
    """Detect objects in images and draw their boxes."""
    from nas.predict import predict as run_predict

    for row in run_predict(model, images, save, score):
        if json_:
            print(json.dumps(row))
        else:
            found = ", ".join(f"{o['class']} {o['score']:.2f}" for o in row["objects"]) or "nothing found"
            print(f"{row['image']}: {found}" + (f" -> {row['saved']}" if row.get("saved") else ""))


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

    _show(train_genes(genes, out, data, space, epochs, accelerator, seed, _progress()), json_)


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

    _show(quantize_model(model, out, data, precision, epochs, accelerator, seed, _progress()), json_)


@app.command("compile")
def compile_(
    model: Annotated[Path, typer.Argument(help="A float or quantized model (.safetensors).")],
    out: Annotated[Path, typer.Option(help="Artifact to write (.edge).")],
    json_: Json = False,
    verbose: Verbose = False,
) -> None:
    """Compile a model to an artifact for our runtime."""
    from nas.steps import compile_file

    _show(compile_file(model, out), json_)


@app.command()
def verify(
    artifact: Annotated[Path, typer.Argument(help="A .edge artifact.")],
    data: Data = "digits",
    split: Annotated[str, typer.Option(help="Split to score on.")] = "val",
    max_latency: Annotated[str, typer.Option(help="With its unit: 6ms.")] = "",
    json_: Json = False,
    verbose: Verbose = False,
) -> None:
    """What an artifact does on this machine: bit-exactness, mAP, latency, RAM, size.  Exit code 1 where a check fails."""
    from nas.steps import verify_file

    result = verify_file(artifact, data, split, max_latency)
    _show(result, json_)
    if not result["met"]:
        raise typer.Exit(CHECK_FAILED)


@app.command()
def measure(
    artifact: Annotated[Path | None, typer.Argument(help="A .edge artifact; without one, the device file of this machine is made.")] = None,
    json_: Json = False,
    verbose: Verbose = False,
) -> None:
    """Time an artifact layer by layer on this machine, or measure this machine as device `local` (under a minute)."""
    from nas.steps import measure_artifact, measure_local

    _show(measure_local(_progress()) if artifact is None else measure_artifact(artifact), json_)


@app.command()
def doctor(json_: Json = False, verbose: Verbose = False) -> None:
    """Versions, instruction sets, kernels chosen, and where each package comes from."""
    from nas.steps import doctor as examine

    _show(examine(), json_)


@proxies_app.command("list")
def proxies_list(json_: Json = False, verbose: Verbose = False) -> None:
    """Every proxy, ours and plugged in, with its source."""
    from nas.steps import list_proxies

    _show(list_proxies(), json_)


@proxies_app.command("score")
def proxies_score(
    genes: Annotated[Path | None, typer.Argument(help="JSON file of genes; default: a random network.")] = None,
    data: Data = "digits",
    proxy: Annotated[str, typer.Option(help="Names, separated by commas; default: all.")] = "",
    seeds: Annotated[int, typer.Option(help="Seeds over which the noise is taken.")] = 3,
    json_: Json = False,
    verbose: Verbose = False,
) -> None:
    """Value, time and noise over seeds of proxies on one network."""
    from nas.steps import score_proxies

    _show(score_proxies(genes, data, proxy, seeds), json_)


@devices_app.command("list")
def devices_list(json_: Json = False, verbose: Verbose = False) -> None:
    """Every device, with its board, runtime and precisions."""
    from nas.steps import list_devices

    _show(list_devices(), json_)


@devices_app.command("show")
def devices_show(device: str, json_: Json = False, verbose: Verbose = False) -> None:
    """One device: every number with its source and error."""
    from nas.steps import show_device

    _show(show_device(device, _progress()), json_)


@data_app.command("check")
def data_check(data: str, json_: Json = False, verbose: Verbose = False) -> None:
    """Counts of a data set and what is wrong with it.  Exit code 1 where something must be mended."""
    from nas.data import check, load

    found = check(load(data, strict=False))
    print(found.to_json()) if json_ else found.print()
    if not found.ok:
        raise typer.Exit(CHECK_FAILED)


@bench_app.command("model")
def bench_model(
    size: Annotated[int, typer.Option(help="Side of the input, px.")] = 320,
    seconds: Annotated[float, typer.Option(help="Time a contender, s.")] = 4.0,
    json_: Json = False,
    verbose: Verbose = False,
) -> None:
    """YOLOv8n at several precisions, ours beside ONNX Runtime, one thread, alternating."""
    from nas.bench.model import bench

    _show(bench(size, seconds), json_)


def _progress() -> Any:
    from nas.progress import Terminal

    return Terminal()


def _show(result: Any, as_json: bool) -> None:
    from nas.report.text import render

    print(json.dumps(result, default=str)) if as_json else render(result)


def _finish(run: Any, as_json: bool) -> None:
    """Write the report of a run that came to its end, and say what was found."""
    from nas.report import write_report
    from nas.report.text import render, run_summary

    page = write_report(run)
    summary = run_summary(run)
    print(json.dumps(summary, default=str)) if as_json else render(summary)
    print(f"report: {page}", file=sys.stderr)


def main() -> None:
    """Entry point: a user's mistake becomes one line and an exit code, never a traceback (-v shows it)."""
    verbose = bool({"-v", "--verbose"} & set(sys.argv))
    try:
        app(standalone_mode=False)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        print("edgenas: interrupted; edgenas resume goes on with a run", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as fault:
        if verbose:
            raise
        sys.exit(_explain(fault))


def _explain(fault: Exception) -> int:
    """Print what went wrong; the exit code."""
    code = BAD_INPUT
    if type(fault).__name__ in ("Infeasible", "NothingFits"):
        code = NOTHING_FITS
    if hasattr(fault, "format_message"):  # click's own errors: unknown options and the like
        text = fault.format_message()
    elif isinstance(fault, ValueError | OSError):
        text = str(fault)
    else:
        raise fault
    print(f"edgenas: {text}", file=sys.stderr)
    return code
