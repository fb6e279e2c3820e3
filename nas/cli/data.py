"""Data sets."""

from __future__ import annotations

import typer

from nas.cli.common import CHECK_FAILED, Json, Verbose, group

app = group("Data sets: VOC folders, YOLO data.yaml, COCO JSON, or 'digits'.")


@app.command("check")
def data_check(data: str, json_: Json = False, verbose: Verbose = False) -> None:
    """Counts of a data set and what is wrong with it.  Exit code 1 where something must be mended."""
    from nas.data import check, load

    found = check(load(data, strict=False))
    print(found.to_json()) if json_ else found.print()
    if not found.ok:
        raise typer.Exit(CHECK_FAILED)
