"""The embedded data set: hand-written digits of scikit-learn at random places, sizes and colours on its two sample photographs.

Digits: UCI optical recognition of handwritten digits (Alpaydin and Kaynak 1998), 1797 images of 8x8, as in sklearn.datasets.load_digits.
Validation uses other digits and another part of the photographs than training.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np

from nas.data.core import DataError

SIZE = 192                            # pixels, width and height of an image
COUNTS = {"train": 400, "val": 120}
_MAX_DIGITS = 6
_DIGIT_HEIGHT = (26, 88)              # pixels
_TRAIN_SHARE = 0.75                   # of the digits, and of the width of each photograph
_VERSION = "digits-1"                 # another number whenever the images change, so that old caches are not read
_STALE_S = 3600                       # a half-written folder of this age belongs to a process that was killed


def digits_folder() -> Path:
    """The YOLO folder with the set, generated at first use (about two seconds) below EDGENAS_CACHE or ~/.cache/edgenas.

    The folder appears under its name by one rename, so a process that is killed while writing leaves no half set.
    """
    cache = Path(os.environ.get("EDGENAS_CACHE") or Path.home() / ".cache" / "edgenas")
    final = cache / _VERSION
    if (final / "data.yaml").is_file():
        return final
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _remove_stale(cache)
        partial = Path(tempfile.mkdtemp(prefix=f"{_VERSION}.partial-", dir=cache))
        try:
            partial.chmod(0o755)                              # mkdtemp makes it private, but a cache may be shared
            write_digits(partial)
            _publish(partial, final)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise DataError(f"{cache}: cannot write the digits set: {error.strerror or error}; set EDGENAS_CACHE to another folder") from None
    return final


def write_digits(folder: Path, counts: dict[str, int] | None = None, seed: int = 0) -> None:
    """Write images/, labels/ and data.yaml. The same seed gives the same pixels before JPEG compression."""
    for part, (split, count) in enumerate((counts or COUNTS).items()):
        glyphs, labels = _glyphs(split)
        photographs = _photographs(split)
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for i in range(count):
            rng = np.random.default_rng([seed, part, i])
            image, boxes, classes = compose(rng, photographs, glyphs, labels)
            encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
            (folder / "images" / split / f"{i:04d}.jpg").write_bytes(encoded.tobytes())
            centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2 / SIZE, (boxes[:, 2:] - boxes[:, :2]) / SIZE
            lines = [f"{c} {x:.6f} {y:.6f} {w:.6f} {h:.6f}\n" for c, (x, y), (w, h) in zip(classes, centres, sides)]
            (folder / "labels" / split / f"{i:04d}.txt").write_text("".join(lines))
    names = ", ".join(f"'{digit}'" for digit in range(10))
    (folder / "data.yaml").write_text(f"train: images/train\nval: images/val\nnc: 10\nnames: [{names}]\n")


def compose(
    rng: np.random.Generator, photographs: list[np.ndarray], glyphs: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One picture: (image (SIZE, SIZE, 3) uint8 RGB, boxes (M, 4) pixels, labels (M,)). Digits do not overlap."""
    image = _background(rng, photographs).astype(np.float32)
    boxes: list[tuple[int, int, int, int]] = []
    classes: list[int] = []
    wanted = int(rng.integers(1, _MAX_DIGITS + 1))
    for _ in range(wanted * 12):
        if len(boxes) == wanted:
            break
        pick = int(rng.integers(len(glyphs)))
        alpha = _enlarged(glyphs[pick], _log_uniform(rng, *_DIGIT_HEIGHT), rng)
        height, width = alpha.shape
        x, y = int(rng.integers(0, SIZE - width + 1)), int(rng.integers(0, SIZE - height + 1))
        box = (x, y, x + width, y + height)
        if any(_overlap(box, other) for other in boxes):
            continue
        patch = image[y : y + height, x : x + width]
        ink = _ink(rng, patch)
        patch += alpha[:, :, None] * (ink - patch)
        boxes.append(box)
        classes.append(int(labels[pick]))
    image += rng.normal(0.0, 3.0, image.shape).astype(np.float32)
    pixels = np.clip(image, 0, 255).astype(np.uint8)
    return pixels, np.array(boxes, np.float32).reshape(-1, 4), np.array(classes, np.int64)


def _publish(partial: Path, final: Path) -> None:
    try:
        partial.rename(final)
    except OSError:
        if not (final / "data.yaml").is_file():               # another process was faster, which is as good
            raise


def _remove_stale(cache: Path) -> None:
    for folder in cache.glob(f"{_VERSION}.partial-*"):
        with contextlib.suppress(FileNotFoundError):          # another process may be removing it too
            if time.time() - folder.stat().st_mtime > _STALE_S:
                shutil.rmtree(folder, ignore_errors=True)


def _glyphs(split: str) -> tuple[np.ndarray, np.ndarray]:
    """(n, 8, 8) ink in 0..1 and (n,) digits; validation gets the last quarter, written by other people than the first."""
    # a second to import, and needed once per machine
    from sklearn.datasets import load_digits

    bunch = load_digits()
    cut = int(len(bunch.target) * _TRAIN_SHARE)
    part = slice(None, cut) if split == "train" else slice(cut, None)
    return (bunch.images[part] / 16.0).astype(np.float32), bunch.target[part]


def _photographs(split: str) -> list[np.ndarray]:
    """Part of each sample photograph of scikit-learn (china.jpg, flower.jpg, 640x427), uint8 RGB: the left for train, else the right."""
    found = []
    for name in ("china.jpg", "flower.jpg"):
        data = np.frombuffer(files("sklearn.datasets.images").joinpath(name).read_bytes(), np.uint8)
        decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
        assert decoded is not None, f"scikit-learn's {name} is damaged"
        image = cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)
        cut = int(image.shape[1] * _TRAIN_SHARE)
        found.append(image[:, :cut] if split == "train" else image[:, cut:])
    return found


def _background(rng: np.random.Generator, photographs: list[np.ndarray]) -> np.ndarray:
    """A square crop of a photograph, mirrored at random, of random brightness and contrast."""
    photograph = photographs[int(rng.integers(len(photographs)))]
    height, width = photograph.shape[:2]
    side = int(rng.integers(min(height, width) // 2, min(height, width) + 1))
    x, y = int(rng.integers(0, width - side + 1)), int(rng.integers(0, height - side + 1))
    crop = cv2.resize(photograph[y : y + side, x : x + side], (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    return np.clip((crop.astype(np.float32) - 128) * rng.uniform(0.5, 1.0) + 128 + rng.uniform(-30, 30), 0, 255).astype(np.uint8)


def _enlarged(glyph: np.ndarray, height: float, rng: np.random.Generator) -> np.ndarray:
    """The ink of a glyph as alpha in 0..1 (h, w), smoothly enlarged, a little slanted, cropped to the ink, so its size is its box."""
    rows = glyph.max(axis=1) > 0.3
    scale = height / max(1, rows.sum())
    padded = np.pad(glyph, 2)
    side = max(padded.shape[0], round(padded.shape[0] * scale))
    smooth = cv2.resize(padded, (side, side), interpolation=cv2.INTER_CUBIC)
    centre = (side - 1) / 2
    slant = rng.uniform(-0.15, 0.15)
    smooth = cv2.warpAffine(smooth, np.array([[1, slant, -slant * centre], [0, 1, 0]], np.float32), (side, side), flags=cv2.INTER_LINEAR)
    alpha = np.clip((smooth - 0.35) / 0.3, 0.0, 1.0)           # steep edge: strokes stay crisp at any size
    ys, xs = np.nonzero(alpha.max(axis=1) > 0.5)[0], np.nonzero(alpha.max(axis=0) > 0.5)[0]
    return alpha[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1]


def _ink(rng: np.random.Generator, patch: np.ndarray) -> np.ndarray:
    """A colour well lighter or darker than what lies under it."""
    light = patch.mean() < 128 if rng.random() < 0.9 else patch.mean() < 100
    hue = rng.uniform(0, 70, 3)
    return (255 - hue if light else hue).astype(np.float32)


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
