"""The report page: sections in reading order, put together to one HTML file that asks the network for nothing.

A content security policy says so to the browser, and lets it run the page's own scripts alone, by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import platform
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from nas.model import ModelError, write_whole
from nas.provenance import versions
from nas.report import ReportError
from nas.report.facts import Facts
from nas.report.figures import Figure, gene_figure, measured_figure, search_figure, training_figure
from nas.report.front_png import front_png
from nas.report.markup import Html, html, joined, script_json, tag
from nas.report.pictures import data_uri
from nas.report.sections import (
    finalist_table,
    front_table,
    headline,
    near_table,
    paragraph,
    per_class,
    picture_section,
    provenance_section,
    section,
)

if TYPE_CHECKING:
    from nas.job import Run

_HERE = Path(__file__).parent
MEASURED_WORDS = (
    "Finalists: each arrow goes from the predicted latency to the measured one; the pale bar is the interval of the prediction, "
    "the thin bar the middle half of the measured times."
)


def write(run: Run, out: Path | None = None) -> Path:
    """Write the page (default: report.html in the run; a folder takes that name) and front.png beside it."""
    path = run.path / "report.html" if out is None else out / "report.html" if out.is_dir() else out
    facts = Facts.of(run)
    picture = front_png(facts)
    try:
        write_whole(path.with_name("front.png"), picture)
        write_whole(path, page(facts, picture).encode())
    except ModelError as fault:
        raise ReportError(str(fault)) from None
    except OSError as fault:
        raise ReportError(f"{path} could not be written: {fault.strerror or fault}") from None
    return path


def page(facts: Facts, front: bytes) -> str:
    """The whole page; `front` is the PNG that stands in for the plots where scripts are off."""
    figures: dict[str, Figure] = {}
    sections = [
        headline(facts),
        _fronts(facts, figures, front),
        _results(facts),
        _genes(facts, figures),
        _training(facts, figures),
        per_class(facts),
        picture_section(facts),
        provenance_section(facts),
    ]
    return _document(f"{facts.run.path.name} · edgenas", joined(sections), figures)


def _fronts(facts: Facts, figures: dict[str, Figure], front: bytes) -> Html:
    """The search's view beside what was measured; what has no data yet is left out."""
    parts = []
    if facts.scored:
        figures["search"] = search_figure(facts)
        parts.append(_plot("search", "What the search saw", _search_words(facts)))
    if facts.verified:
        figures["measured"] = measured_figure(facts)
        parts.append(_plot("measured", "What was measured", MEASURED_WORDS))
    if not parts:
        return Html("")
    still = f'<noscript><img alt="The front" src="{data_uri(front, "png")}"></noscript>'
    return section("The front", tag("div", *parts, class_="pair"), Html(still))


def _search_words(facts: Facts) -> str:
    states = [trial.state for trial in facts.trials]
    text = f"{len(facts.scored)} scored candidates, {len(facts.front)} of them on the front: nothing is both faster and better."
    if over := states.count("infeasible"):
        text += f" {over} more missed a limit by their graph alone and were not scored."
    if failed := states.count("failed"):
        text += f" {failed} failed."
    return text + " The score orders candidates before training, higher is better; it is no mAP."


def _results(facts: Facts) -> Html:
    tables = [finalist_table(facts)] if facts.finalists else []
    tables += [front_table(facts)] if facts.front else [near_table(facts)] if facts.near_misses else []
    hint = paragraph("A click on a header sorts by it; a second one turns the order round.", class_="soft screen")
    return section("In numbers", hint, *tables) if tables else Html("")


def _genes(facts: Facts, figures: dict[str, Figure]) -> Html:
    if not facts.front:
        return Html("")
    figures["genes"] = gene_figure(facts)
    words = "Each column is a member of the front, fastest first; ◆ marks finalists. Darker is further along the gene's list of options; "
    words += "an empty field is a gene that cannot matter in that network."
    return section("Genes of the front", _plot("genes", "", words))


def _training(facts: Facts, figures: dict[str, Figure]) -> Html:
    parts = []
    for finalist in facts.finalists:
        figure = training_figure(facts, finalist)
        if figure is not None:
            name = f"training-{finalist.trial}"
            figures[name] = figure
            parts.append(_plot(name, f"Finalist #{finalist.trial}", ""))
    return section("Training", tag("div", *parts, class_="pair")) if parts else Html("")


def _plot(name: str, title: str, words: str) -> Html:
    place = tag("div", class_="plot", data_figure=name, role="img", aria_label=f"{title or 'Plot'}. {words}".strip())
    heading = [tag("h3", title)] if title else []
    return tag("figure", *heading, place, *([tag("figcaption", words)] if words else []))


def _document(title: str, body: Html, figures: dict[str, Figure]) -> str:
    scripts = ([_plotly()] if figures else []) + [(_HERE / "page.js").read_text()]
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in scripts)
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {hashes}; base-uri 'none'; form-action 'none'"
    data = f'<script type="application/json" id="figures">{script_json(figures)}</script>'
    code = "".join(f"<script>{text}</script>" for text in scripts)
    footer = f"Written by edgenas {versions()['edgenas']} on {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, Python {platform.python_version()}."
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{(_HERE / 'page.css').read_text()}</style></head>\n"
        f"<body><main>{html(body)}<footer>{escape(footer)}</footer></main>\n{data}\n{code}</body></html>\n"
    )


def _plotly() -> str:
    """plotly.js, whole; line ends as an HTML parser makes them, so that the hash is that of what the browser runs."""
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs()).replace("\r\n", "\n").replace("\r", "\n")
