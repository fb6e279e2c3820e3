"""Run a detector over samples: the torch model, or any executor as a callable from an image to its detections."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import nn

from nas.data import Sample, ValBatch, ValBatches, read_image, val_batches
from nas.runtime.detect import nms
from nas.train.assign import Targets
from nas.train.boxes import STRIDES, decode
from nas.train.device import Accelerator, Precision, compute_type, pick_device
from nas.train.loss import detection_loss
from nas.train.metrics import Detections, Metrics, coco_map

Detector = Callable[[np.ndarray], Detections]  # uint8 RGB (H, W, 3) -> Detections in its pixels


@torch.no_grad()
def predict(
    model: nn.Module,
    samples: Sequence[Sample] | ValBatches,
    size: int,
    classes: int,
    *,
    batch: int = 16,
    accelerator: Accelerator = "auto",
    precision: Precision = "fp32",
    score_threshold: float = 0.001,
    iou_threshold: float = 0.6,
    strides: tuple[int, ...] = STRIDES,
) -> list[Detections]:
    """Detections of a model in eval mode, one per sample; images are letterboxed to size x size. The mode is put back afterwards.
    A ValBatches in place of the samples keeps its resized images from call to call; its own size and batch then count.

    The thresholds are those with which COCO scores of YOLO models are reported; to draw boxes, ask for a score of .25 or more.
    """
    device = pick_device(accelerator)
    kind = compute_type(device, precision)
    was_training = model.training
    model.to(device).eval()
    found: list[Detections] = []
    for part in samples if isinstance(samples, ValBatches) else val_batches(samples, size, batch):
        inputs = images_to(part.images, device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=kind is torch.bfloat16):
            maps = model(inputs)
        boxes, scores = decode(maps, classes, strides)
        for box, score, letterbox in zip(boxes.cpu().numpy(), scores.cpu().numpy(), part.letterboxes):
            kept = nms(box, score, score_threshold, iou_threshold)
            found.append(Detections(letterbox.invert(kept[0]), kept[1], kept[2]))
    model.train(was_training)
    return found


@torch.no_grad()
def mean_loss(
    model: nn.Module, samples: Sequence[Sample] | ValBatches, size: int, classes: int, *, batch: int = 16, accelerator: Accelerator = "auto"
) -> float:
    """The training's detection loss of a model in eval mode on letterboxed images without augmentation: the mean over batches, each
    counted by its images.  The mode is put back afterwards.
    """
    device = pick_device(accelerator)
    was_training = model.training
    model.to(device).eval()
    total, count = 0.0, 0
    for part in samples if isinstance(samples, ValBatches) else val_batches(samples, size, batch):
        loss = detection_loss(model(images_to(part.images, device)), targets_of(part, device), classes)
        total, count = total + float(loss.total) * len(part.samples), count + len(part.samples)
    model.train(was_training)
    return total / count


def targets_of(part: ValBatch, device: torch.device) -> Targets:
    """The objects of a batch of letterboxed images, crowd regions left out."""
    boxes = [letterbox.apply(sample.boxes_xyxy[~sample.crowd]) for sample, letterbox in zip(part.samples, part.letterboxes)]
    labels = [sample.labels[~sample.crowd] for sample in part.samples]
    index = np.repeat(np.arange(len(boxes)), [len(found) for found in boxes])
    return Targets(
        torch.as_tensor(np.concatenate(boxes), device=device),
        torch.as_tensor(np.concatenate(labels), dtype=torch.int64, device=device),
        torch.as_tensor(index, device=device),
    )


def images_to(images: np.ndarray, device: torch.device) -> torch.Tensor:
    """uint8 (N, 3, S, S) -> float32 in 0..1 on the device, channels last."""
    moved = torch.from_numpy(images).to(device, non_blocking=True)
    return moved.to(torch.float32, memory_format=torch.channels_last).div_(255)


def detect_all(detector: Detector, samples: Sequence[Sample], on_image: Callable[[int], None] | None = None) -> Iterable[Detections]:
    """Run an executor over the images as they are on disk; it does its own resizing. `on_image` hears how many are done."""
    for done, sample in enumerate(samples, start=1):
        yield detector(read_image(sample))
        if on_image is not None:
            on_image(done)


def evaluate(detector: Detector, samples: Sequence[Sample], classes: Sequence[str]) -> Metrics:
    """Average precision of any executor, a compiled artifact as well as a model."""
    return coco_map(samples, detect_all(detector, samples), classes)
