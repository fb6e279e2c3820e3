"""probe.loss: the loss that detectors are trained with, on real images with real boxes."""

import numpy as np
import pytest
import torch

from nas.train.assign import Targets
from nas.train.loss import LossSettings
from nas.train.loss import detection_loss as training_loss
from proxies import ProxyError, noise_probe
from proxies import probe as make_probe
from proxies.images import HEIGHTS
from proxies.loss import CLASS_GAIN, detection_loss
from searchspaces.module import to_torch

CLASSES, BINS, STRIDES, SIDE = 4, 16, (8, 16, 32), 128


def boxes(rng, n):
    corners = rng.uniform(0, 0.8, (n, 2))
    return torch.tensor(np.concatenate([corners, corners + rng.uniform(0.01, 0.5, (n, 2))], 1) * SIDE, dtype=torch.float32)


@pytest.mark.parametrize("seed", range(4))
def test_the_loss_and_its_gradient_are_those_of_training(seed):
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    maps = [torch.randn(3, 4 * BINS + CLASSES, SIDE // s, SIDE // s).requires_grad_() for s in STRIDES]
    counts = (3, 0, 9) if seed else (0, 0, 0)
    found = [boxes(rng, n) for n in counts]
    labels = [torch.from_numpy(rng.integers(0, CLASSES, n)) for n in counts]
    index = torch.repeat_interleave(torch.arange(3), torch.tensor(counts))
    theirs = training_loss(maps, Targets(torch.cat(found), torch.cat(labels), index), CLASSES, LossSettings(class_gain=CLASS_GAIN)).total
    expected = torch.autograd.grad(theirs, maps)
    ours = detection_loss(maps, STRIDES, BINS, found, labels)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    for a, b in zip(torch.autograd.grad(ours, maps), expected):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-7)


def test_a_label_that_the_network_lacks_is_an_error(tiny):
    with pytest.raises(ProxyError, match="holds label 9; the network has 3 classes"):
        make_probe(None, 64, images=16).loss(to_torch(tiny("fp32")))


def test_the_probe_without_a_data_set_shows_digits_where_its_boxes_say():
    seen, empty = make_probe(None, 320, classes=10, seed=1), 0
    assert 16 <= sum(map(len, seen.labels)) <= 16 * 5
    assert {int(x) for digits in seen.labels for x in digits} <= set(range(10))
    for image, found in zip(seen.images, seen.boxes_xyxy):
        heights = found[:, 3] - found[:, 1]
        assert bool(((found >= 0) & (found <= 1)).all())
        assert bool(((heights >= HEIGHTS[0] - 1e-6) & (heights <= HEIGHTS[1] + 1e-6)).all())
        empty += not len(found)
        for x1, y1, x2, y2 in (found * 320).round().int().tolist():
            assert float(image[:, y1:y2, x1:x2].std()) > 0.02
    assert empty == 0


def test_the_probe_without_a_data_set_shows_one_scene_at_every_side():
    small, large = make_probe(None, 96, images=4), make_probe(None, 192, images=4)
    assert all(torch.equal(a, b) for a, b in zip(small.boxes_xyxy, large.boxes_xyxy))
    assert float((large.at(96).images - small.images).abs().mean()) < 0.02


def test_noise_is_there_on_request():
    assert torch.equal(noise_probe(64, images=3).images, noise_probe(64, images=3).images)
    assert not torch.equal(noise_probe(64, images=3).images, noise_probe(64, images=3, seed=1).images)
