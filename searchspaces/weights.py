"""Weights: the numpy arrays of a Graph, keyed by node and parameter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from searchspaces.graph import Node
from searchspaces.ops import GraphError

Array = np.ndarray[Any, Any]


class Weights:
    """An immutable map from 'node.param' to an array.  `weights[node, "gamma"]`; passes answer with `replacing` and `without`.

    Parameters by operator: conv2d, conv_transpose2d, linear: weight, bias, and weight_scale (C_out,) where wbits < 32;
    batchnorm: gamma, beta, mean, var; scale: value; quantize: scale > 0 (float), zero_point (integer code of real 0).
    """

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self._arrays = dict(arrays)

    def __getitem__(self, key: tuple[Node | str, str]) -> Array:
        name = _flat(*key)
        try:
            return self._arrays[name]
        except KeyError:
            raise GraphError(f"no weights '{name}'; there are {len(self._arrays)} arrays") from None

    def __contains__(self, key: tuple[Node | str, str]) -> bool:
        return _flat(*key) in self._arrays

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def get(self, node: Node | str, param: str, default: Any = None) -> Any:
        return self._arrays.get(_flat(node, param), default)

    def arrays(self) -> dict[str, Array]:
        return dict(self._arrays)

    def edited(self, changed: Mapping[tuple[Node | str, str], Any], gone: list[Node] | None = None) -> Weights:
        """A copy with `changed` arrays set and every array of the `gone` nodes left out."""
        lost = tuple(f"{node.name}." for node in gone or [])
        kept = {k: v for k, v in self._arrays.items() if not (lost and f"{k.rpartition('.')[0]}." in lost)}
        return Weights({**kept, **{_flat(*key): np.asarray(value) for key, value in changed.items()}})


def _flat(node: Node | str, param: str) -> str:
    return f"{node if isinstance(node, str) else node.name}.{param}"
