"""Geometry as properties: round trips, involutions, and boxes that stay where the pixels are."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.data.augment import (
    AugmentSettings,
    Letterbox,
    augment,
    flip_horizontal,
    flip_vertical,
    letterbox,
    mosaic,
    shift_hsv,
    transform_boxes,
)

SIDES = st.integers(1, 120)


@st.composite
def examples(draw, longest=64):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    height, width = draw(st.integers(4, longest)), draw(st.integers(4, longest))
    count = draw(st.integers(0, 6))
    corners = np.sort(rng.uniform(0, 1, (count, 2, 2)), axis=1) * (width, height)
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    return image, corners.reshape(-1, 4).astype(np.float32), rng.integers(0, 5, count)


@given(examples(), st.integers(8, 100))
def test_letterbox_inverts_to_the_same_boxes_within_a_hundredth_of_a_pixel(example, size):
    image, boxes, _ = example
    square, inside, box = letterbox(image, boxes, size)
    assert square.shape == (size, size, 3) and max(box.inner) == size
    assert inside.size == 0 or (inside.min() >= -1e-3 and inside.max() <= size + 1e-3)
    np.testing.assert_allclose(box.invert(inside), boxes, atol=0.01)


@given(SIDES, SIDES, st.integers(1, 200))
def test_letterbox_covers_one_side_and_centres_the_other(width, height, size):
    box = Letterbox.fit(width, height, size)
    corners = box.apply(np.array([[0, 0, width, height]], np.float32))[0]
    margins = np.array([corners[0], corners[1], size - corners[2], size - corners[3]])
    assert margins.min() == 0 and abs(margins[0] - margins[2]) <= 1 and abs(margins[1] - margins[3]) <= 1


@pytest.mark.parametrize("flip", [flip_horizontal, flip_vertical])
@given(example=examples())
def test_a_flip_is_an_involution_and_moves_pixels_with_boxes(flip, example):
    image, boxes, _ = example
    back, boxes_back = flip(*flip(image, boxes))
    np.testing.assert_array_equal(back, image)
    np.testing.assert_allclose(boxes_back, boxes, atol=1e-4)
    marked = np.zeros_like(image)
    marked[1:3, 2:4] = 255
    moved, (box,) = flip(marked, np.array([[2, 1, 4, 3]], np.float32))
    x1, y1, x2, y2 = box.astype(int)
    assert moved[y1:y2, x1:x2].min() == 255 and (moved > 0).sum() == (marked > 0).sum()


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(st.lists(examples(), min_size=1, max_size=1), st.lists(examples(), min_size=4, max_size=4)),
    st.integers(0, 2**32),
    st.floats(0, 3),
    st.floats(0, 1),
    st.floats(0, 180),
)
def test_after_any_augmentation_boxes_are_inside_and_not_tiny(items, seed, scale, translate, rotate_deg):
    chosen = AugmentSettings(scale=scale, translate=translate, rotate_deg=rotate_deg, flip_vertical=0.5)
    image, boxes, labels = augment(items, 64, np.random.default_rng(seed), chosen)
    assert image.shape == (64, 64, 3) and image.dtype == np.uint8
    assert len(boxes) == len(labels) and boxes.dtype == np.float32
    assert boxes.size == 0 or (boxes.min() >= 0 and boxes.max() <= 64)
    assert np.all(boxes[:, 2:] - boxes[:, :2] >= 2 - 1e-4)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32))
def test_boxes_follow_the_pixels_of_a_disc_through_mosaic_and_affine(seed):
    rng = np.random.default_rng(seed)
    ys, xs = np.mgrid[:64, :64] + 0.5
    items = []
    for quadrant in range(4):
        image = np.zeros((64, 64, 3), np.uint8)
        (cx, cy), radius = rng.uniform(20, 44, 2), rng.uniform(10, 18)
        if quadrant == 0:
            image[(xs - cx) ** 2 + (ys - cy) ** 2 < radius**2] = 255
        items.append((image, np.array([[cx - radius, cy - radius, cx + radius, cy + radius]], np.float32), np.array([quadrant])))
    plain = AugmentSettings(rotate_deg=180, hue=0, saturation=0, value=0, min_visible=0.0)
    image, boxes, labels = augment(items, 64, rng, plain)
    box = boxes[labels == 0][0] if 0 in labels else np.zeros(4)
    # a disc that the canvas or the window cuts keeps the box of its visible part only roughly, and is not compared
    if box.min() > 0.5 and box.max() < 63.5 and abs((box[2] - box[0]) - (box[3] - box[1])) < 0.01:
        ys, xs = np.nonzero((image > 150).all(axis=2))
        np.testing.assert_allclose(box, [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], atol=1.0)


def test_mosaic_puts_four_images_around_one_point_with_their_boxes():
    items = [(np.full((10, 10, 3), 10 * (i + 1), np.uint8), np.array([[0, 0, 10, 10]], np.float32), np.array([i])) for i in range(4)]
    canvas, boxes, labels = mosaic(items, 10, np.random.default_rng(3))
    for box, label in zip(boxes.clip(0, 20).astype(int), labels):
        x1, y1, x2, y2 = box
        assert (canvas[y1:y2, x1:x2] == 10 * (label + 1)).all()
    assert canvas.shape == (20, 20, 3)


def test_without_rotation_transformed_boxes_are_exact_and_at_90_degrees_sides_change_places():
    boxes = np.array([[10, 20, 30, 26]], np.float32)
    np.testing.assert_allclose(transform_boxes(boxes, np.array([[2.0, 0, 5], [0, 3.0, -1]])), [[25, 59, 65, 77]])
    np.testing.assert_allclose(transform_boxes(boxes, np.array([[0.0, -1, 0], [1.0, 0, 0]])), [[-26, 10, -20, 30]], atol=1e-5)


def test_hsv_with_zero_gains_changes_nothing_and_otherwise_keeps_black():
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    image[0] = 0
    rng = np.random.default_rng(1)
    assert shift_hsv(image, rng, AugmentSettings(hue=0, saturation=0, value=0)) is image
    changed = shift_hsv(image, rng, AugmentSettings())
    assert (changed[0] == 0).all() and (changed != image).any()


@pytest.mark.parametrize("bad", [{"mosaic": 1.5}, {"min_visible": -1}, {"hue": 2}, {"scale": -0.1}])
def test_settings_outside_their_range_raise(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        AugmentSettings(**bad)
