"""The section on successive halving: who was trained for how long on which rung, what was reached, and who went on."""

from __future__ import annotations

from typing import Any

from nas.halving import Standing, epochs_trained, ladder
from nas.report.facts import Facts
from nas.report.markup import Cell, Column, Html, table
from nas.report.sections import paragraph, section

WORDS = (
    "Candidates are trained for a few epochs at the bits of their genes, and those that are expected to end best go on from where they "
    "stopped, with a new branch of quantized epochs on each rung. The mAP is that of the branch on the validation split."
)


def rung_section(facts: Facts) -> Html:
    """Nothing where no candidate has been on a rung."""
    found = facts.run.standings
    if not found:
        return Html("")
    columns = [
        Column("rung"), Column("candidate"), Column("epochs", "float"), Column("epochs", "quantized", "of the branch that was measured"),
        Column("started from", hint="the candidate whose weights it took, and the share of its own that this gave"), Column("mAP50"),
        Column("mAP"), Column("expected", "mAP", "after the whole recipe, as the predictor saw it when the rung was done"),
        Column("interval", "90 %", "of what is expected"), Column("went on"),
    ]  # fmt: skip
    expected = {(p.rung, trial): row for p in facts.run.promotions for trial, row in p.expected.items()}
    rows = [_row(facts, s, expected.get((s.rung, s.trial)), _went_on(facts, s, found)) for s in found]
    spent = epochs_trained(facts.run)
    total = f"{spent['float']} float and {spent['quantized']} quantized epochs were trained in the whole run, finalists included."
    return section("Rungs", paragraph(f"{WORDS} {total}"), table(columns, rows, caption="Successive halving, rung by rung"))


def _row(facts: Facts, s: Standing, expected: tuple[float, float, float] | None, went_on: str) -> list[Any]:
    origin = "random" if s.start.donor is None else f"#{s.start.donor} ({100 * s.start.share:.0f} %)"
    mean, low, high = expected or (None, None, None)
    guess = None if mean is None else Cell(f"{mean:.3f}", mean)
    interval = None if low is None or high is None else Cell(f"{low:.3f}–{high:.3f}", high - low)
    return [
        s.rung, Cell(f"#{s.trial}", s.trial), s.epochs, s.quantized, origin, Cell(f"{s.map50:.3f}", s.map50), Cell(f"{s.map:.3f}", s.map),
        guess, interval, went_on,
    ]  # fmt: skip


def _went_on(facts: Facts, s: Standing, found: list[Standing]) -> str:
    """'yes', 'no', or 'to come' for a promoted candidate that was not trained further yet; '' on a rung that is still being climbed."""
    promotion = next((p for p in facts.run.promotions if p.rung == s.rung), None)
    if promotion is None:
        return ""
    settings = facts.run.settings
    sizes = [rung.candidates for rung in ladder(settings.halving, settings.finalists)][1:] + [settings.finalists]
    last = s.rung == len(sizes)
    higher = {f.trial for f, _ in facts.verified} if last else {other.trial for other in found if other.rung == s.rung + 1}
    if s.trial in higher:
        return "yes"
    return "to come" if s.trial in promotion.order[: sizes[s.rung - 1]] and facts.state != "done" else "no"
