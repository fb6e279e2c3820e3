"""The vectorized assigner against the definition in plain loops, and what happens to tiny and missing objects."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.train import Targets, assign
from nas.train.boxes import grid

CELLS = grid(((8, 8), (4, 4), (2, 2)), (8, 16, 32), torch.device("cpu"))
CLASSES = 3


def random_case(seed: int, objects: int, images: int = 2):
    g = torch.Generator().manual_seed(seed)
    anchors = len(CELLS.points)
    side = CELLS.strides[:, None] * torch.rand(images, anchors, 4, generator=g) * 3
    boxes = torch.cat((CELLS.points - side[..., :2], CELLS.points + side[..., 2:]), dim=-1)
    logits = torch.randn(images, anchors, CLASSES, generator=g) * 3
    corner = torch.rand(objects, 2, generator=g) * 56
    true = torch.cat((corner, corner + 2 + torch.rand(objects, 2, generator=g) * 38), dim=-1)
    labels = torch.randint(0, CLASSES, (objects,), generator=g)
    image = torch.randint(0, images, (objects,), generator=g).sort().values
    return boxes, logits, Targets(true, labels, image)


def plain_iou(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    overlap = width * height
    return overlap / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap)


def plain_assign(boxes, logits, targets, topk):
    """{(image, anchor): (target, score)} by the definition in TOOD, one object and one point at a time, in double precision."""
    wanted = {}
    for k, (true, label, image) in enumerate(zip(targets.boxes_xyxy.tolist(), targets.labels.tolist(), targets.image_index.tolist())):
        ranked = []
        half_w, half_h = max(4.0, (true[2] - true[0]) / 2), max(4.0, (true[3] - true[1]) / 2)
        x, y = (true[0] + true[2]) / 2, (true[1] + true[3]) / 2
        for a, (px, py) in enumerate(CELLS.points.tolist()):
            if abs(px - x) <= half_w and abs(py - y) <= half_h:
                u = max(1e-6, plain_iou(boxes[image, a].tolist(), true))
                s = 1 / (1 + math.exp(-logits[image, a, label].item()))
                ranked.append((s**0.5 * u**6, u, a))
        for t, u, a in sorted(ranked, reverse=True)[:topk]:
            if (image, a) not in wanted or wanted[image, a][1] < u:
                wanted[image, a] = (k, u, t)
    answer = {}
    for point, (k, _, t) in wanted.items():
        mine = [(u, t) for j, u, t in wanted.values() if j == k]
        answer[point] = (k, t / max(t for _, t in mine) * max(u for u, _ in mine))
    return answer


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), objects=st.integers(0, 25), topk=st.sampled_from((1, 4, 10)))
def test_assign_equals_the_definition_in_plain_loops(seed, objects, topk):
    boxes, logits, targets = random_case(seed, objects)
    found = assign(boxes, logits, targets, CELLS, topk=topk)
    expected = plain_assign(boxes, logits, targets, topk)
    rows = zip(found.image.tolist(), found.anchor.tolist(), found.target.tolist(), found.score.tolist())
    answer = {(image, anchor): (target, score) for image, anchor, target, score in rows}
    assert {point: k for point, (k, _) in answer.items()} == {point: k for point, (k, _) in expected.items()}
    for point, (_, score) in expected.items():
        assert answer[point][1] == pytest.approx(score, rel=1e-3, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(x=st.floats(1, 63), y=st.floats(1, 63), side=st.floats(0.01, 3))
def test_assign_gives_a_tiny_object_a_point_with_a_positive_score_wherever_it_lies(x, y, side):
    boxes, logits, _ = random_case(0, 1)
    tiny = Targets(torch.tensor([[x - side / 2, y - side / 2, x + side / 2, y + side / 2]]), torch.tensor([1]), torch.tensor([0]))
    found = assign(boxes, logits, tiny, CELLS)
    assert len(found.anchor) >= 1
    assert torch.isfinite(found.score).all() and found.score.max() > 0


def test_assign_of_no_object_is_empty():
    boxes, logits, targets = random_case(3, 0)
    assert len(assign(boxes, logits, targets, CELLS).anchor) == 0


def test_assign_gives_one_of_two_identical_objects_every_point():
    boxes, logits, _ = random_case(1, 1)
    twice = Targets(torch.tensor([[8.0, 8, 40, 40]]).repeat(2, 1), torch.tensor([1, 1]), torch.tensor([0, 0]))
    found = assign(boxes, logits, twice, CELLS)
    assert found.target.tolist() == [0] * 10
