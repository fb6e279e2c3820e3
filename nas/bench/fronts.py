"""The true fronts of the tables: equal to the published ones, and drawn with what was picked."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nas.bench.selection import DATA, Selected
from nas.bench.tables import Tables
from nas.report.figures import BLUE, GRID, INK, MUTED, ORANGE
from proxies.ranking import Values
from searchspaces.tables import TableError

PUBLISHED, MERGED = "pareto_indices.csv", "merged_results.csv"
ACROSS, WIDTH, HEIGHT, DPI = 3, 4.2, 3.1, 130  # panels a row, inches a panel, dots an inch


def front(accuracy: Values, latency: Values, strict: bool = True) -> list[int]:
    """Positions by growing latency whose accuracy is above (or, not `strict`, at least) that of everything before."""
    kept: list[int] = []
    for i in np.argsort(latency, kind="stable").tolist():
        if not kept or accuracy[i] > accuracy[kept[-1]] or (not strict and accuracy[i] == accuracy[kept[-1]]):
            kept.append(i)
    return kept


@dataclass(frozen=True)
class Fronts:
    """Of `published` fronts, those that ours equal: with strict improvement in accuracy, and with equal accuracy kept too."""

    published: int
    strict: int
    equal_kept: int
    map50_95_strict: int  # of the fronts of mAP50-95 alone, which the paper plots
    map50_95: int


def fronts(folder: Path) -> Fronts:
    """Raises TableError where the published fronts and the table they index do not fit."""
    merged = _columns(folder / MERGED)
    strict, equal, main, main_strict = 0, 0, 0, 0
    rows = _rows(folder / PUBLISHED, ("data", "hardware", "pareto_indices"))
    for line, row in enumerate(rows, 2):
        for column in (row["data"], row["hardware"]):
            if column not in merged:
                raise TableError(f"{folder / PUBLISHED}:{line}: '{column}' is no column of {MERGED}")
        wanted = [int(i) for i in row["pareto_indices"].split(",")]
        found = [front(merged[row["data"]], merged[row["hardware"]], strict=s) == wanted for s in (True, False)]
        strict, equal = strict + found[0], equal + found[1]
        if row["data"].startswith("mAP_0.5:0.95"):
            main, main_strict = main + 1, main_strict + found[0]
    return Fronts(len(rows), strict, equal, main_strict, main)


def _columns(path: Path) -> dict[str, Values]:
    """The columns of numbers."""
    rows = _rows(path, ("model_name",))
    texts = {name: [row[name] for row in rows] for name in rows[0] if name not in ("model_name", "model_family")}
    try:
        return {name: np.array([float(value) for value in column]) for name, column in texts.items()}
    except ValueError as fault:
        raise TableError(f"{path}: {fault}") from None


def _rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except OSError as fault:
        raise TableError(f"table {path}: {fault.strerror}") from None
    if not rows or (lacking := [name for name in columns if name not in rows[0]]):
        raise TableError(f"{path}: " + (f"no column '{lacking[0]}'; columns: {', '.join(rows[0])}" if rows else "the table has no rows"))
    return rows


def fronts_text(found: Fronts) -> str:
    return (
        f"fronts equal to the published ones: {found.map50_95_strict} of {found.map50_95} of mAP50-95; of all accuracy columns "
        f"{found.strict} of {found.published}\nby strict improvement, {found.equal_kept} where a slower network of equal accuracy is kept"
    )


_STYLE: Any = {
    "font.size": 9, "axes.edgecolor": "#b6bec7", "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": GRID, "axes.axisbelow": True,
    "legend.frameon": False, "axes.titlesize": 10, "axes.titleweight": "bold", "axes.titlelocation": "left",
}  # fmt: skip


def picture(tables: Tables, rows: Sequence[Selected]) -> bytes:
    """PNG: per device all networks, the true front, and what was picked under each budget in the first draw."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    down = -(-len(rows) // ACROSS)
    at = {name: i for i, name in enumerate(tables.names)}
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH * ACROSS, HEIGHT * down + 0.5), dpi=DPI, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        grid = figure.subplots(down, ACROSS, squeeze=False)
        for axes, row in zip(grid.flat, rows):
            ms, accuracy = tables.latency_ms[row.device], 100 * tables.map50_95[DATA]
            here = tables.known(ms, accuracy)
            best = here[front(accuracy[here], ms[here])]
            picked = [at[name] for name in row.picked]
            axes.scatter(ms[here], accuracy[here], s=7, color=MUTED, alpha=0.35, linewidths=0, label="networks")
            axes.step(ms[best], accuracy[best], where="post", color=BLUE, linewidth=1.6, label="true front")
            axes.scatter(row.budgets_ms, accuracy[picked], s=26, marker="D", color=ORANGE, edgecolors=INK, linewidths=0.6, zorder=4,
                         label="picked, at its budget")
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda ms, _: f"{ms:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set(title=f"{row.device}: {row.mean_loss:.2f} points lost", xlabel="measured latency, ms", ylabel="VOC mAP50-95, %")
        for axes in list(grid.flat)[len(rows):]:
            axes.set_visible(False)
        figure.legend(*grid.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
        file = io.BytesIO()
        canvas.print_png(file)
    return file.getvalue()
