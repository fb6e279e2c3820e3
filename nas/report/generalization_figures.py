"""The plots of a study of generalization, as plotly.js figures; a bit-width keeps its colour and its mark from plot to plot."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from nas.generalization import FLOAT, Cell, Point, Study, by_bits
from nas.generalization.summary import noise_by_layer, rise_rows
from nas.quant.noise import Noise
from nas.report.figures import BLUE, GREEN, INK, MUTED, ORANGE, PINK, RED, Figure, layout_of

MARKS = {FLOAT: (BLUE, "circle"), "8": (ORANGE, "square"), "4": (GREEN, "diamond"), "2": (PINK, "triangle-up"), "1": (RED, "cross")}
PANELS = {
    "train_loss": "training loss", "val_loss": "validation loss", "gap": "gap: validation − training loss",
    "overfit": "over-fitting: final − least validation loss", "map50": "mAP50 on validation images", "sigma": "flatness: σ of the weights",
}  # fmt: skip
TOLERANCE = 0.05  # within which theory and rounding noise count as one
SPLITS: tuple[tuple[str, str, Callable[[Point], float]], ...] = (
    ("training", "dash", lambda p: p.train_loss), ("validation", "solid", lambda p: p.val_loss),
)  # fmt: skip
_GAP, _ROW_GAP = 0.08, 0.2  # between panels, of the width and of the height


def label(bits: str | int) -> str:
    return "float" if bits == FLOAT else f"{bits}\u00a0bit" if str(bits) == "1" else f"{bits}\u00a0bits"


def panel_figure(study: Study) -> Figure:
    """One panel a figure: every seed, the mean and its interval, by bit-width."""
    intervals, order = by_bits(study), list(study.settings.bits)
    layout, data = _grid(3, 2, list(PANELS.values()), height=560), []
    for k, name in enumerate(PANELS):
        for at, bits in enumerate(order):
            colour, symbol = MARKS[bits]
            found, axes = intervals[bits][name], {"xaxis": _axis("x", k), "yaxis": _axis("y", k), "showlegend": False}
            values = [cell.figures[name] for cell in study.of(bits)]
            hover = f"{label(bits)}: %{{y:.3f}}<extra></extra>"
            data.append({"type": "scatter", "mode": "markers", "x": [at + 0.18] * len(values), "y": values, "hovertemplate": hover,
                         "marker": {"symbol": f"{symbol}-open", "size": 6, "color": colour}, **axes})  # fmt: skip
            bar = {"type": "data", "symmetric": False, "array": [found.high - found.mean], "arrayminus": [found.mean - found.low],
                   "color": colour, "thickness": 2, "width": 5}  # fmt: skip
            data.append({"type": "scatter", "mode": "markers", "x": [at], "y": [found.mean], "error_y": bar,
                         "marker": {"symbol": symbol, "size": 11, "color": colour, "line": {"color": INK, "width": 1}},
                         "hovertemplate": f"{label(bits)}: mean %{{y:.3f}}<extra></extra>", **axes})  # fmt: skip
        ticks = {"tickvals": list(range(len(order))), "ticktext": [label(b) for b in order], "range": [-0.5, len(order) - 0.4]}
        layout[_axis("xaxis", k)] |= ticks
    for name in ("gap", "overfit"):
        layout["shapes"].append(_level(0.0, list(PANELS).index(name)))
    return {"data": data, "layout": layout}


def curve_figure(study: Study) -> Figure:
    """Losses of both splits over the epochs, one panel a bit-width on one scale; bands from the least to the greatest seed."""
    order = list(study.settings.bits)
    layout = _grid(len(order), 1, [label(b) for b in order], height=360, y="loss", gap=0.02)
    data: list[Figure] = []
    for k, bits in enumerate(order):
        colour, _ = MARKS[bits]
        for name, dash, get in SPLITS:
            data += _band(study.of(bits), get, colour, dash, k, {"name": name, "showlegend": False, "legendgroup": name})
        layout[_axis("xaxis", k)]["title"] = {"text": "epoch", "standoff": 6}
        if k:
            layout[_axis("yaxis", k)] |= {"matches": "y", "showticklabels": False}
    layout["yaxis"]["range"] = _settled_range(study, lambda p: [p.train_loss, p.val_loss])
    for name, dash, _ in SPLITS:  # the legend tells dashes apart; colours stand above the panels
        key = {"name": name, "legendgroup": f"key {name}", "line": {"color": INK, "dash": dash}}
        data.append({"type": "scatter", "mode": "lines", "x": [None], "y": [None], **key})
    return {"data": data, "layout": layout}


def over_epochs_figure(study: Study, get: Callable[[Point], float | None], title: str) -> Figure:
    """One line a bit-width: the mean over seeds, in a band from the least to the greatest."""
    layout = layout_of("epoch", title)
    layout["shapes"] = []
    data: list[Figure] = []
    for bits in study.settings.bits:
        colour, symbol = MARKS[bits]
        shown = {"name": label(bits), "showlegend": True, "legendgroup": bits}
        traces = _band(study.of(bits), get, colour, "solid", 0, shown)
        traces[-1] |= {"mode": "lines+markers", "marker": {"symbol": symbol, "size": 7, "color": colour}}
        data += traces
    settled = _settled_range(study, lambda p: [v for v in [get(p)] if v is not None])
    layout["yaxis"]["range"] = settled
    if settled[0] < 0 < settled[1]:
        layout["shapes"].append(_level(0.0, 0))
    return {"data": data, "layout": layout}


def noise_figure(study: Study) -> Figure:
    """Measured over predicted rounding noise of each layer of the float nets, of all weights and of those that the grid reaches."""
    titles = ["all weights", "weights that the grid reaches"]
    layout = _grid(2, 1, titles, height=400, y="measured / predicted (s²/12)", gap=0.04)
    data: list[Figure] = []
    found = noise_by_layer(study)
    ratios: tuple[Callable[[Noise], float], ...] = (lambda n: n.ratio, lambda n: n.inside_ratio)
    for k, ratio in enumerate(ratios):
        for bits, layers in found.items():
            colour, symbol = MARKS[str(bits)]
            data.append({
                "type": "scatter", "mode": "markers", "x": list(range(1, len(layers) + 1)), "y": [ratio(n) for n in layers.values()],
                "text": [f"{name}: {n.weights} weights, {n.clipped:.1%} clipped" for name, n in layers.items()],
                "hovertemplate": f"{label(bits)}, %{{text}}<br>%{{y:.3f}} of s²/12<extra></extra>", "name": label(bits),
                "legendgroup": str(bits), "showlegend": k == 0, "xaxis": _axis("x", k), "yaxis": _axis("y", k),
                "marker": {"symbol": symbol, "size": 7, "color": colour, "opacity": 0.85},
            })  # fmt: skip
        layout[_axis("xaxis", k)]["title"] = {"text": "layer, in order", "standoff": 6}
        strip = {"type": "rect", "xref": _axis("x", k) + " domain", "yref": _axis("y", k), "x0": 0, "x1": 1, "layer": "below"}
        layout["shapes"].append({**strip, "y0": 1 - TOLERANCE, "y1": 1 + TOLERANCE, "fillcolor": "#dfe5ea", "line": {"width": 0}})
    layout["yaxis2"] |= {"matches": "y"}
    return {"data": data, "layout": layout}


def rise_figure(study: Study) -> Figure:
    """The rise of the loss by rounding: predicted, under uniform noise, and as it is, one panel a loss."""
    rows = rise_rows(study)
    losses = list(dict.fromkeys(row["loss"] for row in rows))
    order = list(dict.fromkeys(row["bits"] for row in rows))
    layout = _grid(len(losses), 1, [f"{loss} loss" for loss in losses], height=400, y="rise of the loss", gap=0.06)
    data: list[Figure] = []
    looks: tuple[tuple[str, str, str, str, float], ...] = (
        ("predicted", "predicted, second order", BLUE, "diamond-open", -0.15), ("uniform", "uniform noise, mean", ORANGE, "circle", 0.0),
        ("rounded", "rounding itself", RED, "x", 0.15),
    )  # fmt: skip
    for k, loss in enumerate(losses):
        mine = [row for row in rows if row["loss"] == loss]
        for name, title, colour, symbol, shift in looks:
            y = [row[name] if row[name] > 0 else None for row in mine]
            trace: Figure = {
                "type": "scatter", "mode": "markers", "x": [order.index(row["bits"]) + shift for row in mine], "y": y, "name": title,
                "legendgroup": name, "showlegend": k == 0, "xaxis": _axis("x", k), "yaxis": _axis("y", k),
                "marker": {"symbol": symbol, "size": 10, "color": colour, "line": {"width": 2 if "open" in symbol else 0}},
                "hovertemplate": f"{title}: %{{y:.3g}}<extra></extra>",
            }  # fmt: skip
            if name == "uniform":
                errors = [1.96 * row["uniform_error"] for row in mine]
                trace["error_y"] = {"type": "data", "array": errors, "color": colour, "thickness": 2, "width": 5}
            data.append(trace)
        ticks = {"tickvals": list(range(len(order))), "ticktext": [label(b) for b in order], "range": [-0.5, len(order) - 0.5]}
        layout[_axis("xaxis", k)] |= ticks
        layout[_axis("yaxis", k)] |= {"type": "log", "exponentformat": "power", "dtick": 1, "tickfont": {"size": 11}}
    layout["yaxis2"] |= {"matches": "y"}
    return {"data": data, "layout": layout}


def _grid(columns: int, rows: int, titles: Sequence[str], *, height: int, y: str = "", gap: float = _GAP) -> Figure:
    """A layout of columns x rows panels, filled row by row, each under its title; `y` is the title of the axis at the left."""
    layout = layout_of("", y)
    layout |= {"height": height, "annotations": [], "shapes": [], "margin": {"l": 64, "r": 12, "t": 34, "b": 64}}
    plain_x, plain_y = layout.pop("xaxis"), layout.pop("yaxis")
    wide, high = (1 - gap * (columns - 1)) / columns, (1 - _ROW_GAP * (rows - 1)) / rows
    for k, title in enumerate(titles):
        column, row = k % columns, k // columns
        left, top = column * (wide + gap), 1 - row * (high + _ROW_GAP)
        layout[_axis("xaxis", k)] = {**plain_x, "domain": [left, min(1.0, left + wide)], "anchor": _axis("y", k)}
        layout[_axis("yaxis", k)] = {**plain_y, "domain": [max(0.0, top - high), top], "anchor": _axis("x", k)}
        if column:
            layout[_axis("yaxis", k)] |= {"title": {"text": ""}}
        head = {"x": left, "y": top, "xref": "paper", "yref": "paper", "xanchor": "left", "yanchor": "bottom", "yshift": 6}
        layout["annotations"].append({**head, "text": title, "showarrow": False, "font": {"size": 13, "color": INK}})
    layout["legend"] |= {"y": -0.22 if rows == 1 else -0.1}
    return layout


def _axis(name: str, k: int) -> str:
    """plotly's name of the k-th axis: x, x2, x3 .."""
    return name if k == 0 else f"{name}{k + 1}"


def _band(
    cells: Sequence[Cell], get: Callable[[Point], float | None], colour: str, dash: str, panel: int, shown: Mapping[str, Any]
) -> list[Figure]:
    """The range over seeds as a pale area, and the mean as a line."""
    points = [[(p.epoch, get(p)) for p in cell.curve] for cell in cells]
    x = [epoch for epoch, value in points[0] if value is not None]
    y = np.array([[value for _, value in curve if value is not None] for curve in points], dtype=float)
    axes = {"xaxis": _axis("x", panel), "yaxis": _axis("y", panel), "legendgroup": shown["legendgroup"]}
    area = {"type": "scatter", "mode": "lines", "x": x + x[::-1], "y": [*y.max(0), *y.min(0)[::-1]], "fill": "toself", "hoverinfo": "skip",
            "fillcolor": colour + "2e", "line": {"width": 0}, "showlegend": False, **axes}  # fmt: skip
    line = {"type": "scatter", "mode": "lines", "x": x, "y": y.mean(0).tolist(), "line": {"color": colour, "dash": dash, "width": 2},
            "hovertemplate": f"epoch %{{x}}, {shown['name']}: %{{y:.3f}}<extra></extra>", **axes, **shown}  # fmt: skip
    return [area, line]


def _settled_range(study: Study, get: Callable[[Point], list[float]]) -> list[float]:
    """Of the values after the first fifth of the epochs, in which losses may be out of all bounds, with room around."""
    epochs = study.settings.epochs
    values = [value for cell in study.cells for point in cell.curve if point.epoch > epochs / 5 for value in get(point)]
    room = 0.06 * (max(values) - min(values)) or 0.1
    return [min(values) - room, max(values) + room]


def _level(y: float, panel: int) -> Figure:
    where = {"xref": _axis("x", panel) + " domain", "yref": _axis("y", panel), "x0": 0, "x1": 1, "y0": y, "y1": y}
    return {"type": "line", **where, "line": {"color": MUTED, "width": 1}, "layer": "below"}
