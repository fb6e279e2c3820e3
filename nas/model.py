"""Model: a trained network between two steps. One safetensors file: weights, and the graph and classes as metadata.

A file from outside is untrusted: the graph is verified, every array's shape is checked against it, and nothing is unpickled.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from searchspaces import Graph, GraphError, Weights
from searchspaces.quantizers import floated

_FORMAT = "1"


class ModelError(ValueError):
    """A model file that cannot be used: names the file and what was found."""


@dataclass(frozen=True)
class Model:
    """`graph` is the training form with its bit-widths; `weights` fit quantized(graph) at stage "quantized", else floated(graph)."""

    graph: Graph
    weights: Weights
    classes: tuple[str, ...]
    stage: str  # 'float' or 'quantized'
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Side of the square input, px."""
        return int(self.graph.of("input")[0].shape[-1])


def save(model: Model, path: Path) -> None:
    """Written whole or not at all: a temporary file beside it takes its name at the end."""
    header = {
        "edgenas_model": _FORMAT,
        "graph": model.graph.to_json(),
        "classes": json.dumps(list(model.classes)),
        "stage": model.stage,
        "provenance": json.dumps(model.provenance),
    }
    arrays = {name: np.asarray(array, order="C") for name, array in model.weights.arrays().items()}
    write_whole(path, to_bytes(arrays, header))


def write_whole(path: Path, data: bytes) -> None:
    """Put `data` at `path` so that a kill or a full disk leaves the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as fault:
        part.unlink(missing_ok=True)
        raise ModelError(f"{path} could not be written: {fault.strerror or fault}") from None


def is_model(path: Path) -> bool:
    """Whether a file is one of ours by its header; `load` says what is wrong with it."""
    try:
        with safe_open(path, "numpy") as file:
            return (file.metadata() or {}).get("edgenas_model") == _FORMAT
    except (SafetensorError, OSError):
        return False


def load(path: Path) -> Model:
    """Raises ModelError for a file that is missing, is no model, or whose arrays do not fit its graph."""
    try:
        with safe_open(path, "numpy") as file:
            header = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - safe_open is no mapping
        if header.get("edgenas_model") != _FORMAT:
            raise ModelError(f"{path} is a safetensors file, but no edgenas model: train or quantize writes one")
        graph = Graph.from_json(header["graph"])
        classes, provenance = json.loads(header["classes"]), json.loads(header["provenance"])
    except FileNotFoundError:
        raise ModelError(f"no model at {path}") from None
    except (SafetensorError, OSError, GraphError, KeyError, json.JSONDecodeError, TypeError) as fault:
        raise ModelError(f"{path} is not an edgenas model: {fault}") from None
    if header.get("stage") not in ("float", "quantized"):
        raise ModelError(f"{path}: the stage '{header.get('stage')}' is neither float nor quantized")
    if not (isinstance(classes, list) and classes and all(isinstance(name, str) for name in classes)):
        raise ModelError(f"{path}: the classes are no list of names")
    model = Model(graph, Weights(arrays), tuple(classes), header["stage"], provenance)
    _check_fit(model, path)
    return model


def _check_fit(model: Model, path: Path) -> None:
    """Every array that the graph needs is there, with its shape and finite; loading it into a module is the check."""
    from searchspaces.module import to_torch
    from searchspaces.quantizers import quantized

    graph = quantized(model.graph) if model.stage == "quantized" else floated(model.graph)
    for name, array in model.weights.arrays().items():
        if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
            raise ModelError(f"{path}: '{name}' holds values that are not finite numbers")
    try:
        to_torch(graph, model.weights)
    except (GraphError, ValueError, RuntimeError) as fault:
        raise ModelError(f"{path}: {fault}") from None
