"""Trace: what torch.export saw a module do, as plain data.  No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


class Value(str):
    """The name of a tensor, so that it differs from a string that is an argument."""

    __slots__ = ()


@dataclass(frozen=True)
class Call:
    """One operator of aten.  `args` go by the names of its schema: a Value, a list of them, a number, a list of numbers, None, ..

    `op` carries neither its overload nor the underscore of an operator that writes over its first argument (`overwrites`).
    `path` and `kind` are the innermost module that it ran in, such as 'neck.conv1' and 'torch.nn.modules.conv.Conv2d'.
    """

    op: str
    args: Mapping[str, Any]
    results: tuple[Value, ...]
    overwrites: bool = False
    path: str = ""
    kind: str = ""

    @property
    def where(self) -> str:
        """The call as an error names it."""
        return f"aten.{self.op} in {repr(self.path) if self.path else 'the outermost module'} ({self.kind.rpartition('.')[2]})"


@dataclass(frozen=True)
class Trace:
    """Calls in order.  `shapes` are those of every tensor, batch first; `constants` parameters, buffers and lifted constants."""

    images: Value
    shapes: Mapping[str, tuple[int, ...]]
    constants: Mapping[str, Array]
    calls: tuple[Call, ...]
    outputs: tuple[Value, ...]
