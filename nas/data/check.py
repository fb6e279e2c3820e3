"""check(): what a data set holds and what is wrong with it, for `edgenas data check DIR`. Decodes every image."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nas.data.core import DataError, Dataset, Problem, Sample, read_image
from nas.data.load import load

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
_STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}


@dataclass(frozen=True)
class SplitCounts:
    """Counts of one split. A box's size is the square root of its area, in pixels of the original image."""

    images: int
    images_without_boxes: int
    boxes: int
    crowd: int
    boxes_per_class: dict[str, int]
    box_size_px: tuple[float, ...]    # at QUANTILES; empty where there is no box
    image_sizes: dict[str, int]       # "640x480" -> images


@dataclass(frozen=True)
class CheckReport:
    """What check() found; `ok` says that nothing had to be left out."""

    name: str
    root: str
    format: str
    classes: tuple[str, ...]
    splits: dict[str, SplitCounts]
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        return all(problem.severity != "error" for problem in self.problems)

    def to_json(self) -> str:
        return msgspec.json.format(msgspec.json.encode({"ok": self.ok, **msgspec.to_builtins(self)}), indent=2).decode()

    def print(self, console: Console | None = None, limit: int = 50) -> None:
        """Print the counts, then the problems, errors first and at most `limit` of them."""
        console = console or Console()
        console.print(_split_table(self))
        console.print(_class_table(self))
        by_severity = Counter(problem.severity for problem in self.problems)
        for problem in sorted(self.problems, key=lambda p: list(_STYLES).index(p.severity))[:limit]:
            console.print(Text.assemble((f"{problem.severity:8}", _STYLES[problem.severity]), str(problem)), soft_wrap=True)
        if len(self.problems) > limit:
            console.print(f"... and {len(self.problems) - limit} more")
        totals = (f"{by_severity[severity]} {severity}{'' if by_severity[severity] == 1 else 's'}" for severity in _STYLES)
        console.print(", ".join(totals), highlight=False)


def check(dataset: Dataset | str | Path) -> CheckReport:
    """Count and inspect a data set; a path is loaded leniently first, so that everything wrong is listed at once."""
    if not isinstance(dataset, Dataset):
        dataset = load(dataset, strict=False)
    problems = list(dataset.problems)
    owners: dict[str, tuple[str, Sample]] = {}
    for split, samples in dataset.splits.items():
        for sample in samples:
            problems += _duplicate_boxes(sample, dataset.classes)
            problems += _unreadable(sample)
            problems += _same_image(owners, split, sample)
    counts = {split: _counts(samples, dataset.classes) for split, samples in dataset.splits.items()}
    unmeasured = [name for name in dataset.classes if counts["train"].boxes_per_class[name] and not counts["val"].boxes_per_class[name]]
    if unmeasured:
        message = f"{len(unmeasured)} classes have boxes in train, but none in val, so their AP is undefined: {_shortened(unmeasured)}"
        problems.append(Problem(str(dataset.root), None, message, "note"))
    return CheckReport(dataset.name, str(dataset.root), dataset.format, dataset.classes, counts, tuple(problems))


def _counts(samples: tuple[Sample, ...], classes: tuple[str, ...]) -> SplitCounts:
    labels = np.concatenate([sample.labels[~sample.crowd] for sample in samples] or [np.zeros(0, np.int64)])
    boxes = np.concatenate([sample.boxes_xyxy[~sample.crowd] for sample in samples] or [np.zeros((0, 4), np.float32)])
    per_class = np.bincount(labels, minlength=len(classes))
    sizes = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1))
    return SplitCounts(
        images=len(samples),
        images_without_boxes=sum(1 for sample in samples if not len(sample.labels)),
        boxes=len(boxes),
        crowd=sum(int(sample.crowd.sum()) for sample in samples),
        boxes_per_class=dict(zip(classes, per_class.tolist())),
        box_size_px=tuple(round(float(q), 1) for q in np.quantile(sizes, QUANTILES)) if len(sizes) else (),
        image_sizes=dict(Counter(f"{sample.width}x{sample.height}" for sample in samples).most_common()),
    )


def _duplicate_boxes(sample: Sample, classes: tuple[str, ...]) -> list[Problem]:
    seen = Counter((int(label), tuple(box)) for label, box in zip(sample.labels, sample.boxes_xyxy.tolist()))
    return [
        Problem(str(sample.image), None, f"{count} equal boxes of class '{classes[label]}' at ({', '.join(f'{v:g}' for v in box)})")
        for (label, box), count in seen.items()
        if count > 1
    ]


def _unreadable(sample: Sample) -> list[Problem]:
    try:
        read_image(sample)
    except DataError as error:
        return [Problem.of(error, sample.image)]
    return []


def _same_image(owners: dict[str, tuple[str, Sample]], split: str, sample: Sample) -> list[Problem]:
    """Equal files, found by hash: between splits they make validation look better than it is."""
    digest = hashlib.sha256(sample.image.read_bytes()).hexdigest()
    first_split, first = owners.setdefault(digest, (split, sample))
    if first is sample:
        return []
    where = f"also in {first_split}" if first_split != split else "twice in this split"
    return [Problem(str(sample.image), None, f"in {split}, {where} as {first.image.name}: same file content")]


def _split_table(report: CheckReport) -> Table:
    title = f"{report.name} ({report.format}, {len(report.classes)} classes)"
    table = Table(title=title, title_justify="left", caption="box size: square root of the area; min / 25 % / median / 75 % / max")
    columns = ("split", "images", "no boxes", "boxes", "crowd", "box size, px", "image size")
    for column in columns:
        table.add_column(column, justify="left" if column in ("split", "image size") else "right")
    for split, c in report.splits.items():
        sizes = " / ".join(f"{q:.0f}" for q in c.box_size_px) or "-"
        image_size = next(iter(c.image_sizes), "-") + (f" and {len(c.image_sizes) - 1} more" if len(c.image_sizes) > 1 else "")
        table.add_row(split, str(c.images), str(c.images_without_boxes), str(c.boxes), str(c.crowd), sizes, image_size)
    return table


def _class_table(report: CheckReport) -> Table:
    table = Table("class", *(f"boxes in {split}" for split in report.splits))
    for column in table.columns[1:]:
        column.justify = "right"
    present = [name for name in report.classes if any(c.boxes_per_class[name] for c in report.splits.values())]
    for name in present:
        table.add_row(name, *(str(c.boxes_per_class[name]) for c in report.splits.values()))
    if len(present) < len(report.classes):
        table.caption = f"{len(report.classes) - len(present)} more classes without any box"
    return table


def _shortened(names: list[str], limit: int = 8) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
