"""Labelled tables: CSV files with one network a row, read with the row and the column named in every complaint."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Column = np.ndarray[tuple[int], np.dtype[np.float64]]


class TableError(ValueError):
    """A table that cannot be used: names the file, the row and the column, what was found and what would work."""


@dataclass(frozen=True)
class Table:
    """`names` are the values of the key column; `columns` are float64 (rows,) arrays by name; `lines` the rows' lines in the file."""

    path: Path
    names: tuple[str, ...]
    columns: dict[str, Column]
    lines: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, column: str) -> Column:
        if column not in self.columns:
            raise TableError(f"{self.path}: no column '{column}'; columns: {', '.join(self.columns)}")
        return self.columns[column]


def read(path: Path, columns: Sequence[str] = (), *, key: str = "model_name", check: Callable[[str], object] | None = None,
         positive: bool = False) -> Table:
    """A CSV file with a header.  `columns` must be there and hold a finite number in every row (above 0 where `positive`);
    `key` holds names, each once, that `check` accepts: what it raises as a ValueError becomes the row's complaint.

    Raises TableError.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            header = [name for name in reader.fieldnames or () if name]
            if lacking := [name for name in (key, *columns) if name not in header]:
                raise TableError(f"{path}: no column '{lacking[0]}'; columns: {', '.join(header) or 'none'}")
            rows = [(reader.line_num, row) for row in reader]
    except OSError as fault:
        raise TableError(f"table {path}: {fault.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as fault:
        raise TableError(f"table {path} is no CSV file: {fault}") from None
    if not rows:
        raise TableError(f"{path}: the table has no rows")
    seen: dict[str, int] = {}
    for line, row in rows:
        name = (row[key] or "").strip()
        if name in seen:
            raise TableError(f"{path}:{line}: column '{key}': '{name}' is in line {seen[name]} too")
        seen[name] = line
        if check is not None:
            try:
                check(name)
            except ValueError as fault:
                raise TableError(f"{path}:{line}: column '{key}': {fault}") from None
    found = {name: np.array([_number(path, line, name, row[name], positive) for line, row in rows]) for name in columns}
    return Table(path, tuple(seen), found, tuple(line for line, _ in rows))


def _number(path: Path, line: int, column: str, text: str | None, positive: bool) -> float:
    try:
        value = float(text or "")
    except ValueError:
        raise TableError(f"{path}:{line}: column '{column}': '{text or ''}' is not a number") from None
    if not math.isfinite(value) or (positive and value <= 0):
        raise TableError(f"{path}:{line}: column '{column}': {text} is not a {'positive' if positive else 'finite'} number")
    return value
