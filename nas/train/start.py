"""Start weights from a file that somebody has: an edgenas model, any safetensors file, or a torch state dict.

Nothing is unpickled: torch files are read with weights_only.  Arrays find their place by name, else modules find it by order and shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file

from nas.train.errors import TrainError
from searchspaces import Graph, Weights

Arrays = dict[str, np.ndarray]
Token = tuple[str, tuple[int, ...]]  # kind and shape of a module: what it is known by when names differ
_NESTED = ("state_dict", "model_state_dict", "model", "weights")  # where training scripts keep the state dict in a checkpoint
_NORM = {"gamma": "weight", "beta": "bias", "mean": "running_mean", "var": "running_var"}  # ours: torch's


@dataclass(frozen=True)
class Started:
    """Start weights, and what became of each array: `taken` ours from theirs, `kept` ours at their random start, `unused` theirs."""

    weights: Weights
    taken: dict[str, str]
    kept: tuple[str, ...]
    unused: tuple[str, ...]
    by: str  # 'name' or 'order and shape'

    def text(self) -> str:
        count = f"{len(self.taken)} of {len(self.taken) + len(self.kept)} arrays by {self.by}"
        parts = [f"at their random start: {_few(self.kept)}"] * bool(self.kept) + [f"not used: {_few(self.unused)}"] * bool(self.unused)
        return "; ".join([count, *parts])


def start_from(path: Path, graph: Graph, weights: Weights) -> Started:
    """The weights of a float graph with every array of the file that fits in its place.

    Raises TrainError for a file that cannot be read and for one of which nothing fits.
    """
    theirs, ours = read_arrays(path), weights.arrays()
    same = {name: name for name, array in ours.items() if name in theirs and theirs[name].shape == array.shape}
    ordered = _by_order(graph, ours, theirs)
    taken, by = (same, "name") if len(same) >= len(ordered) else (ordered, "order and shape")
    if not taken:
        raise TrainError(f"{path}: none of its {len(theirs)} arrays fits this net by name, nor by order and shape")
    found = Weights({**ours, **{mine: theirs[name].astype(ours[mine].dtype) for mine, name in taken.items()}})
    used = set(taken.values())
    return Started(found, taken, tuple(n for n in ours if n not in taken), tuple(n for n in theirs if n not in used), by)


def read_arrays(path: Path) -> Arrays:
    """Name -> array, in the order of the file; every array is finite."""
    try:
        if path.suffix == ".safetensors":
            arrays = load_file(path)
        else:
            arrays = _tensors_of(torch.load(path, map_location="cpu", weights_only=True), path)
    except FileNotFoundError:
        raise TrainError(f"no start weights at {path}") from None
    except (SafetensorError, UnpicklingError, RuntimeError, OSError, EOFError, ValueError) as fault:
        raise TrainError(f"{path} is neither a safetensors file nor a torch state dict that holds tensors alone: {fault}") from None
    if broken := [name for name, array in arrays.items() if not np.isfinite(array).all()]:
        raise TrainError(f"{path}: '{broken[0]}' holds values that are not finite numbers")
    return arrays


def _tensors_of(found: object, path: Path) -> Arrays:
    for key in _NESTED:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not any(isinstance(value, torch.Tensor) for value in found.values()):
        raise TrainError(f"{path} holds no state dict: want a mapping of names to tensors, or one under {', '.join(_NESTED)}")
    tensors = {str(name): value for name, value in found.items() if isinstance(value, torch.Tensor) and value.is_floating_point()}
    return {name: tensor.detach().float().numpy() for name, tensor in tensors.items()}


def _by_order(graph: Graph, ours: Arrays, theirs: Arrays) -> dict[str, str]:
    """Ours -> theirs for the longest runs of modules that agree in kind and shape, in order."""
    mine = [(node.name, token) for node in graph if (token := _token(node.name, ours, "mean"))]
    prefixes = dict.fromkeys(name.rpartition(".")[0] for name in theirs)
    other = [(prefix, token) for prefix in prefixes if (token := _token(prefix, theirs, "running_mean"))]
    blocks = SequenceMatcher(None, [t for _, t in mine], [t for _, t in other], autojunk=False).get_matching_blocks()
    taken: dict[str, str] = {}
    for block in blocks:
        for (name, token), (prefix, _) in zip(mine[block.a : block.a + block.size], other[block.b : block.b + block.size]):
            roles = _NORM if token[0] == "norm" else {"weight": "weight", "bias": "bias"}
            for role, theirs_role in roles.items():
                if f"{name}.{role}" in ours and f"{prefix}.{theirs_role}" in theirs:
                    taken[f"{name}.{role}"] = f"{prefix}.{theirs_role}"
    return taken


def _token(module: str, arrays: Mapping[str, np.ndarray], mean: str) -> Token | None:
    if f"{module}.{mean}" in arrays:
        return "norm", arrays[f"{module}.{mean}"].shape
    weight = arrays.get(f"{module}.weight")
    if weight is not None and weight.ndim > 1:
        return "weighted", weight.shape
    return None


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
