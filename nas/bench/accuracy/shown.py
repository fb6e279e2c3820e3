"""How tables of seeds are shown: a mean with its spread, and rows as aligned lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev


def mean_and_spread(values: Sequence[float], digits: int = 3) -> str:
    """'0.776 +-0.004': mean and standard deviation over seeds; one seed has no spread."""
    return f"{fmean(values):.{digits}f}" + (f" +-{stdev(values):.{digits}f}" if len(values) > 1 else "")


def aligned(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Lines of a table with a column for each key, in the order in which keys appear; a value that a row lacks is '-'."""
    if not rows:
        return ["nothing known yet"]
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = [names, *([row.get(name, "-") for name in names] for row in rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(names))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(line, widths)) for line in table]
