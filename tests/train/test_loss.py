"""CIoU and DFL against values worked out by hand, and a loss that stays finite where there is nothing to find."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.train import Targets, TrainError, assigned, detection_loss, distillation_loss
from nas.train.boxes import boxes_to_distances, ciou, decode, distances_to_boxes, expected_distances, iou
from nas.train.loss import distribution_focal_loss

BINS, CLASSES = 16, 3


def raw_maps(seed: int = 0, images: int = 2, size: int = 64, scale: float = 1.0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(images, 4 * BINS + CLASSES, size // s, size // s, generator=g).mul(scale).requires_grad_() for s in (8, 16, 32)]


def targets_of(*rows):
    """Rows (image, label, x1, y1, x2, y2)."""
    rows = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    return Targets(rows[:, 2:], rows[:, 1].long(), rows[:, 0].long())


@pytest.mark.parametrize(
    ("predicted", "true", "expected"),
    [
        ((0, 0, 4, 4), (0, 0, 4, 4), 1.0),
        ((0, 0, 2, 2), (2, 0, 4, 2), 0 - 4 / 20),  # side by side: distance 2, enclosing 4x2
        ((0, 0, 2, 2), (4, 4, 6, 6), 0 - 32 / 72),
        ((1, 1, 3, 3), (0, 0, 4, 4), 4 / 16),  # one inside the other, same centre and shape
    ],
)
def test_ciou_equals_values_by_hand(predicted, true, expected):
    assert ciou(torch.tensor(predicted).float(), torch.tensor(true).float()).item() == pytest.approx(expected, abs=1e-6)


def test_ciou_adds_the_aspect_term():
    wide, tall = torch.tensor([0.0, 1, 4, 3]), torch.tensor([1.0, 0, 3, 4])  # 4x2 and 2x4 around one centre
    v = 4 / math.pi**2 * (math.atan(2) - math.atan(0.5)) ** 2
    assert ciou(wide, tall).item() == pytest.approx(1 / 3 - v * v / (1 - 1 / 3 + v), abs=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-50, 50, width=32), min_size=8, max_size=8))
def test_ciou_is_at_most_iou_and_has_finite_gradients_even_for_empty_boxes(values):
    predicted = torch.tensor(values[:4]).requires_grad_()
    true = torch.tensor([min(values[4], values[6]), min(values[5], values[7]), max(values[4], values[6]), max(values[5], values[7])])
    value = ciou(predicted, true)
    value.backward()
    assert value.item() <= iou(predicted, true).item() + 1e-5 and torch.isfinite(predicted.grad).all()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 14.9), min_size=4, max_size=4))
def test_a_distribution_at_the_two_bins_decodes_to_the_distance(distances):
    distances = torch.tensor(distances)
    left = distances.floor().long()
    p = torch.full((4, BINS), 1e-9)
    p.scatter_(1, left[:, None], (1 - distances.frac())[:, None].clamp(min=1e-9))
    p.scatter_add_(1, left[:, None] + 1, distances.frac()[:, None])
    assert torch.allclose(expected_distances(p.log().reshape(-1)), distances, atol=1e-4)
    points, strides = torch.tensor([20.0, 30.0]), torch.tensor(8.0)
    box = distances_to_boxes(distances, points, strides)
    assert torch.allclose(boxes_to_distances(box, points, strides), distances, atol=1e-5)


def test_distribution_focal_loss_is_least_at_the_shared_bins():
    logits = torch.zeros(BINS).requires_grad_()
    optimizer = torch.optim.SGD([logits], lr=1.0)
    for _ in range(500):
        optimizer.zero_grad()
        distribution_focal_loss(logits[None], torch.tensor([3.25])).sum().backward()
        optimizer.step()
    p = logits.detach().softmax(0)
    assert p[3].item() == pytest.approx(0.75, abs=0.02) and p[4].item() == pytest.approx(0.25, abs=0.02)


def test_loss_of_a_batch_without_boxes_is_finite_and_lowers_all_scores():
    maps = raw_maps()
    loss = detection_loss(maps, targets_of(), CLASSES)
    loss.total.backward()
    assert loss.box == 0 and loss.dfl == 0 and torch.isfinite(loss.total)
    for m in maps:
        assert (m.grad[:, : 4 * BINS] == 0).all() and (m.grad[:, 4 * BINS :] > 0).all()


@pytest.mark.parametrize("scale", [1.0, 100.0])
@pytest.mark.parametrize("box", [(10, 10, 40, 30), (10, 10, 10.01, 10.01), (-5, -5, 70, 70), (63.9, 63.9, 64, 64)])
def test_loss_has_finite_gradients_for_tiny_huge_and_outlying_boxes_and_extreme_maps(box, scale):
    maps = raw_maps(scale=scale)
    loss = detection_loss(maps, targets_of((1, 2, *box)), CLASSES)
    loss.total.backward()
    assert torch.isfinite(loss.total) and all(torch.isfinite(m.grad).all() for m in maps)
    assert loss.box > 0


def test_loss_of_bf16_maps_is_float32_and_near_that_of_float32_maps():
    maps, targets = raw_maps(), targets_of((0, 1, 8, 8, 40, 40), (1, 0, 20, 10, 30, 60))
    exact = detection_loss(maps, targets, CLASSES).total
    rough = detection_loss([m.bfloat16() for m in maps], targets, CLASSES).total
    assert rough.dtype == torch.float32 and rough.item() == pytest.approx(exact.item(), rel=0.05)


def test_positives_that_are_held_give_the_same_loss_where_they_were_found_and_stay_elsewhere():
    maps, targets = raw_maps(), targets_of((0, 1, 8, 8, 40, 40), (1, 0, 20, 4, 60, 30))
    found = assigned(maps, targets, CLASSES)
    assert detection_loss(maps, targets, CLASSES, found=found).total == detection_loss(maps, targets, CLASSES).total
    others = raw_maps(seed=1)
    held, free = detection_loss(others, targets, CLASSES, found=found).total, detection_loss(others, targets, CLASSES).total
    assert held != free


def test_descending_the_loss_on_the_maps_finds_the_boxes():
    maps = [m.detach().requires_grad_() for m in raw_maps()]
    targets = targets_of((0, 1, 8, 8, 40, 40), (0, 2, 40, 40, 60, 62), (1, 0, 20, 10, 30, 60))
    optimizer = torch.optim.Adam(maps, lr=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        detection_loss(maps, targets, CLASSES).total.backward()
        optimizer.step()
    boxes, scores = decode([m.detach() for m in maps], CLASSES)
    for box, label, image in zip(targets.boxes_xyxy, targets.labels, targets.image_index):
        best = scores[image, :, label].argmax()
        assert scores[image, best, label] > 0.8 and iou(boxes[image, best], box) > 0.8


def test_distillation_is_zero_at_the_teacher_and_positive_elsewhere():
    maps = raw_maps()
    assert distillation_loss(maps, maps, CLASSES).item() == pytest.approx(0, abs=1e-4)
    assert distillation_loss(maps, raw_maps(seed=1), CLASSES).item() > 0.1


def test_a_model_with_the_wrong_number_of_channels_is_refused_by_name():
    with pytest.raises(TrainError, match=r"67 channels, which is not 4 \* bins \+ 4 classes"):
        detection_loss(raw_maps(), targets_of(), 4)
