"""Batches of images and boxes: augmented for training, letterboxed for validation.

What an epoch holds depends on (samples, size, batch, settings, seed, epoch) alone, so a training resumes exactly at any epoch.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from nas.data.augment import AugmentSettings, Example, Letterbox, augment, fit_inside, pad_to_square
from nas.data.core import Sample, read_image

_PREFETCHED = 3                       # batches that wait, so that a slow batch does not stop the training


@dataclass(frozen=True, eq=False)
class Batch:
    """N training images and their K boxes; `image_index` says which image of the batch a box belongs to."""

    images: np.ndarray                # (N, 3, size, size) uint8 RGB, contiguous
    boxes: np.ndarray                 # (K, 4) float32 xyxy, pixels of the square
    labels: np.ndarray                # (K,) int64
    image_index: np.ndarray           # (K,) int64, 0..N-1, ascending


@dataclass(frozen=True, eq=False)
class ValBatch:
    """N letterboxed images with their samples; `letterboxes[i].invert` maps predictions back to pixels of image i."""

    images: np.ndarray                # (N, 3, size, size) uint8 RGB, contiguous
    samples: tuple[Sample, ...]
    letterboxes: tuple[Letterbox, ...]


class ImageCache:
    """Images resized to fit size x size, kept in memory up to a limit; beyond it they are read again each time."""

    def __init__(self, size: int, limit_bytes: int) -> None:
        self.size = size
        self._left = limit_bytes
        self._images: dict[str, np.ndarray] = {}

    def get(self, sample: Sample) -> np.ndarray:
        """The resized image, uint8 RGB (h, w, 3) with max(h, w) == size; not to be written to."""
        key = str(sample.image)
        image = self._images.get(key)
        if image is None:
            image = fit_inside(read_image(sample), self.size)
            if image.nbytes <= self._left:
                self._left -= image.nbytes
                self._images[key] = image
        return image


class Loader:
    """Training batches of one size. Each epoch visits every sample once; the last batch is filled up from the epoch's first samples.

    With `repeat_rare`, images of a class that is in a share f < repeat_rare of them are shown sqrt(repeat_rare / f) times as often, the
    largest such factor of an image's classes counts (repeat-factor sampling; Gupta et al. 2019, LVIS, arXiv:1908.03195), and an epoch, as
    long as without, leaves out others in turn.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        size: int,
        batch: int,
        settings: AugmentSettings | None = None,
        seed: int = 0,
        cache: bool = True,
        limit_bytes: int = 2 << 30,
        repeat_rare: float = 0.0,
    ) -> None:
        if not samples:
            raise ValueError("a Loader needs at least one sample")
        self.samples, self.size, self.batch, self.settings, self.seed = tuple(samples), size, batch, settings, seed
        self._cache = ImageCache(size, limit_bytes if cache else 0)
        self._factors = repeat_factors(samples, repeat_rare) if repeat_rare else None

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-len(self.samples) // self.batch)

    def epoch(self, epoch: int, settings: AugmentSettings | None = None, prefetch: bool = True) -> Iterator[Batch]:
        """The batches of an epoch, prepared by one background thread unless `prefetch` is false. `settings` replaces the loader's."""
        used = settings if settings is not None else self.settings
        order = np.resize(self._order(np.random.default_rng([self.seed, epoch])), len(self) * self.batch)

        def make(number: int) -> Batch:
            places = range(number * self.batch, (number + 1) * self.batch)
            return _collate([self._example(int(order[p]), np.random.default_rng([self.seed, epoch, p]), used) for p in places], self.size)

        return _prefetched(make, len(self)) if prefetch else map(make, range(len(self)))

    def _order(self, rng: np.random.Generator) -> np.ndarray:
        """Sample numbers in the order of an epoch; a factor of 1.3 is once, and twice in three epochs of ten."""
        if self._factors is None:
            return rng.permutation(len(self.samples))
        times = np.floor(self._factors + rng.random(len(self.samples))).astype(np.int64)
        return rng.permutation(np.repeat(np.arange(len(self.samples)), times))

    def _example(self, index: int, rng: np.random.Generator, settings: AugmentSettings | None) -> Example:
        if settings is None:
            image, boxes, labels = self._fitted(index)
            box = Letterbox.fit(image.shape[1], image.shape[0], self.size)
            return pad_to_square(image, box), box.apply(boxes), labels
        chosen = [index]
        if rng.random() < settings.mosaic:
            chosen += self._partners(rng)
        return augment([self._fitted(i) for i in chosen], self.size, rng, settings)

    def _partners(self, rng: np.random.Generator) -> list[int]:
        """The other three images of a mosaic."""
        if self._factors is None:
            return rng.integers(0, len(self.samples), 3).tolist()
        return rng.choice(len(self.samples), 3, p=self._factors / self._factors.sum()).tolist()

    def _fitted(self, index: int) -> Example:
        """A resized image with its boxes, crowd regions left out."""
        sample = self.samples[index]
        image = self._cache.get(sample)
        scale = np.array([image.shape[1] / sample.width, image.shape[0] / sample.height] * 2, np.float32)
        return image, sample.boxes_xyxy[~sample.crowd] * scale, sample.labels[~sample.crowd]


def repeat_factors(samples: Sequence[Sample], threshold: float) -> np.ndarray:
    """How often each image is to be shown, (N,) float64 of at least 1: the largest sqrt(threshold / f) of its classes, f being the share of
    the images that a class is in."""
    held = [np.unique(sample.labels[~sample.crowd]) for sample in samples]
    images = np.bincount(np.concatenate(held))
    by_class = np.sqrt(np.maximum(1.0, threshold * len(samples) / np.maximum(images, 1)))
    return np.array([by_class[labels].max(initial=1.0) for labels in held])


class ValBatches:
    """Letterboxed images in order, to be iterated as often as wanted; resized images stay in memory up to the limit."""

    def __init__(self, samples: Sequence[Sample], size: int, batch: int, limit_bytes: int = 1 << 30) -> None:
        self.samples, self.size, self.batch = tuple(samples), size, batch
        self._cache = ImageCache(size, limit_bytes)

    def __len__(self) -> int:
        return -(-len(self.samples) // self.batch)

    def __iter__(self) -> Iterator[ValBatch]:
        return map(self._make, range(len(self)))

    def _make(self, number: int) -> ValBatch:
        samples = self.samples[number * self.batch : (number + 1) * self.batch]
        boxes = tuple(Letterbox.fit(sample.width, sample.height, self.size) for sample in samples)
        images = np.empty((len(samples), 3, self.size, self.size), np.uint8)
        for planes, sample, box in zip(images, samples, boxes):
            _to_planes(pad_to_square(self._cache.get(sample), box), planes)
        return ValBatch(images, samples, boxes)


def val_batches(samples: Sequence[Sample], size: int, batch: int) -> ValBatches:
    """Batches of letterboxed images in the order of `samples`, the last one shorter where they do not divide evenly."""
    return ValBatches(samples, size, batch)


def _collate(examples: list[Example], size: int) -> Batch:
    images = np.empty((len(examples), 3, size, size), np.uint8)
    for planes, (image, _, _) in zip(images, examples):
        _to_planes(image, planes)
    counts = [len(labels) for _, _, labels in examples]
    return Batch(
        images=images,
        boxes=np.concatenate([boxes for _, boxes, _ in examples]),
        labels=np.concatenate([labels for _, _, labels in examples]),
        image_index=np.repeat(np.arange(len(examples)), counts),
    )


def _to_planes(image: np.ndarray, planes: np.ndarray) -> None:
    """(H, W, 3) into (3, H, W); three times as fast as a transposing copy."""
    for channel in range(3):
        cv2.extractChannel(image, channel, planes[channel])


def _prefetched(make: Callable[[int], Batch], count: int) -> Iterator[Batch]:
    """make(0), make(1), ... in order, computed ahead in one thread, which ends when the consumer stops early."""
    ready: queue.Queue[Batch | BaseException] = queue.Queue(_PREFETCHED)
    stop = threading.Event()

    def put(item: Batch | BaseException) -> None:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def work() -> None:
        try:
            for number in range(count):
                if stop.is_set():
                    return
                put(make(number))
        except BaseException as error:                        # handed over, and raised where the batches are used
            put(error)

    worker = threading.Thread(target=work, name="edgenas-batches", daemon=True)
    worker.start()
    try:
        for _ in range(count):
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        worker.join()
