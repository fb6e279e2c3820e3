"""Run a compiled or exported detector on pictures and draw what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from nas.data import DataError, letterbox, read_image
from nas.deploy.verify import Found, detector
from nas.runtime import ArtifactError, Executor, nms

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
# Okabe & Ito (2008): colours that people with any colour vision tell apart, as RGB.
COLOURS = ((0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (213, 94, 0), (240, 228, 66))


def predict(model: Path, images: Path, save: Path | None, score: float, threads: int = 1, tuned: bool = False) -> Iterator[dict[str, Any]]:
    """One row a picture: its path, its objects (class, score, box_xyxy in pixels), and where it was drawn."""
    if not 0 <= score <= 1:
        raise DataError(f"--score {score}: a score is between 0 and 1")
    find, classes = opened(model, score, threads, tuned)
    paths = pictures(images)
    folder = images.is_dir()
    for path in paths:
        image = read_image(path)
        boxes, scores, labels = find(image)
        objects = [
            {"class": classes[k], "score": round(float(s), 4), "box_xyxy": [round(float(v), 1) for v in box]}
            for box, s, k in zip(boxes, scores, labels)
        ]
        row: dict[str, Any] = {"image": str(path), "objects": objects}
        if save is not None:
            row["saved"] = str(_write(save / f"{path.stem}.png" if folder else save, draw(image, boxes, scores, labels, classes)))
        yield row


def pictures(where: Path) -> list[Path]:
    """The picture itself, or every picture of a folder in order."""
    if not where.exists():
        raise DataError(f"{where}: no such file or folder")
    if where.is_file():
        return [where]
    found = sorted(path for path in where.iterdir() if path.suffix.lower() in SUFFIXES)
    if not found:
        raise DataError(f"{where} holds no picture; known endings: {', '.join(sorted(SUFFIXES))}")
    return found


def opened(model: Path, score: float, threads: int = 1, tuned: bool = False) -> tuple[Callable[[np.ndarray], Found], tuple[str, ...]]:
    """(image -> boxes in its pixels, scores, labels; class names) of an artifact or one of our ONNX exports.

    threads and tuned are for an artifact's Executor; onnxruntime has its own ways.
    """
    if model.suffix == ".onnx":
        return _onnx(model, score)
    executor = Executor.load(model, threads=threads, tuned=tuned)
    return detector(executor, score), executor.metadata.classes


def _onnx(model: Path, score: float) -> tuple[Callable[[np.ndarray], Found], tuple[str, ...]]:
    import onnxruntime as ort

    try:
        session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    except Exception as fault:  # onnxruntime has no error class of its own that is public
        raise ArtifactError(f"{model} cannot be loaded by onnxruntime: {str(fault).splitlines()[0]}") from None
    properties = session.get_modelmeta().custom_metadata_map
    outputs = {output.name for output in session.get_outputs()}
    if "classes" not in properties or not {"boxes", "scores"} <= outputs:
        raise ArtifactError(f"{model} is no export of edgenas: it has outputs {', '.join(sorted(outputs))}; boxes and scores are wanted")
    import json

    source = session.get_inputs()[0]
    size = int(source.shape[-1])

    def find(image: np.ndarray) -> Found:
        fitted, _, transform = letterbox(image, np.zeros((0, 4), np.float32), size)
        x = fitted.transpose(2, 0, 1)[None].astype(np.float32) / 255
        boxes, scores = session.run(["boxes", "scores"], {source.name: x})
        found, kept, labels = nms(boxes[0], scores[0], score)
        return transform.invert(found), kept, labels

    return find, tuple(json.loads(properties["classes"]))


def draw(image: np.ndarray, boxes: np.ndarray, scores: np.ndarray | None, labels: np.ndarray, classes: tuple[str, ...]) -> np.ndarray:
    """A copy of an RGB picture with boxes and names; lines grow with the picture."""
    canvas = image.copy()
    line = max(1, round(max(image.shape[:2]) / 320))
    scale = max(0.4, max(image.shape[:2]) / 1100)
    for i, (box, label) in enumerate(zip(np.asarray(boxes).round().astype(int), labels)):
        colour = COLOURS[int(label) % len(COLOURS)]
        x1, y1, x2, y2 = (int(v) for v in box)
        text = classes[int(label)] + ("" if scores is None else f" {scores[i]:.2f}")
        (width, height), base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, line)
        top = y1 - height - base if y1 > height + base else y1
        left = max(0, min(x1, image.shape[1] - width))
        cv2.rectangle(canvas, (x1, y1), (x2, y2), colour, line + 1)
        cv2.rectangle(canvas, (left, top), (left + width, top + height + base), colour, -1)
        ink = (0, 0, 0) if sum(colour) > 380 else (255, 255, 255)
        cv2.putText(canvas, text, (left, top + height), cv2.FONT_HERSHEY_SIMPLEX, scale, ink, line, cv2.LINE_AA)
    return canvas


def _write(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    known = path.suffix.lower() in SUFFIXES
    if not known or not cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR)):
        raise DataError(f"{path} cannot be written: a picture ends in {', '.join(sorted(SUFFIXES))}, in a folder that can be written")
    return path
