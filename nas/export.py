"""Hand a finalist over: the artifact as it was verified, or ONNX of the same weights."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import nas.compiler.onnx as to_onnx
from nas.model import load

if TYPE_CHECKING:
    from nas.job import Run

FORMATS = ("edge", "onnx", "onnx-int8")


class ExportError(ValueError):
    """A format that is not known, or a file that cannot be written."""


def export_finalist(run: Run, pick: str, format: str, out: Path | None) -> Path:
    """'edge' copies the verified file; 'onnx' is the float net, 'onnx-int8' the quantized one as QDQ.  The path written."""
    if format not in FORMATS:
        raise ExportError(f"no format '{format}'; formats: {', '.join(FORMATS)}")
    finalist = run.pick(pick)
    folder = run.folder(finalist.trial)
    ending = "edge" if format == "edge" else "onnx"
    out = out or run.path / f"{pick}{'-int8' if format == 'onnx-int8' else ''}.{ending}"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if format == "edge":
            shutil.copyfile(folder / "model.edge", out)
            return out
    except OSError as fault:
        raise ExportError(f"{out} cannot be written: {fault.strerror}") from None
    model = load(folder / ("quantized.safetensors" if format == "onnx-int8" else "float.safetensors"))
    return to_onnx.export(model.graph, model.weights, out, classes=model.classes, quantized=format == "onnx-int8")
