"""One file holds a run between two epochs: tensors in safetensors, everything else as JSON in its header; no pickle.

The file is written beside the old one, flushed to the disk and renamed over it, so a run killed at any moment leaves either the old
state or the new one.
"""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from nas.train.errors import TrainError

FORMAT = 1


def save(path: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Write atomically. Raises TrainError where the disk refuses."""
    fresh = path.with_name(path.name + ".part")
    header = {"format": str(FORMAT), "state": json.dumps(state)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, fresh, metadata=header)
        with open(fresh, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(fresh, path)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise TrainError(f"{path}: the checkpoint cannot be written: {error}") from error


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `save` was given. Raises TrainError naming a file that is broken or of another format."""
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (safe_open is no dict)
    except (OSError, SafetensorError) as error:
        raise TrainError(f"{path}: not a readable checkpoint ({error}); delete it to train from the start") from error
    if header.get("format") != str(FORMAT):
        found = header.get("format")
        raise TrainError(f"{path}: checkpoint format {found!r}, this version reads {FORMAT}; delete it to train from the start")
    return tensors, json.loads(header["state"])


def section(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state by parameter name: '<parameter>/<exp_avg, exp_avg_sq or step>'."""
    return {
        f"{name}/{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Undo `optimizer_tensors`; each tensor takes its parameter's device and memory layout."""
    parameters = dict(model.named_parameters())
    for name, value in tensors.items():
        owner, key = name.rsplit("/", 1)
        parameter = parameters[owner]
        same_shape = value.shape == parameter.shape and key != "step"
        slot = torch.empty_like(parameter) if same_shape else torch.empty(value.shape, device=parameter.device)
        optimizer.state[parameter][key] = slot.detach().copy_(value)
