"""What every command shares: options, exit codes, how a result is shown."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

DONE, CHECK_FAILED, BAD_INPUT, NOTHING_FITS, INTERRUPTED = 0, 1, 2, 3, 130

Data = Annotated[str, typer.Option(help="VOC folder, YOLO data.yaml, COCO JSON, or 'digits' (embedded).")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the result to this file as JSON.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Show a traceback where something fails.")]
Epochs = Annotated[int, typer.Option(help="Epochs of each finalist, quantized ones included.")]
Threads = Annotated[int, typer.Option(help="Threads of our runtime that share the larger layers; the results are the same.")]
Tuned = Annotated[bool, typer.Option("--tuned", help="Use the kernels that `edgenas compile --tune` found fastest on this machine.")]
Accelerator = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]


def progress() -> Any:
    from nas.progress import Terminal

    return Terminal()


def show(result: Any, as_json: bool) -> None:
    from nas.report.text import render

    print(json.dumps(result, default=str)) if as_json else render(result)


def write(result: Any, path: Path | None) -> None:
    """Show a result of many rows by its own text, and keep it as JSON where a file is named."""
    print(result.text())
    if path is not None:
        path.write_text(json.dumps(result.json(), indent=1) + "\n", encoding="utf-8")


def finish(run: Any, as_json: bool) -> None:
    """Write the report of a run that came to its end, and say what was found."""
    from nas.report import write_report
    from nas.report.text import render, run_summary

    page = write_report(run)
    summary = run_summary(run)
    print(json.dumps(summary, default=str)) if as_json else render(summary)
    print(f"report: {page}", file=sys.stderr)


def group(help: str) -> typer.Typer:
    """A group of commands."""
    return typer.Typer(no_args_is_help=True, help=help)
