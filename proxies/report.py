"""`edgenas proxies report`: how well each proxy ranks networks that somebody trained, beside the four counting baselines.

Scores are kept on disk under a hash of the proxy's source, the graph, the probe and the seeds, so that a second report is quick.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from proxies.core import Proxy, Score, score
from proxies.counting import activation_elements, macs, params, resolution
from proxies.errors import ProxyError
from proxies.labelled import Labelled, stratified
from proxies.probe import Probe, probe
from proxies.ranking import BAND, TOP, alike, bootstrap, kendall_tau, top_recall, within_band
from searchspaces import Graph
from searchspaces.module import GraphModule

BASELINES = (params, macs, activation_elements, resolution)
Tick = Callable[[str], None]  # called after each network and proxy with what was scored


@dataclass(frozen=True)
class Row:
    """One proxy.  Taus are over the `n` networks it scored; `tau_low`, `tau_high` the 95 % bootstrap interval by architecture;
    `tau_band` by latency column; `tau_at_resolution` over pairs of one input side; `seconds` of CPU time a network and seed.
    NaN where there is no such pair.  `failures`: network -> reason.
    """

    name: str
    baseline: bool
    n: int
    tau: float
    tau_low: float
    tau_high: float
    tau_band: Mapping[str, float]
    tau_at_resolution: float
    top_recall: float
    seconds: float
    failures: Mapping[str, str]


@dataclass(frozen=True)
class ProxyReport:
    """Rows best tau first; `networks` of the table were asked for, `of` are in it."""

    table: str
    accuracy: str
    networks: int
    of: int
    groups: int
    rows: tuple[Row, ...]

    def json(self) -> dict[str, Any]:
        return _without_nan(asdict(self))

    def text(self, bands: Sequence[str] | None = None) -> str:
        """Aligned rows; baselines are marked, failures follow with their reasons.  `bands`: latency columns to show, by default all."""
        bands = list(self.rows[0].tau_band if self.rows else ()) if bands is None else bands
        named = [band.replace("_latency", "").replace("_ms", "") for band in bands]
        widths = [max(9, len(name) + 2) for name in named]
        lines = [
            f"{self.networks} of {self.of} networks ({self.groups} architectures) of {self.table}: Kendall tau with {self.accuracy}, "
            f"95 % interval over architectures,",
            f"within {BAND}x latency bands of each device, at equal resolution; recall of the top {TOP:.0%}; CPU seconds a network",
            f"{'proxy':31}{'n':>5}{'tau':>7}{'interval':>15}{'at res.':>9}{'top10':>7}{'s':>9}"
            + "".join(f"{name:>{w}}" for name, w in zip(named, widths)),
        ]
        for row in self.rows:
            label = row.name + (" (baseline)" if row.baseline else "")
            if row.n < 2:
                lines.append(f"{label:31}{row.n:5d}   failed: {_first(row.failures)}")
                continue
            interval = f"{row.tau_low:.2f} .. {row.tau_high:.2f}"
            cells = f"{row.n:5d}{row.tau:7.3f}{interval:>15}{row.tau_at_resolution:9.3f}{row.top_recall:7.2f}{row.seconds:9.3f}"
            lines.append(f"{label:31}" + cells + "".join(f"{row.tau_band[band]:{w}.3f}" for band, w in zip(bands, widths)))
        lines += [f"{row.name} failed on {len(row.failures)} of {self.networks}: {_first(row.failures)}"
                  for row in self.rows if row.failures and row.n >= 2]
        return "\n".join(lines)


def _first(failures: Mapping[str, str]) -> str:
    name = next(iter(failures), "")
    return f"{name}: {failures[name]}" if name else "no network"


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(x) for key, x in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(x) for x in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def report(labelled: Labelled, proxies: Iterable[Proxy], *, models: int | None = None, samples: Probe | None = None,
           seeds: Sequence[int] = (0,), seed: int = 0, cache: Path | None = None, table: str = "", accuracy: str = "accuracy",
           tick: Tick | None = None) -> ProxyReport:  # fmt: skip
    """Scores the networks by the proxies and the baselines, and judges the ranks.

    models: that many are drawn, stratified by family and MACs, with `seed`; None takes all.
    samples: the probe; None is seeded noise.  cache: folder of kept scores, None the toolkit's own (EDGENAS_CACHE or ~/.cache/edgenas).
    """
    of, seen = len(labelled), samples or probe(None)
    wanted = {p.name: p for p in (*proxies, *BASELINES)}
    with Kept(cache_folder() if cache is None else cache, seen, seeds) as kept:
        if models is not None and models < of:
            sizes = np.array([kept.score(macs, network.build()).number() for network in labelled.networks])
            labelled = labelled.only(stratified([network.family for network in labelled.networks], np.log(sizes), models, seed))
        scores: dict[str, list[Score]] = {name: [] for name in wanted}
        for network in labelled.networks:
            graph = network.build()
            for name, item in wanted.items():
                scores[name].append(kept.score(item, graph))
                if tick is not None:
                    tick(f"{name} {network.name}")
    rows = [_row(item, scores[name], labelled) for name, item in wanted.items()]
    rows.sort(key=lambda row: -row.tau if np.isfinite(row.tau) else 2.0)
    return ProxyReport(table, accuracy, len(labelled), of, len({network.group for network in labelled.networks}), tuple(rows))


def _row(item: Proxy, scores: Sequence[Score], labelled: Labelled) -> Row:
    failures = {network.name: s.error for network, s in zip(labelled.networks, scores) if s.error is not None}
    kept = labelled.only([i for i, s in enumerate(scores) if s.error is None])
    values = np.array([s.value for s in scores if s.value is not None]) * (1 if item.higher_is_better else -1)
    seconds = float(np.mean([s.seconds for s in scores]))
    baseline, nan = item.name in {b.name for b in BASELINES}, float("nan")
    if len(kept) < 2:
        return Row(item.name, baseline, len(kept), nan, nan, nan, dict.fromkeys(labelled.latencies, nan), nan, nan, seconds, failures)
    true = kept.accuracy
    low, high = bootstrap(values, true, [network.group for network in kept.networks])
    bands = {name: kendall_tau(values, true, within_band(times)) for name, times in kept.latencies.items()}
    same = alike([network.build().of("input")[0].shape[-1] for network in kept.networks])
    return Row(item.name, baseline, len(kept), kendall_tau(values, true), low, high, bands, kendall_tau(values, true, same),
               top_recall(values, true), seconds, failures)  # fmt: skip


def cache_folder() -> Path:
    return Path(os.environ.get("EDGENAS_CACHE") or Path.home() / ".cache" / "edgenas") / "proxies"


class Kept:
    """Scores on disk, one file of JSON lines a proxy; a line is written when its score is known, so nothing is lost by Ctrl-C."""

    def __init__(self, folder: Path, seen: Probe, seeds: Sequence[int]) -> None:
        self.folder, self.probe, self.seeds = folder, seen, tuple(seeds)
        self._tables: dict[Path, dict[str, Score]] = {}

    def __enter__(self) -> Kept:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as fault:
            raise ProxyError(f"{self.folder}: cannot keep scores: {fault.strerror}; set EDGENAS_CACHE to another folder") from None
        return self

    def __exit__(self, *_: object) -> None:
        self._tables.clear()

    def score(self, item: Proxy, graph: Graph) -> Score:
        """As proxies.score; kept scores keep the seconds that they took.  What a graph alone gives is quicker counted than kept."""
        if "graph" in item.needs:
            return score(item, graph, self.probe, self.seeds)
        path = self.folder / f"{item.name}-{self._mark(item)}.jsonl"
        if path not in self._tables:
            self._tables[path] = _read(path)
        table = self._tables[path]
        key = hashlib.sha256(graph.to_json().encode()).hexdigest()[:24]
        if key not in table:
            table[key] = score(item, graph, self.probe, self.seeds)
            if table[key].error is None:  # a failure may have been the machine's: it is tried again
                with path.open("a") as file:
                    file.write(json.dumps({"graph": key, **asdict(table[key])}) + "\n")
        return table[key]

    def _mark(self, item: Proxy) -> str:
        """Of everything a score hangs on besides the graph: sources, images, boxes, seeds."""
        mark = hashlib.sha256(repr((item.name, self.seeds, self.probe.classes)).encode())
        for path in _sources(item):
            mark.update(path.read_bytes())
        for tensor in (self.probe.images, *self.probe.boxes_xyxy, *self.probe.labels):
            mark.update(tensor.numpy().tobytes())
        return mark.hexdigest()[:16]


_JUDGES = frozenset({"report.py", "ranking.py", "labelled.py", "combine.py", "learner.py", "yolobench.py"})  # read scores, make none


def _sources(item: Proxy) -> list[Path]:
    """The files a proxy's value may hang on: its own, its neighbours', and what builds the module."""
    own = Path(item.file)
    beside = sorted(path for path in own.parent.glob("*.py") if path.name not in _JUDGES) if own.is_file() else []
    return [*beside, Path(inspect.getfile(Probe)), Path(inspect.getfile(GraphModule))]


def _read(path: Path) -> dict[str, Score]:
    """Kept scores by graph; a line cut short by a kill is skipped."""
    found: dict[str, Score] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            fields = json.loads(line)
            key = fields.pop("graph")
            found[key] = Score(**{**fields, "values": tuple(fields["values"])})
        except (json.JSONDecodeError, KeyError, TypeError):
            continue
    return found
