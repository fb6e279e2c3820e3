"""Networks as numbers for a model of them: genes, and what was counted from their graphs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from searchspaces.space import Choice, Genes, Space

COUNTS = ("macs_m", "activations_m", "params_m")    # cheap columns that say something of accuracy, whatever the device
_PRECISION = re.compile(r"w(\d+)a(\d+)")            # 'w4a8'


class Features:
    """Fitted to some networks of a space. Numbers are standardized over these; options that are no numbers become flags, 0 or 1."""

    def __init__(self, space: Space, genes: Genes, columns: Sequence[Mapping[str, float]]) -> None:
        self._values = {i: _option_values(choice) for i, choice in enumerate(space.choices) if len(choice.options) > 1}
        self._names = [name for name in COUNTS if columns and all(name in row for row in columns)]
        rows = self._rows(genes, columns)
        spread, flags = rows.std(axis=0), np.isin(rows, (0.0, 1.0)).all(axis=0)
        self._middle = rows.mean(axis=0)
        self._spread = np.where(flags | (spread < 1e-9), 1.0, spread)

    def __call__(self, genes: Genes, columns: Sequence[Mapping[str, float]]) -> np.ndarray:
        """(n, features) of (n, genes) option numbers and the cheap columns of each."""
        return np.asarray((self._rows(genes, columns) - self._middle) / self._spread)

    def _rows(self, genes: Genes, columns: Sequence[Mapping[str, float]]) -> np.ndarray:
        counts = np.array([[row[name] for name in self._names] for row in columns]).reshape(len(genes), len(self._names))
        return np.concatenate([values[genes[:, i]] for i, values in self._values.items()] + [np.log(np.maximum(counts, 1e-9))], axis=1)


def _option_values(choice: Choice) -> np.ndarray:
    """(options, columns): logs of positive numbers and of the bits of precisions; a column for each option of anything else."""
    if all(isinstance(option, int | float) and option > 0 for option in choice.options):
        return np.log(np.array(choice.options, dtype=np.float64))[:, None]
    found = [_PRECISION.fullmatch(str(option)) for option in choice.options]
    if all(found):
        return np.log([[float(bits) for bits in match.groups()] for match in found if match])
    return np.eye(len(choice.options))
