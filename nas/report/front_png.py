"""The front as a PNG: what the search saw beside what was measured, in the colours and marks of the page."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.model import write_whole
from nas.report.facts import Facts, with_unit
from nas.report.figures import BLUE, GRID, INK, MUTED, ORANGE, RED, SKY

if TYPE_CHECKING:
    from nas.job import Run

WIDTH, HEIGHT, DPI = 10.0, 4.6, 160  # inches, dots an inch


def write_front_png(run: Run, path: str | Path) -> Path:
    """Write the picture of a run's front; the path written."""
    write_whole(Path(path), front_png(Facts.of(run)))
    return Path(path)


def front_png(facts: Facts) -> bytes:
    """PNG of one panel, or of two where finalists were measured."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = 2 if facts.verified else 1
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH if panels == 2 else WIDTH * 0.6, HEIGHT), dpi=DPI, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        axes = figure.subplots(1, panels, squeeze=False)[0]
        _searched(axes[0], facts)
        if facts.verified:
            _measured(axes[1], facts)
        file = io.BytesIO()
        canvas.print_png(file)
    return file.getvalue()


_STYLE: Any = {
    "font.size": 10, "axes.edgecolor": "#b6bec7", "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": GRID, "axes.axisbelow": True,
    "legend.frameon": False, "legend.fontsize": 9, "axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left",
}  # fmt: skip
_MARK = {"s": 80, "edgecolors": INK, "linewidths": 0.8, "zorder": 5}
_MARKS: dict[bool, dict[str, Any]] = {True: {**_MARK, "marker": "D", "color": ORANGE}, False: {**_MARK, "marker": "X", "color": RED}}


def _searched(axes: Any, facts: Facts) -> None:
    chosen = {finalist.trial: finalist for finalist in facts.finalists}
    inside = [t for t in facts.scored if not facts.missed(t)]
    axes.scatter(*_xy(inside), s=16, facecolors="none", edgecolors=MUTED, linewidths=0.8, label="scored")
    if facts.front:
        if facts.by_score:
            axes.step(*_xy(facts.front), where="post", color=BLUE, linewidth=1.6, zorder=3)
        axes.scatter(*_xy(facts.front), s=26, color=BLUE, zorder=4, label="Pareto front")
    taken = facts.taken
    for met, label in ((True, "verified finalist"), (False, "failed finalist")):
        if shown := [t for t in taken if chosen[t.number].met is met]:
            axes.scatter(*_xy(shown), label=label, **_MARKS[met])
    for row, trial in enumerate(taken):  # one below the other, so that neighbours do not cover each other
        axes.annotate(f"#{trial.number}", (trial["latency_ms"], trial["score"]), (0, -18 - 15 * (row % 2)), textcoords="offset points",
                      ha="center", zorder=6)
    axes.set(title="What the search saw", xlabel="predicted latency, ms", ylabel="accuracy score")
    _limit(axes, facts)
    if facts.scored:
        _legend(axes)


def _measured(axes: Any, facts: Facts) -> None:
    priced = [v for _, v in facts.verified if v.predicted_ms is not None]
    axes.hlines([v.map50 for v in priced], [v.predicted_low_ms for v in priced], [v.predicted_high_ms for v in priced],
                color=SKY, alpha=0.45, linewidth=8, label="predicted interval")  # fmt: skip
    marks: dict[str, Any] = {"facecolors": "white", "edgecolors": BLUE, "linewidths": 1.6, "zorder": 3}
    axes.scatter([v.predicted_ms for v in priced], [v.map50 for v in priced], s=40, label="predicted", **marks)
    for v in priced:
        arrow = {"arrowstyle": "-|>", "color": INK, "shrinkA": 4, "shrinkB": 5, "linewidth": 1.2}
        axes.annotate("", (v.latency_ms, v.map50), (v.predicted_ms, v.map50), arrowprops=arrow, zorder=4)
    for met, label in ((True, "measured, within every limit"), (False, "measured, failed")):
        shown = [(f, v) for f, v in facts.verified if f.met is met]
        if shown:
            axes.scatter([v.latency_ms for _, v in shown], [v.map50 for _, v in shown], label=label, **_MARKS[met])
        for finalist, v in shown:
            axes.annotate(f"#{finalist.trial}", (v.latency_ms, v.map50), (0, 8), textcoords="offset points", ha="center", zorder=6)
    axes.set(title="What was measured", xlabel="latency, ms", ylabel="mAP50 of the compiled file")
    axes.margins(x=0.12, y=0.3)
    _limit(axes, facts)
    _legend(axes)


def _legend(axes: Any) -> None:
    """Below the axis, where it hides no point."""
    axes.legend(loc="upper center", bbox_to_anchor=(0.46, -0.14), ncols=2, columnspacing=1.4, handletextpad=0.5)


def _limit(axes: Any, facts: Facts) -> None:
    limit = facts.limits.get("latency_ms")
    if limit is not None:
        axes.axvline(limit, color=RED, linestyle="--", linewidth=1.2)
        label = f"limit {with_unit('latency_ms', limit)} "
        axes.text(limit, 1.0, label, transform=axes.get_xaxis_transform(), color=RED, ha="right", va="top", fontsize=9)


def _xy(trials: Any) -> tuple[list[float], list[float]]:
    return [t["latency_ms"] for t in trials], [t["score"] for t in trials]
