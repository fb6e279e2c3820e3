"""Probe: what a proxy may look at besides the model: a few images with boxes, seeds, and a detection loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from proxies.errors import ProxyError
from proxies.images import digits_on_photographs, structured_noise
from proxies.loss import detection_loss
from searchspaces import Graph
from searchspaces.module import GraphModule

IMAGES = 16  # a batch: enough for the codes of nwot to tell networks apart, small enough for half a second
STRIDE = 32  # coarsest stride of the detectors; image sides are multiples of it


@dataclass(frozen=True)
class Probe:
    """images (N, 3, H, W) float32 RGB in [0, 1]; boxes_xyxy and labels hold one array an image, (n, 4) as fractions of the
    side and (n,) class numbers below `classes`.  `score` fills in the graph being scored and the seed.
    """

    images: Tensor
    boxes_xyxy: tuple[Tensor, ...]
    labels: tuple[Tensor, ...]
    classes: int
    seed: int = 0
    scored: Graph | None = None

    @property
    def side(self) -> int:
        return int(self.images.shape[-1])

    @property
    def graph(self) -> Graph:
        """The graph being scored, in training form with its bit-widths."""
        if self.scored is None:
            raise ProxyError("this probe knows no graph: call the proxy through proxies.score(proxy, graph, probe)")
        return self.scored

    @cached_property
    def rng(self) -> np.random.Generator:
        """Fresh for every score of every seed."""
        return np.random.default_rng(self.seed)

    def at(self, side: int) -> Probe:
        """The same images resized to side x side."""
        if side == self.side:
            return self
        return replace(self, images=_resized(self.images, side))

    def shrunk(self, side: int) -> Probe:
        """At side x side where that is smaller.  A side that no stride divides may hold concats which only fit at that side: it stays."""
        return self.at(side) if self.side > side and self.side % STRIDE == 0 else self

    def first(self, n: int) -> Probe:
        """The first n images."""
        return replace(self, images=self.images[:n], boxes_xyxy=self.boxes_xyxy[:n], labels=self.labels[:n])

    def after(self, n: int) -> Probe:
        """All but the first n images."""
        return replace(self, images=self.images[n:], boxes_xyxy=self.boxes_xyxy[n:], labels=self.labels[n:])

    def loss(self, model: nn.Module) -> Tensor:
        """The loss that detectors are trained with on this batch, a scalar to differentiate; see proxies.loss.  `model` returns raw
        maps, as to_torch's nets do.
        """
        if not isinstance(model, GraphModule) or not model.maps:
            raise ProxyError("probe.loss needs a detector: a graph that ends in dfl_decode")
        decode = model.graph[model.graph.outputs[0]]
        boxes = [boxes * self.side for boxes in self.boxes_xyxy]
        return detection_loss(model(self.images), decode["strides"], decode["bins"], boxes, self.labels)


def probe(samples: Sequence[np.ndarray] | None = None, resolution: int = 320, *, classes: int = 20, images: int = IMAGES,
          boxes_xyxy: Sequence[np.ndarray] | None = None, labels: Sequence[np.ndarray] | None = None, seed: int = 0) -> Probe:
    """A Probe of real images with their boxes; where `samples` is None, of digits on photographs (see proxies.images).

    samples: (H, W, 3) uint8 RGB arrays of any size, stretched to resolution x resolution; the first `images` are taken.
    boxes_xyxy: per sample (n, 4) as fractions of its sides; without boxes, seeded random ones stand in for them (they matter
    to the loss alone).
    """
    n = images if samples is None else min(images, len(samples))
    _check(resolution, n)
    rng = np.random.default_rng(seed)
    if samples is None:
        pixels, boxes, shown = digits_on_photographs(rng, n, resolution)
        return Probe(pixels, tuple(boxes), tuple(digits % classes for digits in shown), classes)
    pixels = torch.cat([_pixels(sample, i, resolution) for i, sample in enumerate(samples[:n])])
    if boxes_xyxy is None:
        boxes_xyxy, labels = _random_boxes(rng, n, classes)
    if labels is None or len(boxes_xyxy) < n or len(labels) < n:
        raise ProxyError(f"{n} probe images need boxes and labels for each: {len(boxes_xyxy)} and {len(labels or ())} given")
    return Probe(pixels, tuple(torch.as_tensor(np.asarray(b), dtype=torch.float32).reshape(-1, 4) for b in boxes_xyxy[:n]),
                 tuple(torch.as_tensor(np.asarray(x), dtype=torch.int64).reshape(-1) for x in labels[:n]), classes)


def noise_probe(resolution: int = 320, *, classes: int = 20, images: int = IMAGES, seed: int = 0) -> Probe:
    """A Probe of seeded structured noise with random boxes, for scores that must not hang on any data set."""
    _check(resolution, images)
    rng = np.random.default_rng(seed)
    pixels = structured_noise(rng, images, resolution)
    boxes, labels = _random_boxes(rng, images, classes)
    return Probe(pixels, tuple(torch.from_numpy(b).float() for b in boxes), tuple(map(torch.from_numpy, labels)), classes)


def _check(resolution: int, images: int) -> None:
    if resolution < 1 or resolution % STRIDE:
        raise ProxyError(f"probe resolution {resolution} is not a positive multiple of {STRIDE}")
    if images < 2:
        raise ProxyError(f"a probe needs at least 2 images; {images} given")


def _random_boxes(rng: np.random.Generator, n: int, classes: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Three boxes an image, (3, 4) as fractions, and their (3,) labels."""
    corners = rng.uniform(0.0, 0.7, (n, 3, 2))
    return list(np.concatenate([corners, corners + rng.uniform(0.1, 0.3, (n, 3, 2))], axis=2)), list(rng.integers(0, classes, (n, 3)))


def _pixels(sample: np.ndarray, index: int, side: int) -> Tensor:
    if sample.ndim != 3 or sample.shape[2] != 3 or sample.dtype != np.uint8:
        raise ProxyError(f"probe sample {index} is {sample.dtype} of shape {sample.shape}; (H, W, 3) uint8 RGB is needed")
    image = torch.from_numpy(np.ascontiguousarray(sample)).permute(2, 0, 1)[None].float() / 255
    return _resized(image, side)


def _resized(images: Tensor, side: int) -> Tensor:
    return F.interpolate(images, size=(side, side), mode="bilinear", antialias=True, align_corners=False).clamp_(0, 1)
