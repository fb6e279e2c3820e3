"""Average precision as COCO defines it, from detections in pixels of the original images; any executor can supply them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

from nas.train.errors import TrainError

MAX_DETECTIONS = 100  # per image, COCO's own limit


class Annotated(Protocol):
    """What a metric needs of a sample."""

    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def boxes_xyxy(self) -> np.ndarray: ...
    @property
    def labels(self) -> np.ndarray: ...
    @property
    def crowd(self) -> np.ndarray: ...


@dataclass(frozen=True, eq=False)
class Detections:
    """The objects found in one image."""

    boxes_xyxy: np.ndarray  # (D, 4) px of the original image
    scores: np.ndarray  # (D,) 0..1
    labels: np.ndarray  # (D,) int, index into the data set's classes


@dataclass(frozen=True)
class Metrics:
    """COCO average precisions, 0..1. A class without boxes in the samples has none, and counts in no mean."""

    map: float  # mean over IoU .50:.05:.95
    map50: float
    map75: float
    recall: float  # at most 100 detections per image, mean over the same IoUs
    per_class: dict[str, tuple[float, float]]  # class -> (AP, AP50)


def coco_map(samples: Sequence[Annotated], detections: Iterable[Detections], classes: Sequence[str]) -> Metrics:
    """Score detections, one per sample in the same order. Crowd boxes are neither missed nor false, as in COCO."""
    truth, found = coco_dicts(samples, list(detections), classes)
    if all(a["iscrowd"] for a in truth["annotations"]):
        raise TrainError(f"the {len(samples)} samples have no boxes, so there is no average precision to compute")
    evaluation = _evaluated(truth, found)
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # (10 IoUs, 101 recalls, classes)
    recall = evaluation.eval["recall"][:, :, 0, -1]  # (10 IoUs, classes)
    present = [k for k in range(len(classes)) if (precision[:, :, k] > -1).all()]
    ap = {k: precision[:, :, k].mean(axis=1) for k in present}  # class -> (10,)
    mean = np.mean([ap[k] for k in present], axis=0)
    return Metrics(
        map=float(mean.mean()),
        map50=float(mean[0]),
        map75=float(mean[5]),
        recall=float(recall[:, present].mean()),
        per_class={classes[k]: (float(ap[k].mean()), float(ap[k][0])) for k in present},
    )


def coco_dicts(
    samples: Sequence[Annotated], detections: Sequence[Detections], classes: Sequence[str]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The ground truth and the results in COCO's JSON form; image and category ids count from 1."""
    if len(detections) != len(samples):
        raise TrainError(f"{len(detections)} detections for {len(samples)} samples; one per sample is needed")
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image, (sample, found) in enumerate(zip(samples, detections), start=1):
        for box, label, crowd in zip(sample.boxes_xyxy.tolist(), sample.labels.tolist(), sample.crowd.tolist()):
            xywh, number = _xywh(box), len(annotations) + 1
            place = {"id": number, "image_id": image, "category_id": label + 1}
            annotations.append({**place, "bbox": xywh, "area": xywh[2] * xywh[3], "iscrowd": int(crowd)})
        for box, score, label in zip(found.boxes_xyxy.tolist(), found.scores.tolist(), found.labels.tolist()):
            results.append({"image_id": image, "category_id": int(label) + 1, "bbox": _xywh(box), "score": score})
    images = [{"id": i, "width": s.width, "height": s.height} for i, s in enumerate(samples, start=1)]
    categories = [{"id": i, "name": name} for i, name in enumerate(classes, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories, "info": {}, "licenses": []}, results


def _evaluated(truth: dict[str, Any], results: list[dict[str, Any]]) -> COCOeval_faster:
    # Built whole, since COCO.loadRes refuses an empty list and takes twice as long as the evaluation.
    found = [{**r, "id": i, "area": r["bbox"][2] * r["bbox"][3], "iscrowd": 0} for i, r in enumerate(results, start=1)]
    evaluation = COCOeval_faster(COCO(truth), COCO({**truth, "annotations": found}), iouType="bbox")
    evaluation.params.maxDets = [1, 10, MAX_DETECTIONS]
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation


def _xywh(box: Sequence[float]) -> list[float]:
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]
