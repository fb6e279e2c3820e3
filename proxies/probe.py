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

    def first(self, n: int) -> Probe:
        """The first n images."""
        return replace(self, images=self.images[:n], boxes_xyxy=self.boxes_xyxy[:n], labels=self.labels[:n])

    def loss(self, model: nn.Module) -> Tensor:
        """A detection loss, a scalar to differentiate: class cross-entropy over all cells plus the distribution focal loss of
        the box sides in the cell that holds a box's centre, at each level.  `model` returns raw maps, as to_torch's nets do.
        """
        if not isinstance(model, GraphModule) or not model.maps:
            raise ProxyError("probe.loss needs a detector: a graph that ends in dfl_decode")
        decode = model.graph[model.graph.outputs[0]]
        levels = zip(decode["strides"], model(self.images))
        return torch.stack([_level_loss(maps, stride, decode["bins"], self) for stride, maps in levels]).sum()


def probe(samples: Sequence[np.ndarray] | None = None, resolution: int = 320, *, classes: int = 20, images: int = IMAGES,
          boxes_xyxy: Sequence[np.ndarray] | None = None, labels: Sequence[np.ndarray] | None = None, seed: int = 0) -> Probe:
    """A Probe of real images, or of seeded structured noise where `samples` is None.

    samples: (H, W, 3) uint8 RGB arrays of any size, stretched to resolution x resolution; the first `images` are taken.
    boxes_xyxy: per sample (n, 4) as fractions of its sides; without boxes, seeded random ones stand in for them (they matter
    to the loss alone).
    """
    if resolution < 1 or resolution % STRIDE:
        raise ProxyError(f"probe resolution {resolution} is not a positive multiple of {STRIDE}")
    rng = np.random.default_rng(seed)
    n = images if samples is None else min(images, len(samples))
    if n < 2:
        raise ProxyError(f"a probe needs at least 2 images; {n} given")
    if samples is None:
        pixels = _structured_noise(rng, n, resolution)
    else:
        pixels = torch.cat([_pixels(sample, i, resolution) for i, sample in enumerate(samples[:n])])
    if boxes_xyxy is None:
        corners = rng.uniform(0.0, 0.7, (n, 3, 2))
        boxes_xyxy = list(np.concatenate([corners, corners + rng.uniform(0.1, 0.3, (n, 3, 2))], axis=2))
        labels = list(rng.integers(0, classes, (n, 3)))
    if labels is None or len(boxes_xyxy) < n or len(labels) < n:
        raise ProxyError(f"{n} probe images need boxes and labels for each: {len(boxes_xyxy)} and {len(labels or ())} given")
    return Probe(pixels, tuple(torch.as_tensor(np.asarray(b), dtype=torch.float32).reshape(-1, 4) for b in boxes_xyxy[:n]),
                 tuple(torch.as_tensor(np.asarray(x), dtype=torch.int64).reshape(-1) for x in labels[:n]), classes)


def _pixels(sample: np.ndarray, index: int, side: int) -> Tensor:
    if sample.ndim != 3 or sample.shape[2] != 3 or sample.dtype != np.uint8:
        raise ProxyError(f"probe sample {index} is {sample.dtype} of shape {sample.shape}; (H, W, 3) uint8 RGB is needed")
    image = torch.from_numpy(np.ascontiguousarray(sample)).permute(2, 0, 1)[None].float() / 255
    return _resized(image, side)


def _resized(images: Tensor, side: int) -> Tensor:
    return F.interpolate(images, size=(side, side), mode="bilinear", antialias=True, align_corners=False).clamp_(0, 1)


def _structured_noise(rng: np.random.Generator, n: int, side: int) -> Tensor:
    """(n, 3, side, side) in [0, 1] with the 1/f amplitude of photographs: white noise alone looks alike to every convolution."""
    total = torch.zeros(n, 3, side, side)
    cells = 2
    while cells <= side:
        field = torch.from_numpy(rng.standard_normal((n, 3, cells, cells)).astype(np.float32))
        total += F.interpolate(field, size=(side, side), mode="bilinear", align_corners=False) / cells
        cells *= 2
    low, high = total.amin((1, 2, 3), keepdim=True), total.amax((1, 2, 3), keepdim=True)
    return (total - low) / (high - low)


def _level_loss(maps: Tensor, stride: int, bins: int, probe: Probe) -> Tensor:
    """maps: (N, 4 * bins + classes, H, W) raw, box channels first."""
    _, channels, height, width = maps.shape
    classes = channels - 4 * bins
    wanted = torch.zeros_like(maps[:, 4 * bins:])
    sides = maps.new_zeros(())
    for i, (boxes, labels) in enumerate(zip(probe.boxes_xyxy, probe.labels)):
        cells = boxes.clamp(0, 1) * torch.tensor([width, height, width, height])
        centre = (cells[:, :2] + cells[:, 2:]) / 2
        column, row = centre[:, 0].long().clamp(max=width - 1), centre[:, 1].long().clamp(max=height - 1)
        wanted[i, labels.clamp(max=classes - 1), row, column] = 1.0
        anchor = torch.stack((column, row), 1) + 0.5
        distance = torch.cat((anchor - cells[:, :2], cells[:, 2:] - anchor), 1).clamp(0, bins - 1.01)  # (n, 4): l, t, r, b
        logits = maps[i, : 4 * bins, row, column].T.reshape(-1, bins)
        left, part = distance.flatten().long(), distance.flatten().frac()
        sides = sides + (F.cross_entropy(logits, left, reduction="none") * (1 - part)
                         + F.cross_entropy(logits, left + 1, reduction="none") * part).sum()
    boxes_in_all = max(1, sum(len(labels) for labels in probe.labels))
    return (F.binary_cross_entropy_with_logits(maps[:, 4 * bins:], wanted, reduction="sum") + sides / 4) / boxes_in_all
