"""The page's plots as plotly.js figures: plain JSON, so that no plotting library is loaded to write them.

Colours are those of Okabe & Ito (2008); a marker's shape or a line's dashes say the same again, for print and for any colour vision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from nas.report.facts import STAGES, Facts, with_unit
from nas.study import Trial
from nas.train.settings import EpochRecord
from searchspaces import SPACES

if TYPE_CHECKING:
    from nas.deploy.verify import Verification
    from nas.job import Finalist

Figure = dict[str, Any]

BLUE, ORANGE, GREEN, PINK, SKY, RED = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"
INK, MUTED, GRID = "#1f2933", "#8a94a0", "#e7eaee"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', Arial, sans-serif"
LOSSES = (("box_loss", "box (CIoU)", BLUE, "solid"), ("class_loss", "class (BCE)", ORANGE, "dash"), ("dfl_loss", "DFL", GREEN, "dot"),
          ("distill_loss", "distillation", PINK, "dashdot"))  # fmt: skip
LABELS_FIT = 48  # and for which there is room to name every member; beyond, finalists alone
SHORT = {"leaky_relu": "leaky", "hardswish": "hswish"}  # in the fields of the heat map; hovering tells the whole name
EDGE = {"color": INK, "width": 1}
VERIFIED = {"symbol": "diamond", "size": 13, "color": ORANGE, "line": EDGE}
FAILED = {"symbol": "x", "size": 11, "color": RED, "line": EDGE}
STAGE_MARKS = {"float": ("circle", BLUE), "quantized": ("square", RED)}
TEXT_FITS = 14  # members of the front for which an option's name fits in its field
PALE_TO_DEEP = [[0.0, "#e6eff7"], [1.0, "#5b9ccd"]]  # one hue: its lightness survives greyscale, and dark text reads on all of it


def search_figure(facts: Facts) -> Figure:
    """Every scored candidate, score over predicted latency; the front as a staircase, finalists marked."""
    chosen = {finalist.trial: finalist for finalist in facts.finalists}
    on_front = {trial.number for trial in facts.front}
    plain = [t for t in facts.scored if t.number not in on_front and t.number not in chosen and not facts.missed(t)]
    over = [t for t in facts.scored if facts.missed(t)]
    front = [t for t in facts.front if t.number not in chosen]
    taken = facts.taken
    stairs = {**_points(facts.front if facts.by_score else []), "text": None, "mode": "lines", "name": "Pareto front", "hoverinfo": "skip"}
    traces = [
        _cloud(plain, "scored", {"symbol": "circle-open", "size": 6, "color": MUTED}),
        _cloud(over, "scored, over a limit", {"symbol": "x-thin-open", "size": 6, "color": MUTED}),
        {**stairs, "line": {"color": BLUE, "width": 2, "shape": "hv"}},
        _cloud(front, "on the front", {"symbol": "circle", "size": 8, "color": BLUE}),
        _cloud([t for t in taken if chosen[t.number].met], "verified finalist", VERIFIED),
        _cloud([t for t in taken if not chosen[t.number].met], "failed finalist", FAILED),
    ]
    layout = layout_of("predicted latency, ms", "accuracy score")
    layout["annotations"] = [
        {"x": t["latency_ms"], "y": t["score"], "text": f"#{t.number}", "showarrow": False, "xanchor": "right" if above else "left",
         "xshift": -9 if above else 9, "yshift": 9 if above else -9}
        for t, above in zip(taken, labels_above(taken))
    ]  # fmt: skip
    _limit(layout, facts)
    return {"data": [trace for trace in traces if trace["x"]], "layout": layout}


def measured_figure(facts: Facts) -> Figure:
    """Finalists: mAP50 of the artifact over its measured latency; the predicted latency with its interval, an arrow from it."""
    met = [(f, v) for f, v in facts.verified if f.met]
    failed = [(f, v) for f, v in facts.verified if not f.met]
    priced = [(f, v) for f, v in facts.verified if v.predicted_ms is not None]
    traces = [
        _intervals(priced),
        _artifacts(priced, "predicted latency", {"symbol": "circle-open", "size": 9, "color": BLUE, "line": {"width": 2}}, predicted=True),
        _artifacts(met, "measured, within every limit", VERIFIED),
        _artifacts(failed, "measured, failed", FAILED),
    ]
    layout = layout_of("latency, ms", "mAP50 of the compiled file")
    layout["annotations"] = [
        {"x": v.latency_ms, "y": v.map50, "ax": v.predicted_ms, "ay": v.map50, "xref": "x", "yref": "y", "axref": "x", "ayref": "y",
         "text": "", "showarrow": True, "arrowhead": 2, "arrowwidth": 1.5, "arrowcolor": INK, "standoff": 7, "startstandoff": 5}
        for _, v in priced
    ]  # fmt: skip
    values = [v.map50 for _, v in facts.verified]
    room = max(0.02, 0.35 * (max(values) - min(values)))
    layout["yaxis"]["range"] = [min(values) - room, min(1.02, max(values) + room)]
    layout["xaxis"]["range"] = _reach(facts)
    _limit(layout, facts)
    return {"data": [trace for trace in traces if trace["x"]], "layout": layout}


def gene_figure(facts: Facts) -> Figure:
    """Genes by members of the front, fastest first; a field's shade is the option's place among the gene's options."""
    options = _options(facts)
    genes, members = list(options), list(facts.front)
    shown = [[t.arch.genes.get(gene) if _matters(facts, t, gene) else None for t in members] for gene in genes]
    chosen = {finalist.trial for finalist in facts.finalists}
    labels = [f"#{t.number}{' ◆' if t.number in chosen else ''}<br>{t['latency_ms']:.3g} ms" for t in members]
    trace: Figure = {
        "type": "heatmap", "x": list(range(len(members))), "y": [escape(gene) for gene in genes],
        "text": [["" if option is None else escape(SHORT.get(str(option), str(option))) for option in row] for row in shown],
        "z": [[None if option is None else _place(option, options[gene]) for option in row] for gene, row in zip(genes, shown)],
        "zmin": 0, "zmax": 1, "colorscale": PALE_TO_DEEP, "showscale": False, "hoverongaps": False,
        "xgap": 2 if len(members) <= LABELS_FIT else 0, "ygap": 2,
        "customdata": [
            [f"#{t.number}<br>{escape(gene)}: <b>{escape(str(option))}</b>" for t, option in zip(members, row)]
            for gene, row in zip(genes, shown)
        ],
        "hovertemplate": "%{customdata}<extra></extra>",
    }  # fmt: skip
    if len(members) <= TEXT_FITS:
        trace |= {"texttemplate": "%{text}", "textfont": {"size": 11, "color": INK}}
    layout = layout_of("", "")
    layout |= {"height": 96 + 20 * len(genes), "margin": {"l": 130, "r": 8, "t": 48, "b": 8}}
    axis = {"side": "top", "showgrid": False, "zeroline": False, "ticks": "", "fixedrange": True, "showline": False}
    layout["xaxis"] = {**axis, "tickmode": "array", "tickvals": trace["x"], "ticktext": labels, "tickfont": {"size": 11}}
    layout["yaxis"] = {**axis, "side": "left", "autorange": "reversed", "automargin": True, "tickfont": {"size": 11}, "dtick": 1}
    if len(members) > TEXT_FITS:
        shown_at = [k for k, t in enumerate(members) if len(members) <= LABELS_FIT or t.number in chosen]
        ticks = [f"#{members[k].number}{' ◆' if members[k].number in chosen else ''}" for k in shown_at]
        layout["xaxis"] |= {"tickvals": shown_at, "ticktext": ticks, "tickangle": -90}
    return {"data": [trace], "layout": layout}


def training_figure(facts: Facts, finalist: Finalist) -> Figure | None:
    """Losses above, mAP50 below, over the epochs of float and then quantized training; None where no history is there."""
    stages = [(stage, history.epochs) for stage in STAGES if (history := facts.history(finalist, stage)) and history.epochs]
    if not stages:
        return None
    layout = layout_of("epoch", "mAP50")
    layout["yaxis"] |= {"domain": [0, 0.42], "rangemode": "tozero"}
    layout["yaxis2"] = {**layout["yaxis"], "domain": [0.5, 1], "title": {"text": "loss"}, "anchor": "x"}
    layout |= {"height": 460, "shapes": []}
    traces: list[Figure] = []
    done = 0
    for k, (stage, epochs) in enumerate(stages):
        x = [done + record.epoch for record in epochs]
        traces += _loss_traces(epochs, x, first=k == 0)
        traces.append(_map_trace(stage, epochs, x))
        if k:
            _mark_stage(layout, stage, done + 0.5, x[-1] + 0.5)
        done = x[-1]
    layout["xaxis"]["range"] = [0, done + 1]
    if finalist.verified is not None:
        artifact = {"x": [done], "y": [finalist.verified.map50], "name": "mAP50, compiled artifact", "mode": "markers", "type": "scatter"}
        traces.append({**artifact, "marker": {**VERIFIED, "symbol": "star"}, "hovertemplate": "artifact: mAP50 %{y:.3f}<extra></extra>"})
    return {"data": [trace for trace in traces if trace["x"]], "layout": layout}


def labels_above(trials: Sequence[Trial]) -> list[bool]:
    """Whether a label stands above and left of its point, not below and right, so that neighbours on the front do not meet."""
    above: list[bool] = []
    reach = trials[-1]["latency_ms"] - trials[0]["latency_ms"] if trials else 0.0
    for k, trial in enumerate(trials):
        near = k > 0 and trial["latency_ms"] - trials[k - 1]["latency_ms"] < 0.1 * reach
        above.append(near and not above[-1])
    return above


def _loss_traces(epochs: Sequence[EpochRecord], x: Sequence[int], *, first: bool) -> list[Figure]:
    """One line a loss part; a part that stays 0 (no teacher) is left out."""
    traces = []
    for name, label, colour, dash in LOSSES:
        values = [getattr(record, name) for record in epochs]
        if any(values):
            shown = first or name == "distill_loss"
            traces.append(
                {"type": "scatter", "mode": "lines", "x": list(x), "y": values, "yaxis": "y2", "name": label, "legendgroup": name,
                 "showlegend": shown, "line": {"color": colour, "dash": dash, "width": 2},
                 "hovertemplate": f"epoch %{{x}}: {label} %{{y:.3f}}<extra></extra>"}
            )  # fmt: skip
    return traces


def _map_trace(stage: str, epochs: Sequence[EpochRecord], x: Sequence[int]) -> Figure:
    symbol, colour = STAGE_MARKS[stage]
    seen = [(at, record.map50) for at, record in zip(x, epochs) if record.map50 is not None]
    return {
        "type": "scatter", "mode": "lines+markers", "x": [at for at, _ in seen], "y": [value for _, value in seen],
        "name": f"mAP50, {stage}", "line": {"color": colour, "width": 1.5}, "marker": {"symbol": symbol, "size": 7, "color": colour},
        "hovertemplate": f"epoch %{{x}}, {stage}: mAP50 %{{y:.3f}}<extra></extra>",
    }  # fmt: skip


def _mark_stage(layout: Figure, stage: str, start: float, end: float) -> None:
    where = {"type": "rect", "xref": "x", "yref": "paper", "x0": start, "x1": end, "y0": 0, "y1": 1, "layer": "below"}
    layout["shapes"].append({**where, "fillcolor": "#f1f3f5", "line": {"width": 0}})
    label = {"x": start, "y": 1, "xref": "x", "yref": "paper", "text": stage, "showarrow": False, "xanchor": "left", "yanchor": "top"}
    layout.setdefault("annotations", []).append({**label, "font": {"size": 11, "color": "#5b6570"}})


def _points(trials: Sequence[Trial]) -> Figure:
    return {"type": "scatter", "x": [t["latency_ms"] for t in trials], "y": [t["score"] for t in trials]}


def _cloud(trials: Sequence[Trial], name: str, marker: Mapping[str, Any]) -> Figure:
    hover = [
        f"#{t.number}: score {t['score']:.3f}<br>{t['latency_ms']:.3g} ms ({t['latency_low_ms']:.3g}–{t['latency_high_ms']:.3g})"
        f"<br>{t['ram_kib']:.0f} KiB RAM, {t['size_mb']:.2f} MB"
        for t in trials
    ]
    return {**_points(trials), "mode": "markers", "name": name, "marker": marker, "text": hover, "hovertemplate": "%{text}<extra></extra>"}


def _artifacts(
    pairs: Sequence[tuple[Finalist, Verification]], name: str, marker: Mapping[str, Any], *, predicted: bool = False
) -> Figure:
    trace: Figure = {
        "type": "scatter", "mode": "markers", "name": name, "marker": marker, "y": [v.map50 for _, v in pairs],
        "x": [v.predicted_ms if predicted else v.latency_ms for _, v in pairs], "hovertemplate": "%{text}<extra></extra>",
        "text": [_described(f, v) for f, v in pairs],
    }  # fmt: skip
    if not predicted:
        slower, faster = ([v.latency_q3_ms - v.latency_ms for _, v in pairs], [v.latency_ms - v.latency_q1_ms for _, v in pairs])
        quartiles = {"type": "data", "symmetric": False, "array": slower, "arrayminus": faster, "color": INK, "thickness": 1, "width": 4}
        label = {"customdata": [f"#{f.trial}" for f, _ in pairs], "texttemplate": "%{customdata}", "textposition": "top center"}
        trace |= {**label, "mode": "markers+text", "textfont": {"color": INK}, "error_x": quartiles}
    return trace


def _intervals(pairs: Sequence[tuple[Finalist, Verification]]) -> Figure:
    """The predicted intervals as one broken thick line, so that they share an entry of the legend."""
    x: list[float | None] = []
    y: list[float | None] = []
    for _, v in pairs:
        x += [v.predicted_low_ms, v.predicted_high_ms, None]
        y += [v.map50, v.map50, None]
    look = {"mode": "lines", "line": {"color": SKY, "width": 9}, "opacity": 0.45, "hoverinfo": "skip"}
    return {"type": "scatter", "x": x, "y": y, "name": "predicted interval", **look}


def _described(finalist: Finalist, v: Verification) -> str:
    lines = [f"<b>#{finalist.trial}</b>: mAP50 {v.map50:.3f}, {v.size_mb:.2f} MB",
             f"measured {v.latency_ms:.3g} ms (middle half {v.latency_q1_ms:.3g}–{v.latency_q3_ms:.3g})"]  # fmt: skip
    if v.predicted_ms is not None:
        lines.append(f"predicted {v.predicted_ms:.3g} ms ({v.predicted_low_ms:.3g}–{v.predicted_high_ms:.3g})")
    return "<br>".join(lines + ([escape(finalist.failed)] if finalist.failed else []))


def _options(facts: Facts) -> dict[str, list[Any]]:
    """Gene -> its options in order, from the space; from the front itself where this version has no such space."""
    space = SPACES.get(facts.run.settings.space)
    known = {choice.name: list(choice.options) for choice in space.choices} if space else {}
    held = {gene for trial in facts.front for gene in trial.arch.genes}
    options = {gene: found for gene, found in known.items() if gene in held}
    for trial in facts.front:
        for gene, option in trial.arch.genes.items():
            found = options.setdefault(gene, [])
            if option not in found:
                found.append(option)
    return options


def _matters(facts: Facts, trial: Trial, gene: str) -> bool:
    """False where another gene of this network makes this one idle."""
    space = SPACES.get(facts.run.settings.space)
    condition = next((choice.when for choice in space.choices if choice.name == gene), None) if space else None
    return condition is None or trial.arch.genes.get(condition[0]) in condition[1]


def _reach(facts: Facts) -> list[float]:
    """Latencies from the least to the greatest that is shown, with room on both sides; a limit within reach is shown too."""
    values = [x for _, v in facts.verified for x in (v.latency_q1_ms, v.latency_q3_ms, v.predicted_low_ms, v.predicted_high_ms) if x]
    limit = facts.limits.get("latency_ms")
    if limit is not None and limit < 2 * max(values):
        values.append(limit)
    room = 0.06 * (max(values) - min(values)) or 0.1 * max(values)
    return [min(values) - room, max(values) + room]


def _place(option: Any, options: Sequence[Any]) -> float:
    return options.index(option) / (len(options) - 1) if len(options) > 1 and option in options else 0.0


def layout_of(x: str, y: str) -> Figure:
    """What all plots share, with the titles of the axes."""
    axis = {"gridcolor": GRID, "zeroline": False, "linecolor": "#b6bec7", "showline": True, "ticks": "outside", "tickcolor": "#b6bec7"}
    return {
        "font": {"family": FONT, "size": 13, "color": INK}, "paper_bgcolor": "#fff", "plot_bgcolor": "#fff", "height": 420,
        "margin": {"l": 64, "r": 16, "t": 16, "b": 56}, "hovermode": "closest", "hoverlabel": {"align": "left"},
        "legend": {"orientation": "h", "y": -0.2, "yanchor": "top", "x": 0, "font": {"size": 12}},
        "xaxis": {**axis, "title": {"text": x, "standoff": 8}}, "yaxis": {**axis, "title": {"text": y, "standoff": 8}},
    }  # fmt: skip


def _limit(layout: Figure, facts: Facts) -> None:
    """The latency limit as a dashed line; the other limits have no axis here and stand in the text."""
    limit = facts.limits.get("latency_ms")
    if limit is None:
        return
    layout.setdefault("shapes", []).append(
        {"type": "line", "xref": "x", "yref": "paper", "x0": limit, "x1": limit, "y0": 0, "y1": 1,
         "line": {"color": RED, "width": 1.5, "dash": "dash"}}
    )  # fmt: skip
    label = {"x": limit, "y": 1, "xref": "x", "yref": "paper", "showarrow": False, "xanchor": "right", "yanchor": "top", "xshift": -4}
    text = {"text": f"limit {with_unit('latency_ms', limit)}", "font": {"size": 11, "color": RED}}
    layout.setdefault("annotations", []).append({**label, **text})
