"""The loader: what an epoch holds depends on its settings alone, and validation maps back to the image."""

import threading
from dataclasses import replace

import cv2
import numpy as np
import pytest

from nas.data import AugmentSettings, DataError, Loader, Sample, read_image, val_batches
from nas.data.batches import repeat_factors


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    made = []
    for i, (width, height) in enumerate([(60, 40), (40, 60), (32, 32), (100, 30), (50, 50)]):
        file = folder / f"{i}.png"
        pixels = np.full((height, width, 3), 20 * i, np.uint8)
        pixels[5:25, 4:20] = 255
        cv2.imwrite(str(file), pixels)
        boxes = np.array([[4, 5, 20, 25], [0, 0, 30, 30]], np.float32)
        made.append(Sample(file, width, height, boxes, np.array([i, 9]), np.array([False, True])))
    return tuple(made)


def same(first, second):
    return len(first) == len(second) and all(
        np.array_equal(getattr(a, name), getattr(b, name)) for a, b in zip(first, second) for name in vars(a)
    )


@pytest.mark.parametrize("settings", [None, AugmentSettings(rotate_deg=10)], ids=["plain", "augmented"])
def test_an_epoch_is_a_function_of_seed_and_number(samples, settings):
    def loader(seed=1, **options):
        return Loader(samples, 32, 2, settings, seed, **options)

    first = loader()
    epochs = [list(first.epoch(e)) for e in range(3)]
    assert len(epochs[0]) == len(first) == 3
    resumed = loader(cache=False)
    assert same(list(resumed.epoch(2, prefetch=False)), epochs[2])
    assert same(list(loader(limit_bytes=5000).epoch(1)), epochs[1])
    assert not same(epochs[0], epochs[1])
    assert not same(list(loader(seed=2).epoch(0)), epochs[0])


def test_an_epoch_shows_every_image_and_no_crowd_region(samples):
    batches = list(Loader(samples, 32, 4, None, 0).epoch(0))
    assert [len(b.images) for b in batches] == [4, 4]
    labels = np.concatenate([b.labels for b in batches])
    assert set(labels.tolist()) == {0, 1, 2, 3, 4}
    for b in batches:
        assert b.images.shape == (4, 3, 32, 32) and b.images.flags.c_contiguous and b.images.dtype == np.uint8
        assert b.image_index.tolist() == sorted(b.image_index.tolist())
        for box, index in zip(b.boxes, b.image_index):
            x, y = ((box[:2] + box[2:]) / 2).astype(int)
            assert (b.images[index, :, y, x] == 255).all()


def test_a_loader_can_change_its_augmentation_for_an_epoch(samples):
    loader = Loader(samples, 32, 5, AugmentSettings(), 0)
    calm = AugmentSettings(mosaic=0, scale=0, translate=0, flip_horizontal=0, hue=0, saturation=0, value=0)
    (batch,) = loader.epoch(0, calm)
    (plain,) = Loader(samples, 32, 5, None, 0).epoch(0)
    np.testing.assert_allclose(batch.boxes, plain.boxes, atol=0.51)          # centring by whole and by half pixels


def test_leaving_an_epoch_early_ends_its_thread(samples):
    epoch = Loader(samples, 32, 1, None, 0).epoch(0)
    next(iter(epoch))
    epoch.close()
    assert not [t for t in threading.enumerate() if t.name == "edgenas-batches"]


def test_an_image_that_vanishes_raises_where_the_batches_are_used(samples, tmp_path):
    gone = Sample(tmp_path / "gone.png", 10, 10, samples[0].boxes_xyxy, samples[0].labels, samples[0].crowd)
    with pytest.raises(DataError, match=r"gone\.png: no such image"):
        list(Loader([gone], 32, 1).epoch(0))


def test_validation_batches_map_back_to_the_image_and_can_be_iterated_twice(samples):
    batches = val_batches(samples, 64, 2)
    first, second = list(batches), list(batches)
    assert [len(b.images) for b in first] == [2, 2, 1] == [len(b.samples) for b in first] and len(batches) == 3
    assert all(np.array_equal(a.images, b.images) for a, b in zip(first, second))
    for batch in first:
        for image, sample, box in zip(batch.images, batch.samples, batch.letterboxes):
            ys, xs = np.nonzero((image > 250).all(axis=0))
            found = np.array([[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]], np.float32)
            back = box.invert(found)[0]
            np.testing.assert_allclose(back, sample.boxes_xyxy[0], atol=1.2 * max(read_image(sample).shape) / 64)


def test_planes_hold_what_a_transpose_would(samples):
    from nas.data.batches import _to_planes

    image = np.random.default_rng(0).integers(0, 256, (7, 5, 3), np.uint8)
    stack = np.zeros((2, 3, 7, 5), np.uint8)
    _to_planes(image, stack[1])
    np.testing.assert_array_equal(stack[1], image.transpose(2, 0, 1))
    assert not stack[0].any()


def test_images_of_rare_classes_are_shown_as_often_as_their_factor_says_and_an_epoch_is_as_long_as_without(samples):
    common, rare = samples[0], replace(samples[1], labels=np.array([1, 9]))
    many = (*[common] * 9, rare)
    np.testing.assert_allclose(repeat_factors(many, 0.4), [*[1.0] * 9, 2.0])  # the square root of .4 / .1
    assert (repeat_factors(many, 0.1) == 1).all()

    def shown(loader):
        return np.concatenate([np.concatenate([b.labels for b in loader.epoch(e, prefetch=False)]) for e in range(60)])

    plain, repeated = (Loader(many, 32, 5, None, 3, repeat_rare=threshold) for threshold in (0.0, 0.4))
    assert len(plain) == len(repeated) and len(shown(plain)) == len(shown(repeated)) == 600
    assert (shown(plain) == 1).sum() == 60 and 90 <= (shown(repeated) == 1).sum() <= 120  # 2 of 11 in place of 1 of 10
    assert same(list(repeated.epoch(4)), list(Loader(many, 32, 5, None, 3, repeat_rare=0.4).epoch(4)))
