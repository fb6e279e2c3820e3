"""Zero-cost proxies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nas.cli.common import Data, Json, JsonFile, Seed, Verbose, group, progress, show, write

app = group("Zero-cost proxies: scores of untrained nets.")


@app.command("list")
def proxies_list(json_: Json = False, verbose: Verbose = False) -> None:
    """Every proxy, ours and plugged in, with its source."""
    from nas.scoring import list_proxies

    show(list_proxies(), json_)


@app.command("score")
def proxies_score(
    genes: Annotated[Path | None, typer.Argument(help="JSON file of genes; default: a random network.")] = None,
    data: Data = "digits",
    proxy: Annotated[str, typer.Option(help="Names, separated by commas; default: all.")] = "",
    seeds: Annotated[int, typer.Option(help="Seeds over which the noise is taken.")] = 3,
    json_: Json = False,
    verbose: Verbose = False,
) -> None:
    """Value, time and noise over seeds of proxies on one network."""
    from nas.scoring import score_proxies

    show(score_proxies(genes, data, proxy, seeds), json_)


@app.command("report")
def proxies_report(
    table: Annotated[Path, typer.Argument(help="CSV: names, graph files or archs of networks, their accuracy, perhaps latencies.")],
    accuracy: Annotated[str, typer.Option(help="Column of the accuracy.")] = "mAP_0.5:0.95",
    proxy: Annotated[str, typer.Option(help="Names, separated by commas; default: all.")] = "",
    models: Annotated[int, typer.Option(help="So many networks are drawn, spread over families and sizes; 0 takes all.")] = 140,
    data: Annotated[str, typer.Option(help="A data set whose images the proxies see; default: the embedded ones.")] = "",
    key: Annotated[str, typer.Option(help="Column that names the networks.")] = "model_name",
    classes: Annotated[int, typer.Option(help="Classes of the networks.")] = 20,
    seed: Seed = 0,
    json_: JsonFile = None,
    verbose: Verbose = False,
) -> None:
    """How well each proxy ranks networks that somebody trained, over all and within latency bands, beside counting baselines."""
    from nas.scoring import report_proxies

    write(report_proxies(table, accuracy, proxy, models, data, key, classes, seed, progress()), json_)
