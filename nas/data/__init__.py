"""Detection data: load, check, augment, and serve in batches. numpy and OpenCV, no torch."""

from nas.data.augment import AugmentSettings, Letterbox, letterbox, settings_for
from nas.data.batches import Batch, Loader, ValBatch, ValBatches, val_batches
from nas.data.check import CheckReport, check
from nas.data.core import DataError, Dataset, Problem, Sample, image_size, read_image
from nas.data.load import load

__all__ = [
    "AugmentSettings",
    "Batch",
    "CheckReport",
    "DataError",
    "Dataset",
    "Letterbox",
    "Loader",
    "Problem",
    "Sample",
    "ValBatch",
    "ValBatches",
    "check",
    "image_size",
    "letterbox",
    "load",
    "read_image",
    "settings_for",
    "val_batches",
]
