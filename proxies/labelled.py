"""Labelled networks: a table of trained detectors, each row a network that can be built, its accuracy and perhaps its latencies."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from proxies.errors import ProxyError
from proxies.ranking import Values
from searchspaces import SPACES, Graph, GraphError
from searchspaces.tables import read

ACCURACY = "mAP_0.5:0.95"
KEY = "model_name"
CLASSES = 20
_NAMED = re.compile(r"(?P<arch>(?P<family>yolo(?:6[sml]|\d)).*)_(?P<side>\d+)")


@dataclass(frozen=True)
class Network:
    """One row.  `group` names its architecture whatever the resolution, `family` what it is drawn from; `build` makes the Graph in
    training form.
    """

    name: str
    group: str
    family: str
    build: Callable[[], Graph]


@dataclass(frozen=True)
class Labelled:
    """`accuracy` and each of `latencies` are (networks,) arrays in the order of `networks`."""

    networks: tuple[Network, ...]
    accuracy: Values
    latencies: Mapping[str, Values]

    def __len__(self) -> int:
        return len(self.networks)

    def only(self, rows: Sequence[int] | np.ndarray) -> Labelled:
        chosen = np.asarray(rows, dtype=np.int64)
        return Labelled(tuple(self.networks[i] for i in chosen), self.accuracy[chosen], {k: v[chosen] for k, v in self.latencies.items()})


def load(path: Path, accuracy: str = ACCURACY, latencies: Sequence[str] | None = None, *, key: str = KEY,
         classes: int = CLASSES) -> Labelled:  # fmt: skip
    """A CSV file with a header.  The `key` column names each network: a YOLOBench name (yolo5n_320), a graph file (*.json, from the
    table's folder) or the JSON of an arch ({"space": ..., "genes": {...}}, or the genes alone for the space `yolo`).

    latencies: columns; None takes every column with 'latency' or a name ending in '_ms'.
    Raises TableError naming file, row and column.
    """
    if latencies is None:
        latencies = [name for name in header(path) if "latency" in name or name.endswith("_ms")]
    networks: dict[str, Network] = {}

    def check(name: str) -> None:
        networks[name] = network(name, path.parent, classes)

    table = read(path, (accuracy, *latencies), key=key, check=check)
    for column in latencies:
        read(path, (column,), key=key, positive=True)
    return Labelled(tuple(networks[name] for name in table.names), table[accuracy], {name: table[name] for name in latencies})


def header(path: Path) -> list[str]:
    """Column names of a CSV file; none where it cannot be read, which `read` then complains about."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return next(csv.reader(file), [])
    except (OSError, UnicodeDecodeError):
        return []


def network(name: str, folder: Path, classes: int = CLASSES) -> Network:
    """Raises a ValueError where the name says no network that can be built."""
    if name.lstrip().startswith("{"):
        return _from_json(name, classes)
    if name.endswith(".json"):
        path = folder / name
        if not path.is_file():
            raise ProxyError(f"no graph file {path}")
        return Network(name, name, "file", partial(_read_graph, path))
    from searchspaces import yolobench

    yolobench.check(name)
    found = _NAMED.fullmatch(name)
    if found is None:
        raise ProxyError(f"'{name}' has no family and resolution")
    return Network(name, found["arch"], found["family"], partial(yolobench.build, name, classes))


def _from_json(text: str, classes: int) -> Network:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as fault:
        raise ProxyError(f"the arch is no JSON: {fault}") from None
    space = found.get("space", "yolo")
    if space not in SPACES:
        raise ProxyError(f"unknown space '{space}'; spaces: {', '.join(SPACES)}")
    arch = SPACES[space].arch(found.get("genes", found))
    group = json.dumps({gene: option for gene, option in arch.genes.items() if gene != "resolution"}, sort_keys=True)
    return Network(text, group, space, partial(SPACES[space].build, arch, classes))


def _read_graph(path: Path) -> Graph:
    try:
        return Graph.from_json(path.read_text(encoding="utf-8"))
    except (OSError, GraphError, KeyError, TypeError, ValueError) as fault:
        raise ProxyError(f"graph file {path}: {fault}") from None


def stratified(families: Sequence[str], sizes: Values, n: int, seed: int = 0) -> np.ndarray:
    """(n,) ascending positions: each family gives its share, one from each of equal parts of its sizes."""
    if n >= len(families):
        return np.arange(len(families))
    if n < 2:
        raise ProxyError(f"a sample of {n} networks cannot be ranked: at least 2")
    rng = np.random.default_rng(seed)
    family = np.unique(np.asarray(families), return_inverse=True)[1]
    exact = n * np.bincount(family) / len(family)
    quotas = np.floor(exact).astype(np.int64)
    quotas[np.argsort(quotas - exact, kind="stable")[: n - quotas.sum()]] += 1  # the rest to the largest remainders
    chosen: list[int] = []
    for number, quota in enumerate(quotas):
        members = np.flatnonzero(family == number)
        by_size = members[np.argsort(sizes[members], kind="stable")]
        chosen += [int(rng.choice(part)) for part in np.array_split(by_size, quota)] if quota else []
    return np.sort(chosen)
