"""Studies of many trainings."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from nas.cli.common import Accelerator, Data, JsonFile, Verbose, group, progress, show

app = group("Studies of many trainings; each says first how long it takes, and goes on where it was cut off.")


@app.command("generalization")
def study_generalization(
    out: Annotated[Path, typer.Option(help="Folder of trainings and page; what is there is not done again.")],
    bits: Annotated[str, typer.Option(help="fp (float) and any of 8,4,2,1, for weights and activations alike.")] = "fp,8,4,2",
    seeds: Annotated[int, typer.Option(help="Trainings of each bit-width, over which intervals are taken.")] = 5,
    data: Data = "digits",
    genes: Annotated[Path | None, typer.Option(help="JSON file of genes of the space `yolo`; default: a small network.")] = None,
    epochs: Annotated[int, typer.Option(help="Epochs of each training.")] = 40,
    size: Annotated[int, typer.Option(help="Side of the images, px; 0: that of the genes.")] = 0,
    augment: Annotated[bool, typer.Option(help="Augment training images; without, networks over-fit sooner.")] = True,
    accelerator: Accelerator = "auto",
    json_: JsonFile = None,
    verbose: Verbose = False,
) -> None:
    """Does quantization regularize?  The same training in float and at several bit-widths: losses, gap, flatness, and rounding as noise."""
    import msgspec

    from nas.generalization import StudySettings, as_json, genes_of, run, shown
    from nas.model import write_whole
    from nas.report.generalization import write

    wanted = tuple(name.strip() for name in bits.split(",") if name.strip())
    settings = StudySettings(data=data, bits=wanted, seeds=seeds, epochs=epochs, augment=augment, accelerator=accelerator,
                             genes=genes_of(genes, size))  # fmt: skip
    study = run(settings, out, progress())
    show(shown(study), as_json=False)
    if json_ is not None:
        write_whole(json_, msgspec.json.format(msgspec.json.encode(as_json(study)), indent=1))
    print(f"report: {write(study, out / 'report.html')}", file=sys.stderr)
