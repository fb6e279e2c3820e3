"""The page of a study of generalization: what was compared, what came out with which intervals, and rounding as noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nas.generalization import Interval, Study, by_bits, verdict
from nas.generalization.measures import DRAWS, IMAGES, RISE, VECTORS
from nas.generalization.summary import COVER, ENOUGH_SEEDS, noise_rows, rise_rows
from nas.generalization.trainings import LOSS_IMAGES
from nas.model import ModelError, write_whole
from nas.quant.flatness import EPS
from nas.report import ReportError
from nas.report.document import document, plot
from nas.report.facts import flattened
from nas.report.figures import Figure
from nas.report.generalization_figures import curve_figure, label, noise_figure, over_epochs_figure, panel_figure, rise_figure
from nas.report.markup import Cell, Column, Html, joined, table, tag
from nas.report.sections import pairs, paragraph, section

COLUMNS = {
    "train_loss": Column("training loss"), "val_loss": Column("validation loss"), "gap": Column("gap", "validation − training"),
    "overfit": Column("over-fitting", "final − least val. loss"), "map50": Column("mAP50"), "map": Column("mAP"),
    "sigma": Column("flatness", "σ of the weights"),
}  # fmt: skip


def write(study: Study, path: Path) -> Path:
    """Write the page; its path."""
    try:
        write_whole(path, page(study).encode())
    except ModelError as fault:
        raise ReportError(str(fault)) from None
    return path


def page(study: Study) -> str:
    figures: dict[str, Figure] = {
        "panels": panel_figure(study),
        "curves": curve_figure(study),
        "gaps": over_epochs_figure(study, lambda p: p.val_loss - p.train_loss, "gap: validation − training loss"),
        "maps": over_epochs_figure(study, lambda p: p.map50, "mAP50 on validation images"),
        "noise": noise_figure(study),
        "rises": rise_figure(study),
    }
    body = joined([_headline(study), _outcome(study), _courses(), _noise(study), _rises(study), _how(study)])
    return document(f"Generalization of {study.about['data']} · edgenas", body, figures)


def _headline(study: Study) -> Html:
    s, images = study.settings, study.about["images"]
    assert isinstance(images, dict)
    counts = f"{images['train']} training and {images['val']} validation images of {s.size} px"
    recipe = f"{s.epochs} epochs, {'augmented' if s.augment else 'without augmentation'}"
    asked = (
        f"One detector of {study.about['parameters']:,} parameters on {study.about['data']} ({counts}), trained {s.seeds} times at each of "
        f"{', '.join(label(b) for b in s.bits)}: the same recipe ({recipe}) and, seed by seed, the same start and the same batches. "
        "Only the bits of weights and activations differ; the stem and the last 1×1 convolutions stay at 8."
    )
    title = tag("h1", "Does quantization regularize?")
    return tag("header", title, paragraph(asked, class_="lead"), paragraph(verdict(study), class_="notice"))


def _outcome(study: Study) -> Html:
    found = by_bits(study)
    rows = [[label(bits), *(_interval(found[bits][name]) for name in COLUMNS)] for bits in study.settings.bits]
    percent = f"{COVER:.0%}".replace("%", " %")
    caption = f"Means over {study.settings.seeds} seeds with {percent} bootstrap intervals, after the last epoch"
    words = f"Filled marks: means with {percent} intervals over seeds. Open marks: single seeds. A higher σ is a flatter minimum."
    if study.settings.seeds < ENOUGH_SEEDS:
        words += " With so few seeds the intervals are too narrow: they never reach beyond the seeds themselves."
    return section("By bit-width", plot("panels", "", words), table([Column("bits"), *COLUMNS.values()], rows, caption=caption))


def _interval(found: Interval) -> Cell:
    shown = [tag("div", f"{found.mean:.3f}"), tag("div", f"{found.low:.3f} to {found.high:.3f}", class_="soft")]
    return Cell(joined(shown), found.mean)


def _courses() -> Html:
    words = (
        "After each epoch, the same loss in eval mode on the images of both splits as they are, without augmentation. Lines are means over "
        "seeds, bands reach from the least to the greatest seed; the first fifth of the epochs may leave the frame."
    )
    pair = tag("div", plot("gaps", "Gap", ""), plot("maps", "mAP50", ""), class_="pair")
    return section("Over the epochs", plot("curves", "Losses", words), pair)


def _noise(study: Study) -> Html:
    rows = [
        [label(row["bits"]), row["steps"], row["measured_over_predicted"], row["where_the_grid_reaches"], _percent(row["clipped"])]
        for row in noise_rows(study)
    ]
    columns = [Column("bits"), Column("steps"), Column("all weights", "measured / (s²/12)"),
               Column("reached weights", "measured / (s²/12)"), Column("clipped", "of the weights")]  # fmt: skip
    words = (
        "Squared rounding error of the float nets' weights over s²/12, layer by layer, on grids of least squared error; the grey strip is "
        "±5 %. Where a point stands above 1 at the left and near 1 at the right, the outermost levels clip weights. Below 1 at the right, "
        "the step was fitted to so few weights, or the levels are so few, that errors are smaller than those of a uniform variable."
    )
    caption = "All free layers and seeds together: steps fitted to the float nets, and steps as learned in training"
    return section("Rounding as noise", plot("noise", "Predicted and measured noise", words), table(columns, rows, caption=caption))


def _rises(study: Study) -> Html:
    columns = [Column("loss"), Column("bits"), Column("predicted", "Σ s²/24 · H"), Column("uniform noise", "mean ± 95 %"),
               Column("predicted / uniform"), Column("rounding itself"), Column("first order", "std of its part in the last")]  # fmt: skip
    rows: list[list[Any]] = [
        [row["loss"], label(row["bits"]), _number(row["predicted"]), _number(row["uniform"], 1.96 * row["uniform_error"]),
         row["predicted_over_uniform"], _number(row["rounded"]), _number(row["first_order"])]
        for row in rise_rows(study)
    ]  # fmt: skip
    words = (
        "How much the loss of the float nets rises when their weights are rounded: predicted from the trace of the Hessian, averaged over "
        "uniform noise, and by the rounding itself, a single draw that also has a part of first order; a rounding that lowers the loss has "
        "no mark. CIoU is made of minima and maxima, whose kinks hold curvature that no second derivative sees, so the whole loss is "
        "predicted too low; class and DFL loss are smooth. Where uniform noise leaves the prediction, higher orders count; where rounding "
        "leaves uniform noise, clipping and few levels do."
    )
    return section("What the loss makes of it", plot("rises", "Rise of the loss", words),
                   table(columns, rows, caption="Means over the float nets of all seeds"))  # fmt: skip


def _how(study: Study) -> Html:
    facts = {
        "loss": f"the training's: CIoU, DFL and class BCE, on at most {LOSS_IMAGES} images of a split, of the averaged weights",
        "gap": "validation loss less training loss after the last epoch",
        "over-fitting": "validation loss after the last epoch less its least over the epochs",
        "flatness σ": (
            f"standard deviation of normal noise relative to each weight (and {EPS:g} absolute) at which the training loss on {IMAGES} "
            f"images has risen by {RISE:g}, mean of {DRAWS} draws; batch-norms folded, weights on their grids"
        ),
        "Hessian": f"Hutchinson's estimate with at most {VECTORS} vectors, on the same {IMAGES} images, positives held as assigned",
        "intervals": "percentile bootstrap over seeds, widened for few (Hesterberg 2015); differences from float are taken seed by seed",
    }
    about = {"commit": str(study.about["commit"]), "cpu": str(study.about["cpu"]), **flattened({"versions": study.about["versions"]})}
    genes = {name: str(value) for name, value in study.settings.genes.items() if not name.endswith(".precision")}
    columns = tag("div", tag("div", tag("h3", "Origin"), pairs(about)), tag("div", tag("h3", "Genes"), pairs(genes)), class_="columns")
    return section("How it was measured", pairs(facts), columns)


def _percent(share: float) -> Cell:
    return Cell(f"{100 * share:.1f} %", share)


def _number(value: float, margin: float | None = None) -> Cell:
    shown = f"{value:.3g}".replace("-", "−")
    return Cell(shown if margin is None else f"{shown} ± {margin:.1g}", value)
