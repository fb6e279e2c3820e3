"""HTML from values.  Every text is escaped here, in one place: class names, paths and error messages are untrusted."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

MISSING = "–"


@dataclass(frozen=True)
class Html:
    """Markup that is safe as it stands; everything else is text and gets escaped."""

    text: str


@dataclass(frozen=True)
class Column:
    """One column of a table.  Numbers are right-aligned with as many decimals as the column's largest value needs."""

    title: str
    unit: str = ""
    hint: str = ""


@dataclass(frozen=True)
class Cell:
    """A text or markup that sorts by `key`; None sorts last."""

    shown: str | Html
    key: float | str | None = None


def html(value: str | Html) -> str:
    return value.text if isinstance(value, Html) else escape(value, quote=True)


def tag(name: str, *children: str | Html, **attributes: str) -> Html:
    """An element; attribute names may end in '_' (class_) and hold '_' for '-'.  'img' has no end tag."""
    inside = "".join(f' {key.rstrip("_").replace("_", "-")}="{escape(value, quote=True)}"' for key, value in attributes.items())
    end = "" if name == "img" else f"</{name}>"
    return Html(f"<{name}{inside}>{''.join(map(html, children))}{end}")


def joined(parts: Sequence[str | Html], between: str = "") -> Html:
    return Html(between.join(map(html, parts)))


def script_json(value: Any) -> str:
    """JSON that is inert inside a script element: no '<', '>' or '&' in it, and the two line ends that only JavaScript knows escaped."""
    text = json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _finite(value: Any) -> Any:
    """The same with null for NaN and infinity, which JSON cannot say; a plot leaves such a point out."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def decimals(values: Sequence[float]) -> int:
    """Places after the point that give the largest value three significant digits, at most four."""
    largest = max((abs(v) for v in values if math.isfinite(v)), default=0.0)
    return min(4, max(0, 2 - math.floor(math.log10(largest)))) if largest > 0 else 0


def table(columns: Sequence[Column], rows: Sequence[Sequence[Any]], *, caption: str, sorted_by: int | None = None) -> Html:
    """A table whose headers sort it.  Cells: numbers, bool, None, text, Html or Cell; a column of numbers is set as one."""
    heads: list[str] = []
    bodies: list[list[str]] = [[] for _ in rows]
    for k, column in enumerate(columns):
        values = [row[k] for row in rows]
        numbers = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
        whole = all(v.is_integer() for v in numbers)
        places = 0 if whole else decimals(numbers)
        numeric = bool(numbers) or any(isinstance(v, Cell) and isinstance(v.shown, str) and v.key is not None for v in values)
        for body, value in zip(bodies, values):
            body.append(_cell(value, places, numeric))
        heads.append(_head(column, numeric, k == sorted_by))
    lines = "".join(f"<tr>{''.join(body)}</tr>" for body in bodies)
    return Html(
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption, quote=True)}">'
        f'<table class="sortable"><caption>{escape(caption)}</caption>'
        f"<thead><tr>{''.join(heads)}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def _head(column: Column, numeric: bool, is_sorted: bool) -> str:
    unit = f' <span class="unit">{escape(column.unit)}</span>' if column.unit else ""
    hint = f' title="{escape(column.hint, quote=True)}"' if column.hint else ""
    order = "ascending" if is_sorted else "none"
    kind = ' class="number"' if numeric else ""
    button = f'<button type="button"{hint}>{escape(column.title)}<span class="order"></span>{unit}</button>'
    return f'<th scope="col"{kind} aria-sort="{order}">{button}</th>'


def _cell(value: Any, places: int, numeric: bool) -> str:
    key: Any = None
    if isinstance(value, Cell):
        shown, key = html(value.shown), value.key
    elif value is None:
        shown = MISSING
    elif isinstance(value, bool):
        shown, key = ("yes" if value else "no"), int(value)
    elif isinstance(value, int | float):
        shown, key = f"{value:.{places}f}".replace("-", "−"), value
    else:
        shown = html(value)
        key = value if isinstance(value, str) else shown
    sort = "" if key is None else f' data-key="{escape(str(key), quote=True)}"'
    kind = ' class="number"' if numeric else ""
    return f"<td{kind}{sort}>{shown}</td>"
