"""Calls on constants alone, computed in numpy: what a module makes of its parameters before any image comes in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from nas.importer.trace import Array

FLOAT_TYPE = 7  # torch.float32, as .pt2 files number it


def _filled(args: Mapping[str, Any], value: float) -> Array:
    return np.full(args["size"], value, np.float32)


def _like(args: Mapping[str, Any], value: float) -> Array:
    return np.full_like(args["self"], value, np.float32)


def _added(args: Mapping[str, Any]) -> Array:
    return np.asarray(args["self"] + args["other"] * args.get("alpha", 1))


FOLD: dict[str, Callable[[Mapping[str, Any]], Array]] = {
    "zeros": lambda a: _filled(a, 0.0),
    "ones": lambda a: _filled(a, 1.0),
    "full": lambda a: _filled(a, a["fill_value"]),
    "zeros_like": lambda a: _like(a, 0.0),
    "ones_like": lambda a: _like(a, 1.0),
    "full_like": lambda a: _like(a, a["fill_value"]),
    "add": _added,
    "sub": lambda a: _added({**a, "alpha": -a.get("alpha", 1)}),
    "mul": lambda a: a["self"] * a["other"],
    "div": lambda a: a["self"] / a["other"],
    "neg": lambda a: -a["self"],
    "exp": lambda a: np.exp(a["self"]),
    "sqrt": lambda a: np.sqrt(a["self"]),
    "rsqrt": lambda a: 1 / np.sqrt(a["self"]),
    "reciprocal": lambda a: 1 / a["self"],
    "t": lambda a: a["self"].T,
    "transpose": lambda a: a["self"].swapaxes(a["dim0"], a["dim1"]),
    "permute": lambda a: a["self"].transpose(a["dims"]),
    "unsqueeze": lambda a: np.expand_dims(a["self"], a["dim"]),
    "squeeze": lambda a: np.squeeze(a["self"], tuple(np.atleast_1d(a["dim"])) if "dim" in a else None),
    "view": lambda a: a["self"].reshape(a["size"]),
    "reshape": lambda a: a["self"].reshape(a["shape"]),
    "expand": lambda a: np.broadcast_to(a["self"], [n if m < 0 else m for m, n in _expanded(a)]),
    "cat": lambda a: np.concatenate(a["tensors"], a.get("dim", 0)),
}


def _expanded(args: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Pairs of a wanted size (-1 keeps) and the size that is there."""
    shape = args["self"].shape
    return list(zip(args["size"], (1,) * (len(args["size"]) - len(shape)) + shape))
