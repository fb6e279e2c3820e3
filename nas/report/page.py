"""The report page of a search: its sections in reading order."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nas.model import ModelError, write_whole
from nas.report import ReportError
from nas.report.document import document, plot
from nas.report.facts import Facts
from nas.report.figures import Figure, gene_figure, measured_figure, search_figure, training_figure
from nas.report.front_png import front_png
from nas.report.markup import Html, joined, tag
from nas.report.pictures import data_uri
from nas.report.rungs import rung_section
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
        rung_section(facts),
        _genes(facts, figures),
        _training(facts, figures),
        per_class(facts),
        picture_section(facts),
        provenance_section(facts),
    ]
    return document(f"{facts.run.path.name} · edgenas", joined(sections), figures)


def _fronts(facts: Facts, figures: dict[str, Figure], front: bytes) -> Html:
    """The search's view beside what was measured; what has no data yet is left out."""
    parts = []
    if facts.scored:
        figures["search"] = search_figure(facts)
        parts.append(plot("search", "What the search saw", _search_words(facts)))
    if facts.verified:
        figures["measured"] = measured_figure(facts)
        parts.append(plot("measured", "What was measured", MEASURED_WORDS))
    if not parts:
        return Html("")
    still = f'<noscript><img alt="The front" src="{data_uri(front, "png")}"></noscript>'
    return section("The front", tag("div", *parts, class_="pair"), Html(still))


def _search_words(facts: Facts) -> str:
    states = [trial.state for trial in facts.trials]
    better = "both faster and better" if facts.by_score else f"better in all of {', '.join(facts.optimized)}"
    text = f"{len(facts.scored)} scored candidates, {len(facts.front)} of them on the front: nothing is {better}."
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
    return section("Genes of the front", plot("genes", "", words))


def _training(facts: Facts, figures: dict[str, Figure]) -> Html:
    parts = []
    for finalist in facts.finalists:
        figure = training_figure(facts, finalist)
        if figure is not None:
            name = f"training-{finalist.trial}"
            figures[name] = figure
            parts.append(plot(name, f"Finalist #{finalist.trial}", ""))
    return section("Training", tag("div", *parts, class_="pair")) if parts else Html("")
