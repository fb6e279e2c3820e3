"""The nouns of the study: what it is asked, what is kept of one training, and where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from nas.data import AugmentSettings, Dataset, settings_for
from nas.generalization.measures import LayerNoise, Rise
from nas.steps import read_genes
from nas.train import TrainSettings
from searchspaces import SPACES, Arch

FLOAT = "fp"
BITS = (FLOAT, "8", "4", "2", "1")  # of weights and activations alike
EVALUATIONS = 10  # of mAP over a training
_STILL = AugmentSettings(mosaic=0, scale=0, translate=0, flip_horizontal=0, hue=0, saturation=0, value=0)
SMALL = {
    "resolution": 96, "backbone.block": "c2f", "neck": "pan", "neck.block": "c2f",
    **{f"{part}.act": "silu" for part in ("stem", "stage1", "stage2", "stage3", "stage4", "neck", "head")},
}  # fmt: skip


class GeneralizationError(ValueError):
    """A study that cannot be made as it was asked for."""


class StudySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One network, one recipe, several bit-widths and seeds."""

    data: str = "digits"
    bits: tuple[str, ...] = (FLOAT, "8", "4", "2")
    seeds: int = 5
    epochs: int = 40
    augment: bool = True
    accelerator: str = "auto"
    genes: dict[str, int | str] = {}

    def __post_init__(self) -> None:
        if strange := [b for b in self.bits if b not in BITS]:
            raise GeneralizationError(f"no bit-width '{strange[0]}'; bit-widths: {', '.join(BITS)} (fp is float)")
        if len(set(self.bits)) != len(self.bits) or FLOAT not in self.bits or len(self.bits) < 2:
            raise GeneralizationError(f"bits {','.join(self.bits)}: want fp, with which the others are compared, and others, each once")
        if self.seeds < 2:
            raise GeneralizationError(f"{self.seeds} seed says nothing about spread: want 2 or more, and 5 for a recommendation")

    @property
    def arch(self) -> Arch:
        return SPACES["yolo"].arch(self.genes)

    @property
    def size(self) -> int:
        """Side of the images, px."""
        return int(self.genes["resolution"])

    def recipe(self, seed: int, dataset: Dataset) -> TrainSettings:
        """Of every training alike: what its bits are is no part of it."""
        return TrainSettings(
            size=self.size, epochs=self.epochs, seed=seed, accelerator=self.accelerator, precision="fp32",  # type: ignore[arg-type]
            augment=settings_for(dataset) if self.augment else _STILL, close_mosaic=min(10, self.epochs // 3),
            warmup_epochs=min(3.0, self.epochs / 4), val_every=max(1, self.epochs // EVALUATIONS),
        )  # fmt: skip


def genes_of(path: Path | None, size: int) -> dict[str, int | str]:
    """Those of a JSON file, or of a small network; `size` px above 0 takes the place of their resolution."""
    space = SPACES["yolo"]
    arch = space.arch({**space.repair({}).genes, **SMALL}) if path is None else read_genes(path, space)
    return dict(space.arch({**arch.genes, "resolution": size}).genes) if size else dict(arch.genes)


@dataclass(frozen=True)
class Point:
    """After one epoch, of the moving average in eval mode: the loss on the images of each split as they are, and mAP on val where due."""

    epoch: int
    train_loss: float
    val_loss: float
    map: float | None
    map50: float | None


@dataclass(frozen=True)
class Cell:
    """One finished training.  `noise` is that of a quantized net's own steps; of a float net, of steps fitted at several bit-widths,
    and `rises` is what its loss makes of them.
    """

    bits: str
    seed: int
    curve: tuple[Point, ...]
    sigma: float
    noise: tuple[LayerNoise, ...]
    rises: tuple[Rise, ...] = ()

    @property
    def figures(self) -> dict[str, float]:
        """What is compared between bit-widths."""
        last = self.curve[-1]
        return {
            "train_loss": last.train_loss,
            "val_loss": last.val_loss,
            "gap": last.val_loss - last.train_loss,
            "overfit": last.val_loss - min(point.val_loss for point in self.curve),
            "map50": float("nan") if last.map50 is None else last.map50,
            "map": float("nan") if last.map is None else last.map,
            "sigma": self.sigma,
        }


@dataclass(frozen=True)
class Study:
    """What is known of a study, trainings in the order of bits, then seeds."""

    settings: StudySettings
    cells: Sequence[Cell]
    about: dict[str, object]

    def of(self, bits: str) -> list[Cell]:
        return [cell for cell in self.cells if cell.bits == bits]
