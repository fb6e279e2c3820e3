"""Devices."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nas.cli.common import Json, Verbose, group, progress, show

app = group("Devices: what they price, where each number comes from, how wrong it is.")


@app.command("list")
def devices_list(json_: Json = False, verbose: Verbose = False) -> None:
    """Every device, with its board, runtime and precisions."""
    from nas.steps import list_devices

    show(list_devices(), json_)


@app.command("show")
def devices_show(device: str, json_: Json = False, verbose: Verbose = False) -> None:
    """One device: every number with its source and error."""
    from nas.steps import show_device

    show(show_device(device, progress()), json_)


@app.command("fit")
def devices_fit(
    table: Annotated[Path, typer.Argument(help="CSV: YOLOBench names, graph files or archs of networks, and their times.")],
    name: Annotated[str, typer.Option(help="Of the device: board-runtime-precision, as raspi4-tflite-int8.")],
    board: Annotated[str, typer.Option(help="What it is.")],
    runtime: Annotated[str, typer.Option(help="What ran the networks, with its version.")],
    source: Annotated[str, typer.Option(help="Who measured, and how.")],
    out: Annotated[Path, typer.Option(help="Device file to write (.toml).")],
    precision: Annotated[str, typer.Option(help="Of the networks: fp32 or w8a8.")] = "fp32",
    column: Annotated[str, typer.Option(help="Column of the times.")] = "ms",
    unit: Annotated[str, typer.Option(help="Of the times: us, ms or s.")] = "ms",
    key: Annotated[str, typer.Option(help="Column that names the networks.")] = "model_name",
    classes: Annotated[int, typer.Option(help="Classes of the heads that were timed, for networks given by name.")] = 80,
    transfer: Annotated[bool, typer.Option(help="Learn from the fitted devices that are known, where few networks were measured.")] = True,
    json_: Json = False,
    verbose: Verbose = False,
) -> None:
    """A device file from a table of measured networks, with its cross-validated errors inside."""
    from nas.device_fit import FitSettings, fit_table

    device = fit_table(table, FitSettings(name=name, board=board, runtime=runtime, precision=precision, source=source, key=key,
                                          column=column, unit=unit, classes=classes, transfer=transfer))  # fmt: skip
    device.save(out)
    show({"device": device.name, "written": str(out), **device.errors}, json_)


@app.command("next")
def devices_next(
    count: Annotated[int, typer.Argument(help="How many networks.")] = 20,
    measured: Annotated[str, typer.Option(help="Names that were measured already, separated by commas.")] = "",
    device: Annotated[str, typer.Option(help="The device that is being measured, if it is known: it lends itself nothing.")] = "",
    json_: Json = False,
    verbose: Verbose = False,
) -> None:
    """Which YOLOBench networks to measure next on a new device: those that teach most about all the others."""
    from nas.device_fit import to_measure

    show([{"network": name} for name in to_measure(count, [name for name in measured.split(",") if name], device=device)], json_)


@app.command("add")
def devices_add(
    file: Annotated[Path, typer.Argument(help="A device file (.toml).")],
    replace: Annotated[bool, typer.Option(help="Take the place of an own device of that name.")] = False,
    verbose: Verbose = False,
) -> None:
    """Check a device file and keep it, so that `--device NAME` finds it."""
    from hwmodels.device import add

    print(add(file, replace))
