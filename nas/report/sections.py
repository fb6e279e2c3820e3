"""The sections of the page that need no plot: headline, tables, pictures, provenance."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from nas.data import DataError
from nas.report.facts import COLUMN_NAMES, Facts, flattened, with_unit
from nas.report.markup import MISSING, Cell, Column, Html, joined, table, tag
from nas.report.pictures import SCORE, Picture, pictures
from nas.runtime import ArtifactError

if TYPE_CHECKING:
    from nas.deploy.verify import Verification
    from nas.job import Finalist

# Genes that the table of the front tells; the heat map has all.
FRONT_GENES = {"resolution": Column("resolution", "px"), "backbone.block": Column("block"), "neck": Column("neck")}
NEAR = 10  # nearest misses that are told where nothing fits
TITLES = {
    "searching": ": search under way",
    "infeasible": ": nothing fits the limits",
    "nothing fits": ": nothing fits when measured",
    "finalists": ": finalists under way",
}


def section(title: str, *parts: str | Html) -> Html:
    return tag("section", tag("h2", title), *parts)


def paragraph(*parts: str | Html, class_: str = "") -> Html:
    return tag("p", *parts, **({"class_": class_} if class_ else {}))


def headline(facts: Facts) -> Html:
    """What was asked and what came out, in plain words."""
    parts = [tag("h1", _title(facts)), paragraph(_asked(facts), class_="lead")]
    if notice := _notice(facts):
        kind = "notice bad" if facts.state in ("infeasible", "nothing fits") else "notice"
        parts.append(paragraph(notice, class_=kind))
    if facts.best is not None:
        finalist, verified = facts.best
        parts += [paragraph(_found(facts, finalist, verified), class_="lead"), _tiles(facts, verified)]
    return tag("header", *parts)


def _title(facts: Facts) -> str:
    what = f"A detector for {facts.data_name} on {facts.provenance.get('device', facts.run.settings.device)}"
    return what + TITLES.get(facts.state, "")


def _asked(facts: Facts) -> str:
    settings, images = facts.run.settings, facts.provenance.get("data", {}).get("images", {})
    classes = facts.classes
    named = f" ({', '.join(classes)})" if 0 < len(classes) <= 12 else ""
    counts = " and ".join(f"{n} for {split}" for split, n in images.items())
    limits = ", ".join(f"{COLUMN_NAMES.get(name, name)} at most {with_unit(name, limit)}" for name, limit in settings.limits.items())
    kinds = f"{len(classes)} class{'es' if len(classes) != 1 else ''}{named}"
    where = f"{facts.data_name}: {kinds}" + (f", images: {counts}" if counts else "")
    device = settings.device + (f" ({facts.provenance['cpu']})" if settings.device == "local" and facts.provenance.get("cpu") else "")
    within = f"with {limits}" if limits else "without limits"
    return f"Asked for: the most accurate detector for {where}; on device {device}, {within}."


def _notice(facts: Facts) -> str:
    """What is unusual about the state of the run; '' where it came to its end."""
    settings, good = facts.run.settings, sum(f.met for f in facts.finalists)
    onward = f"edgenas resume {facts.run.path} goes on with it."
    if facts.state == "searching":
        return f"The search is not finished: {facts.spent} of {settings.budget} candidates are scored. {onward}"
    if facts.state == "finalists":
        return f"The run is not finished: {good} of {settings.finalists} finalists are verified within the limits. {onward}"
    if facts.state == "infeasible":
        if not facts.near_misses:
            return f"Each of {len(facts.trials)} candidates failed; the first: {facts.trials[0].error}"
        trial, misses = facts.near_misses[0]
        return f"None of {len(facts.trials)} candidates meets every limit. The nearest miss is #{trial.number}: {misses}."
    if facts.state == "nothing fits":
        return f"None of {len(facts.finalists)} finalists met every limit when it was measured; the table below says why."
    if good < settings.finalists:
        return f"{settings.finalists} finalists were asked for; {good} met every limit when they were measured."
    device = facts.provenance.get("device")
    if device != "local":
        here = facts.provenance.get("cpu") or "the machine of the search"
        return f"Latencies were measured on {here} but predicted for {device}, so they differ."
    return ""


def _found(facts: Facts, finalist: Finalist, v: Verification) -> str:
    entered = sum(s.rung == 1 for s in facts.run.standings)
    source = f"left of {entered} that were trained" if entered else f"taken from a front of {len(facts.front)}"
    text = f"Found: finalist #{finalist.trial}, one of {len(facts.finalists)} that were {source}"
    text += f" among {len(facts.trials)} candidates. Its compiled file reaches mAP50 {v.map50:.3f} in {v.latency_ms:.2f} ms"
    if v.predicted_ms:
        text += f", where {v.predicted_ms:.2f} ms were predicted ({100 * (v.predicted_ms / v.latency_ms - 1):+.0f} %)"
    exact = "equal the integer reference bit for bit" if v.bit_exact else "differ from the integer reference"
    return f"{text}. Its outputs {exact} on {v.checked_images} checked images."


def _tiles(facts: Facts, v: Verification) -> Html:
    limits = facts.limits

    def limit(name: str) -> str:
        return f"limit {with_unit(name, limits[name])}" if name in limits else "no limit"

    tiles = [
        ("mAP50", f"{v.map50:.3f}", "", f"mAP {v.map:.3f} (mean over IoU .50–.95)"),
        ("latency, median", f"{v.latency_ms:.2f}", "ms", limit("latency_ms")),
        ("file size", f"{v.size_mb:.2f}", "MB", limit("size_mb")),
        ("RAM, activations", f"{v.ram_kib:.0f}", "KiB", limit("ram_kib")),
        ("bit-exact", "yes" if v.bit_exact else "no", "", f"on {v.checked_images} images; kernels {v.isa}"),
    ]
    return tag("div", *(_tile(*tile) for tile in tiles), class_="tiles")


def _tile(label: str, value: str, unit: str, note: str) -> Html:
    shown = joined([value, " ", tag("small", unit)]) if unit else value
    inside = (tag("div", label, class_="label"), tag("div", shown, class_="value"), tag("div", note, class_="note"))
    return tag("div", *inside, class_="tile")


def finalist_table(facts: Facts) -> Html:
    columns = [
        Column("finalist"), Column("outcome"), Column("mAP50"), Column("mAP", hint="mean over IoU .50 to .95"),
        Column("rank", "score → mAP50", "by score before training, then by mAP50 of the compiled file"),
        Column("latency", "ms", "median, measured"), Column("middle half", "ms", "first to third quartile"), Column("predicted", "ms"),
        Column("interval", "ms", "of the prediction"), Column("error", "%", "predicted against measured"),
        Column("RAM", "KiB", "peak of activations"), Column("size", "MB", "the file"), Column("bit-exact"),
    ]  # fmt: skip
    rows = [_finalist_row(facts, finalist, finalist.verified) for finalist in facts.finalists]
    measured = table(columns, rows, caption="Finalists, as measured from their compiled files")
    reasons = [tag("li", tag("strong", f"#{f.trial}"), f" failed: {f.failed}") for f in facts.finalists if f.failed]
    words = "has bits chosen for each layer:"
    bits = [tag("li", tag("strong", f"#{f.trial}"), f" {words} {f.bits_of_layers}") for f in facts.finalists if f.layer_bits]
    return joined([measured, tag("ul", *reasons, *bits)]) if reasons or bits else measured


def _finalist_row(facts: Facts, finalist: Finalist, v: Verification | None) -> list[Any]:
    name = Cell(f"#{finalist.trial}", finalist.trial)
    outcome = Cell(_outcome(finalist), int(finalist.met))
    if v is None:
        known = finalist.predicted
        interval = _range(known.get("latency_low_ms"), known.get("latency_high_ms"))
        return [name, outcome, None, None, None, None, None, known.get("latency_ms"), interval, None, None, None, None]
    error = 100 * (v.predicted_ms / v.latency_ms - 1) if v.predicted_ms else None
    return [
        name, outcome, Cell(f"{v.map50:.3f}", v.map50), Cell(f"{v.map:.3f}", v.map), _rank_change(*facts.rank_changes[finalist.trial]),
        v.latency_ms, _range(v.latency_q1_ms, v.latency_q3_ms), v.predicted_ms, _range(v.predicted_low_ms, v.predicted_high_ms),
        None if error is None else Cell(f"{error:+.1f}".replace("-", "−"), error), v.ram_kib, v.size_mb, v.bit_exact,
    ]  # fmt: skip


def _outcome(finalist: Finalist) -> Html:
    if finalist.met:
        return tag("span", "✓ met", class_="good")
    return tag("span", "✗ failed", class_="bad-text")


def _rank_change(predicted: int, measured: int) -> Cell:
    moved = predicted - measured
    arrow = f" ▲{moved}" if moved > 0 else f" ▼{-moved}" if moved < 0 else " ="
    return Cell(f"{predicted} → {measured}{arrow}", measured)


def _range(low: float | None, high: float | None) -> Cell:
    return Cell(MISSING) if low is None or high is None else Cell(f"{low:.2f}–{high:.2f}", high - low)


def front_table(facts: Facts) -> Html:
    shown = [o for o in facts.objectives if o.deterministic and o.name not in ("latency_low_ms", "latency_high_ms")]
    columns = [Column("candidate"), *(Column(COLUMN_NAMES.get(o.name, o.name), o.unit) for o in shown)]
    columns.insert(2, Column("interval", "ms", "of the predicted latency"))
    genes = [gene for gene in FRONT_GENES if any(gene in trial.arch.genes for trial in facts.front)]
    columns += [*(FRONT_GENES[gene] for gene in genes), Column("finalist")]
    chosen = {finalist.trial: finalist for finalist in facts.finalists}
    rows = []
    for trial in facts.front:
        row: list[Any] = [Cell(f"#{trial.number}", trial.number), *(trial.columns.get(o.name) for o in shown)]
        row.insert(2, _range(trial.columns.get("latency_low_ms"), trial.columns.get("latency_high_ms")))
        row += [trial.arch.genes.get(gene) for gene in genes]
        finalist = chosen.get(trial.number)
        row.append("" if finalist is None else "verified" if finalist.met else "failed")
        rows.append(row)
    return table(columns, rows, caption="The Pareto front, as predicted before any training", sorted_by=1)


def near_table(facts: Facts) -> Html:
    shown = [o for o in facts.objectives if o.cost == "cheap" and o.deterministic and o.name not in ("latency_low_ms", "latency_high_ms")]
    columns = [Column("candidate"), *(Column(COLUMN_NAMES.get(o.name, o.name), o.unit) for o in shown), Column("what it misses")]
    rows = [
        [Cell(f"#{trial.number}", trial.number), *(trial.columns.get(o.name) for o in shown), misses]
        for trial, misses in facts.near_misses[:NEAR]
    ]
    return table(columns, rows, caption="The nearest misses, nearest first")


def per_class(facts: Facts) -> Html:
    """AP50 and AP of each class by finalist, with the number of true boxes where the data can be read."""
    if not facts.verified:
        return Html("")
    names = list(dict.fromkeys(name for _, v in facts.verified for name in v.per_class))
    counts = _true_boxes(facts)
    columns = [Column("class")] + ([Column("boxes", "validation")] if counts else [])
    for finalist, _ in facts.verified:
        columns += [Column(f"#{finalist.trial}", "AP50"), Column(f"#{finalist.trial}", "AP")]
    rows: list[list[Any]] = []
    for name in names:
        row: list[Any] = [name] + ([counts.get(name, 0)] if counts else [])
        for _, v in facts.verified:
            ap, ap50 = v.per_class.get(name, (float("nan"), float("nan")))
            row += [_bar(ap50), Cell(MISSING) if np.isnan(ap) else Cell(f"{ap:.3f}", ap)]
        rows.append(row)
    return section("Classes", table(columns, rows, caption="Average precision of each class, from the compiled files"))


def _bar(value: float) -> Cell:
    if np.isnan(value):
        return Cell(MISSING)
    filled = tag("i", style=f"width:{100 * min(max(value, 0.0), 1.0):.1f}%")
    return Cell(joined([tag("span", filled, class_="bar"), f"{value:.3f}"]), value)


def _true_boxes(facts: Facts) -> dict[str, int]:
    if isinstance(facts.data, str):
        return {}
    found = np.zeros(len(facts.data.classes), np.int64)
    for sample in facts.data.val:
        found += np.bincount(sample.labels[~sample.crowd], minlength=len(found))
    return dict(zip(facts.data.classes, found.tolist()))


def picture_section(facts: Facts) -> Html:
    """Validation images as the best artifact that is still there sees them; a sentence where they cannot be made."""
    if not facts.verified:
        return Html("")
    artifacts = [(finalist, facts.run.folder(finalist.trial) / "model.edge") for finalist, _ in facts.verified]
    finalist, artifact = next((pair for pair in artifacts if pair[1].exists()), artifacts[0])
    shown: list[Picture] = []
    why = facts.data if isinstance(facts.data, str) else ""
    if not isinstance(facts.data, str):
        try:
            shown = pictures(artifact, facts.data)
        except (ArtifactError, DataError, OSError, ValueError) as fault:
            why = str(fault)
    if not shown:
        return section("Pictures", paragraph(f"No pictures: {why}", class_="soft"))
    text = (
        f"Validation images, spread evenly over the split: true boxes on the left; on the right, boxes with a score of {SCORE} or more "
        f"that the compiled file of finalist #{finalist.trial} finds."
    )
    return section("Pictures", paragraph(text), tag("div", *map(_picture, shown), class_="pictures"))


def _picture(picture: Picture) -> Html:
    def side(source: str, label: str) -> Html:
        size = {"width": str(picture.width), "height": str(picture.height)}
        return tag("img", src=source, alt=f"{picture.name} with {label} boxes", **size)

    words = f"{picture.name}: {picture.true_count} true, {picture.predicted_count} found"
    sides = tag("div", side(picture.true, "true"), side(picture.predicted, "found"), class_="sides")
    return tag("figure", sides, tag("figcaption", words))


def provenance_section(facts: Facts) -> Html:
    """Where every number came from: machine, versions, settings, dates, and the command that asks for it again."""
    known = flattened(facts.provenance)
    versions = {name.removeprefix("versions."): value for name, value in known.items() if name.startswith("versions.")}
    origin = {name: value for name, value in known.items() if name not in ("classes",) and not name.startswith("versions.")}
    settings = flattened(msgspec.to_builtins(facts.run.settings))
    first = [tag("h3", "Origin"), pairs(origin | _study(facts)), tag("h3", "Versions"), pairs(versions)]
    second = [tag("h3", "Settings"), pairs({name: value for name, value in settings.items() if not name.startswith("recipe.")})]
    recipe = {name.removeprefix("recipe."): value for name, value in settings.items() if name.startswith("recipe.")}
    return section(
        "Provenance",
        paragraph("The same run again:"),
        tag("pre", facts.command),
        tag("div", tag("div", *first), tag("div", *second, tag("h3", "Training of a finalist"), pairs(recipe)), class_="columns"),
        _device_file(facts),
    )


def _study(facts: Facts) -> dict[str, str]:
    study = facts.run.path / "study.db"
    seconds = sum(trial.seconds for trial in facts.trials)
    return {
        "run": facts.run.path.name,
        "last written": datetime.fromtimestamp(study.stat().st_mtime, UTC).isoformat(timespec="seconds"),
        "candidates": f"{len(facts.trials)}, {facts.spent} scored, {sum(t.state == 'failed' for t in facts.trials)} failed",
        "time spent on candidates": f"{seconds:.0f} s",
    }


def pairs(rows: dict[str, str]) -> Html:
    return tag("dl", *(joined([tag("dt", name), tag("dd", value or MISSING)]) for name, value in rows.items()))


def _device_file(facts: Facts) -> Html:
    try:
        text = (facts.run.path / "device.toml").read_text(errors="replace")
    except OSError:
        return Html("")
    return tag("details", tag("summary", "The device file: what each operator costs, and where the numbers come from"), tag("pre", text))

