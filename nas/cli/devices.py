"""Devices."""

from __future__ import annotations

from nas.cli.common import Json, Verbose, group, progress, show

app = group("Devices: what they price, where each number comes from, how wrong it is.")


@app.command("list")
def devices_list(json_: Json = False, verbose: Verbose = False) -> None:
    """Every device, with its board, runtime and precisions."""
    from nas.steps import list_devices

    show(list_devices(), json_)


@app.command("show")
def devicesshow(device: str, json_: Json = False, verbose: Verbose = False) -> None:
    """One device: every number with its source and error."""
    from nas.steps import show_device

    show(show_device(device, progress()), json_)
