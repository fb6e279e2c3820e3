"""Average precision against pycocotools, crowd boxes included."""

import io
from contextlib import redirect_stdout
from dataclasses import dataclass

import numpy as np
import pytest

from nas.train import Detections, TrainError, coco_map
from nas.train.metrics import coco_dicts

CLASSES = ("cell", "platelet", "dust", "never seen")


@dataclass
class Annotation:
    width: int
    height: int
    boxes_xyxy: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray


def random_boxes(rng, count):
    corner = rng.uniform(0, 100, (count, 2))
    return np.concatenate((corner, corner + rng.uniform(3, 90, (count, 2))), axis=1).astype(np.float32)


def random_case(seed, crowd=0.2, images=15):
    """Samples, and detections near most of their boxes with some false ones."""
    rng = np.random.default_rng(seed)
    samples, found = [], []
    for _ in range(images):
        boxes, extra = random_boxes(rng, rng.integers(0, 9)), random_boxes(rng, rng.integers(0, 4))
        labels = rng.integers(0, 3, len(boxes))
        samples.append(Annotation(200, 200, boxes, labels, rng.random(len(boxes)) < crowd))
        near = boxes + rng.normal(0, 4, boxes.shape).astype(np.float32)
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        scores = rng.random(len(boxes) + len(extra)).astype(np.float32)
        found.append(Detections(np.concatenate((near, extra)), scores, np.concatenate((labels, rng.integers(0, 3, len(extra))))))
    return samples, found


@pytest.mark.parametrize("seed", range(5))
def test_coco_map_equals_pycocotools(seed):
    pycocotools = pytest.importorskip("pycocotools.cocoeval")
    from pycocotools.coco import COCO

    samples, found = random_case(seed)
    metrics = coco_map(samples, found, CLASSES)
    truth, results = coco_dicts(samples, found, CLASSES)
    with redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        oracle = pycocotools.COCOeval(coco, coco.loadRes(results), "bbox")
        oracle.evaluate()
        oracle.accumulate()
        oracle.summarize()
    assert (metrics.map, metrics.map50, metrics.map75, metrics.recall) == pytest.approx(oracle.stats[[0, 1, 2, 8]], abs=1e-9)
    precision = oracle.eval["precision"][:, :, :, 0, -1]
    for k, name in enumerate(CLASSES[:3]):
        assert metrics.per_class[name] == pytest.approx((precision[:, :, k].mean(), precision[0, :, k].mean()), abs=1e-9)


def test_a_class_without_boxes_has_no_average_precision():
    samples, found = random_case(0)
    assert set(coco_map(samples, found, CLASSES).per_class) == set(CLASSES[:3])


def test_perfect_detections_score_one_and_none_score_zero():
    samples, _ = random_case(1, crowd=0.0)
    perfect = [Detections(s.boxes_xyxy, np.ones(len(s.labels)), s.labels) for s in samples]
    nothing = [Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int)) for _ in samples]
    assert coco_map(samples, perfect, CLASSES).map == pytest.approx(1.0)
    assert coco_map(samples, nothing, CLASSES).map == 0.0


def test_a_detection_in_a_crowd_region_is_not_false():
    one = Annotation(100, 100, np.array([[10, 10, 30, 30], [50, 50, 90, 90]], np.float32), np.array([0, 0]), np.array([False, True]))
    inside = Detections(np.array([[60, 60, 70, 70], [10, 10, 30, 30]], np.float32), np.array([0.9, 0.5]), np.array([0, 0]))
    assert coco_map([one], [inside], CLASSES).map == pytest.approx(1.0)


def test_samples_without_a_box_and_a_wrong_count_are_refused():
    empty = Annotation(10, 10, np.zeros((0, 4), np.float32), np.zeros(0, int), np.zeros(0, bool))
    nothing = Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))
    with pytest.raises(TrainError, match="the 1 samples have no boxes"):
        coco_map([empty], [nothing], CLASSES)
    with pytest.raises(TrainError, match="2 detections for 1 samples"):
        coco_map([empty], [nothing, nothing], CLASSES)
