"""Measurements side by side."""

from __future__ import annotations

from typing import Annotated

import typer

from nas.cli.common import Json, Verbose, group, show

app = group("Measurements side by side, in one alternating run.")


@app.command("model")
def bench_model(
    size: Annotated[int, typer.Option(help="Side of the input, px.")] = 320,
    seconds: Annotated[float, typer.Option(help="Time a contender, s.")] = 4.0,
    json_: Json = False,
    verbose: Verbose = False,
) -> None:
    """YOLOv8n at several precisions, ours beside ONNX Runtime, one thread, alternating."""
    from nas.bench.model import bench

    show(bench(size, seconds), json_)
