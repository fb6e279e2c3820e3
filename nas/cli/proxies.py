"""Zero-cost proxies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nas.cli.common import Data, Json, Verbose, group, show

app = group("Zero-cost proxies: scores of untrained nets.")


@app.command("list")
def proxies_list(json_: Json = False, verbose: Verbose = False) -> None:
    """Every proxy, ours and plugged in, with its source."""
    from nas.steps import list_proxies

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
    from nas.steps import score_proxies

    show(score_proxies(genes, data, proxy, seeds), json_)
