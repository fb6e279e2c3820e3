"""Searchers side by side on tables of measured networks: how many accuracies each needs until the front is known.

Cost is the number of accuracy evaluations, each a training; the measure is the hypervolume of log latency and mAP (table_space.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from multiprocessing import get_context
from typing import Any

import numpy as np

from nas.bench.latency import counted, few_shot, others
from nas.bench.peers import PEERS, available, nearest, peer
from nas.bench.table_space import OBJECTIVES, REFERENCE, SPACE, Counting, Problem, arch_of, counts, problem
from nas.bench.tables import LATENCIES, SCRATCH, Tables
from nas.pareto import hypervolume
from nas.search.core import Searcher, SearchError, SpaceExhausted
from nas.search.pool import Belief
from nas.search.searchers import SEARCHERS, searcher
from nas.search.transfer import Learned
from nas.study import Trial

SHARES = (0.95, 0.99, 0.999)
SEEDS = 50
SHOTS = 20                  # measured networks behind a predicted latency
DEVICES = tuple(device for device, (file, _, _) in LATENCIES.items() if file == "YOLO_latency.csv")     # the protocol's six
TRANSFER = "surrogate+transfer"
SOURCE, OTHER_SOURCE = "coco", "voc"    # the data set that a transfer learns from; for a search on COCO itself, the other one
KNOWN, PREDICTED = "known", "predicted"
SETTINGS: dict[str, dict[str, Any]] = {
    "surrogate": {"batch": 1, "start": 4},
    "nsga2": {"population": 20},
    "evolution": {"population": 20, "batch": 1},
    "local": {"batch": 1},
    "screening": {"batch": 4},
}
Note = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """Medians over seeds; None where half of the seeds spent the budget before they got there.  `cpu_s`: mean of one search."""

    searcher: str
    device: str
    data: str
    latency: str
    median_evals_95: float | None
    median_evals_99: float | None
    median_evals_999: float | None
    seeds: int
    cpu_s: float


@dataclass(frozen=True)
class Bench:
    """All rows, and the searchers that could not run with the reason."""

    rows: tuple[Row, ...]
    missing: dict[str, str] = field(default_factory=dict)

    def json(self) -> dict[str, Any]:
        return {"rows": [asdict(row) for row in self.rows], "missing": self.missing}

    def text(self) -> str:
        lines = ["accuracy evaluations to 95 / 99 / 99.9 % of the front's hypervolume, median over seeds; -: not within the budget"]
        lines.append(f"{'searcher':<24}{'device':<24}{'data':<13}{'latency':<11}"
                     f"{'95 %':>7}{'99 %':>7}{'99.9 %':>8}{'seeds':>7}{'CPU s':>8}")
        for row in self.rows:
            figures = (row.median_evals_95, row.median_evals_99, row.median_evals_999)
            shown = "".join(f"{'-' if value is None else format(value, 'g'):>{width}}" for value, width in zip(figures, (7, 7, 8)))
            lines.append(f"{row.searcher:<24}{row.device:<24}{row.data:<13}{row.latency:<11}{shown}{row.seeds:>7}{row.cpu_s:>8.2f}")
        return "\n".join(lines + [f"{name}: {why}" for name, why in self.missing.items()])


@dataclass(frozen=True)
class Case:
    """One line of the table before it is run.  `predicted_ms` (seeds, networks), where the latency is not known."""

    searcher: str
    device: str
    data: str
    latency: str
    seeds: int
    budget: int
    predicted_ms: np.ndarray | None = None


def run(tables: Tables, *, searchers: Sequence[str] | None = None, devices: Sequence[str] = DEVICES, data: Sequence[str] = (SCRATCH,),
        latencies: Sequence[str] = (KNOWN,), seeds: int = SEEDS, budget: int = 1000, workers: int = 1, note: Note = lambda text: None
        ) -> Bench:
    """Every searcher on every device and data set.  A search ends at 99.9 % or after `budget` accuracies.

    searchers: names of SEARCHERS, TRANSFER and the peers (default all of them).  Raises SearchError for an unknown name.
    """
    missing = [name for name, installed in available().items() if not installed]
    every = [*SEARCHERS, TRANSFER, *PEERS]
    wanted = list(searchers) if searchers is not None else every
    for kind, names, allowed in (("searcher", wanted, every), ("device", devices, LATENCIES), ("data set", data, tables.map50_95)):
        if unknown := [name for name in names if name not in allowed]:
            raise SearchError(f"no {kind} '{unknown[0]}'; there are {', '.join(allowed)}")
    predicted = {device: _predictions(tables, device, seeds) for device in devices} if PREDICTED in latencies else {}
    cases = [Case(name, device, one, latency, seeds, budget, predicted[device] if latency == PREDICTED else None)
             for one in data for latency in latencies for name in wanted if name not in missing for device in devices]
    rows: list[Row] = []
    with _mapped(workers) as mapped:
        for row in mapped(_Judge(tables), cases):
            rows.append(row)
            note(f"{row.searcher} on {row.device}, {row.data}: {row.median_evals_99} evaluations to 99 %")
    return Bench(tuple(rows), {name: "not installed: pip install 'edgenas[peers,nni]'" for name in missing if name in wanted})


def _predictions(tables: Tables, device: str, seeds: int) -> np.ndarray:
    """(seeds, networks): latencies predicted from SHOTS measured ones, these among them as measured."""
    networks = counted(tables)
    rows, times = networks.rows(others(device)), tables.latency_ms[device]
    found = []
    for seed in range(seeds):
        guess = few_shot(rows, networks.kinds, times, SHOTS, seed)
        predicted = guess.mean_ms.copy()
        predicted[guess.measured] = times[guess.measured]
        found.append(predicted)
    return np.array(found)


@contextmanager
def _mapped(workers: int) -> Iterator[Callable[..., Any]]:
    if workers == 1:
        yield map
        return
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        yield pool.map


@dataclass(frozen=True)
class _Judge:
    """Runs a case; picklable, so that it travels to other processes."""

    tables: Tables

    def __call__(self, case: Case) -> Row:
        start = time.process_time()
        reached = np.full((case.seeds, len(SHARES)), np.inf)
        task = problem(self.tables, case.device, case.data)
        for seed in range(case.seeds):
            if case.predicted_ms is not None:
                task = problem(self.tables, case.device, case.data, case.predicted_ms[seed])
            shares = hypervolumes(task, self.searcher(case, task, seed), case.budget) / task.volume
            for i, share in enumerate(SHARES):
                if (shares >= share).any():
                    reached[seed, i] = 1 + int(np.argmax(shares >= share))
        medians = [float(value) if np.isfinite(value) else None for value in np.median(reached, axis=0)]
        cpu_s = round((time.process_time() - start) / case.seeds, 3)
        return Row(case.searcher, case.device, case.data, case.latency, medians[0], medians[1], medians[2], case.seeds, cpu_s)

    def searcher(self, case: Case, task: Problem, seed: int) -> Searcher:
        if case.searcher == TRANSFER:
            return searcher("surrogate", SPACE, OBJECTIVES, seed, cheap=task.cheap, belief=_learned(self.tables, source(case.data)),
                            **SETTINGS["surrogate"])
        if case.searcher in SEARCHERS:
            return searcher(case.searcher, SPACE, OBJECTIVES, seed, cheap=task.cheap, belief=_counting(self.tables.names),
                            **SETTINGS.get(case.searcher, {}))
        return peer(case.searcher, SPACE, OBJECTIVES, seed, repair=nearest(SPACE, map(arch_of, task.rows)))


def source(data: str) -> str:
    """Where the transfer to a data set comes from."""
    return SOURCE if data != SOURCE else OTHER_SOURCE


@cache
def _counting(names: tuple[str, ...]) -> Counting:
    return Counting.over(names)


_LEARNED: dict[tuple[str, str], Belief] = {}


def _learned(tables: Tables, data: str) -> Belief:
    """What a data set has taught of the networks that were trained on it; fitted once."""
    key = (str(tables.folder), data)
    if key not in _LEARNED:
        known = tables.known(tables.map50_95[data])
        names = [tables.names[i] for i in known]
        _LEARNED[key] = Learned(SPACE, [arch_of(name) for name in names], [counts(name) for name in names], OBJECTIVES[-1],
                                tables.map50_95[data][known].tolist())
    return _LEARNED[key]


def hypervolumes(task: Problem, seeker: Searcher, budget: int) -> np.ndarray:
    """(evaluations,) hypervolume of the true points after each accuracy; ends at the last of SHARES or where the space does."""
    judge = task.evaluation
    points: list[np.ndarray] = []
    volumes: list[float] = []
    number = 0
    while len(points) < budget and (not volumes or volumes[-1] < SHARES[-1] * task.volume):
        asked: list[Any] = []
        try:
            while len(asked) < seeker.batch:
                asked.append(seeker.ask())
        except SpaceExhausted:
            if not asked:
                break
        for arch in asked:
            number += 1
            row = task.row(arch)
            if row is None:
                seeker.tell(Trial(number, arch, "failed", error="the table does not have it"))
                continue
            columns = judge.columns(arch, "cheap") | judge.columns(arch, "expensive")
            seeker.tell(Trial(number, arch, "ok", columns, spent=True))
            points.append(task.points[row])
            volumes.append(hypervolume(np.array(points), REFERENCE))
    return np.array(volumes[:budget])
