"""`edgenas bench yolobench`: proxies, the accuracy learner, latency predictors, selection and fronts on the YOLOBench tables."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nas.bench import combination, fronts, latency, selection
from nas.bench.combination import ADDED_LABELS, OURS, Added, Known, Point
from nas.bench.fronts import Fronts
from nas.bench.selection import Selected
from nas.bench.tables import LATENCIES, Tables, load
from nas.model import write_whole
from nas.progress import Progress, Silent
from proxies import PROXIES, ProxyError, find, probe
from proxies.counting import activation_elements, macs, params, resolution
from proxies.ranking import Values
from proxies.report import Kept, ProxyReport, cache_folder, report
from searchspaces import yolobench

MODELS = 140  # networks whose proxies are scored at their own resolution
SHOTS = 20
ADDED_SIDE = 160  # px at which a proxy's value of an architecture is taken
DEFAULT_PROXIES = ("nwot_conv",)
ALL = "all"
COUNTING = frozenset(p.name for p in (params, macs, activation_elements, resolution))


@dataclass(frozen=True)
class Bench:
    """`latency` holds the rows of nas.bench.latency as they are written to JSON; `seconds` the time each part took."""

    proxies: ProxyReport
    curve: tuple[Point, ...]
    added: tuple[Added, ...]
    latency: tuple[Mapping[str, Any], ...]
    selection: tuple[Selected, ...]
    fronts: Fronts
    pictures: tuple[str, ...]
    seconds: Mapping[str, float]

    def text(self) -> str:
        parts = [self.proxies.text(combination.DEVICES), best_single(self), combination.curve_text(self.curve)]
        parts += [combination.added_text(self.added)] if self.added else []
        parts += [_latency_text(self.latency), selection.text(self.selection), fronts.fronts_text(self.fronts)]
        parts += [f"pictures: {', '.join(self.pictures)}"] if self.pictures else []
        return "\n\n".join(parts) + "\n\nseconds: " + ", ".join(f"{name} {spent:.0f}" for name, spent in self.seconds.items())

    def json(self) -> dict[str, Any]:
        """proxies[{name, n, tau, tau_band{device}}], latency[{device, shots, mape, within_10, coverage_90}], selection[{device, mean_loss,
        max_loss}] and more.  The combination stands among the proxies, with its labels and protocol in the name.
        """
        judged = [{"name": f"{p.learner}, {p.labels} labels, families {p.families}", "n": self._networks, "tau": p.tau,
                   "tau_band": dict(p.tau_band)} for p in self.curve]  # fmt: skip
        return {
            "proxies": self.proxies.json()["rows"] + judged, "latency": [dict(row) for row in self.latency],
            "selection": selection.as_json(self.selection), "curve": combination.as_json(self.curve),
            "added": combination.as_json(self.added), "fronts": asdict(self.fronts), "pictures": list(self.pictures),
            "seconds": dict(self.seconds),
        }  # fmt: skip

    @property
    def _networks(self) -> int:
        return len(yolobench.names())


def run(folder: str | Path, *, proxies: Sequence[str] = DEFAULT_PROXIES, models: int = MODELS, out: str | Path | None = None,
        seed: int = 0, progress: Progress | None = None) -> Bench:  # fmt: skip
    """All sections on the tables in `folder`.  About six CPU minutes with the default proxies, less once their scores are kept.

    proxies: names, or ('all',): every proxy takes hours.  out: folder for the picture of the fronts.
    Raises TableError for tables that cannot be used, ProxyError for an unknown proxy.
    """
    progress = progress or Silent()
    chosen = [item for item in PROXIES.values() if item.name not in COUNTING] if ALL in proxies else [find(n, PROXIES) for n in proxies]
    if not chosen:
        raise ProxyError("no proxy named; 'all' takes every one")
    clock = Clock()
    tables = load(Path(folder))
    table = combination.known(tables)
    clock.lap("tables")
    ranked = _ranked(chosen, table, tables, models, seed, progress)
    clock.lap("proxies")
    curve = combination.curve(table)
    extra = combination.added(table, _by_architecture(chosen, seed, progress))
    clock.lap("combination")
    predicted = _latency(tables, progress)
    clock.lap("latency")
    selected = selection.selection(tables, table, FewShot(tables), tuple(LATENCIES))
    published = fronts.fronts(Path(folder))
    clock.lap("selection")
    pictures: tuple[str, ...] = ()
    if out is not None:
        path = Path(out) / "fronts.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, fronts.picture(tables, selected))
        pictures = (str(path),)
    return Bench(ranked, tuple(curve), tuple(extra), predicted, tuple(selected), published, pictures, clock.laps)


class Clock:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name], self._since = now - self._since, now


def _ranked(chosen: Sequence[Any], table: Known, tables: Tables, models: int, seed: int, progress: Progress) -> ProxyReport:
    count = min(models, len(table.labelled))
    with progress.task("proxies", count * (len(chosen) + len(COUNTING))) as task:
        return report(table.labelled, chosen, models=models, seed=seed, table=str(tables.folder.name), accuracy="VOC mAP50-95 from scratch",
                      tick=lambda note: task.advance(1, note))  # fmt: skip


def _by_architecture(chosen: Sequence[Any], seed: int, progress: Progress) -> dict[str, tuple[bool, dict[str, float]]]:
    """Of the proxies that score all 88 architectures at ADDED_SIDE; one that fails on some has nothing to add."""
    found: dict[str, tuple[bool, dict[str, float]]] = {}
    names = yolobench.architectures()
    with progress.task("architectures", len(names)) as task, Kept(cache_folder(), probe(None, ADDED_SIDE), (seed,)) as kept:
        values: dict[str, dict[str, float]] = {item.name: {} for item in chosen}
        for name in names:
            graph = yolobench.build(f"{name}_{ADDED_SIDE}")
            for item in chosen:
                scored = kept.score(item, graph)
                if scored.value is not None:
                    values[item.name][name] = scored.value
            task.advance(1, name)
    for item in chosen:
        by_name = values[item.name]
        if len(by_name) == len(names) and len(set(by_name.values())) > 1:  # a constant ranks nothing: quant_noise of float networks
            found[item.name] = item.higher_is_better, by_name
    return found


def _latency(tables: Tables, progress: Progress) -> tuple[Mapping[str, Any], ...]:
    with progress.task("latency", len(LATENCIES) * len(latency.SHOTS)) as task:
        return tuple(latency.latency_rows(tables, note=lambda note: task.advance(1, note)))


def _latency_text(found: Sequence[Mapping[str, Any]]) -> str:
    """The toolkit's way, active choice of what to measure and transfer from the other devices; random draws and MACs alone beside it."""
    lines = [f"latency predicted from few networks, median of {latency.SEEDS} draws, tested on all others; hits within 10 %, cover of 90 %",
             f"{'device':22}{'shots':>6}{'MAPE':>7}{'hits':>7}{'cover':>7}   {'random draws':>13}{'no transfer':>13}{'MACs alone':>12}"]
    for row in found:
        lines.append(f"{row['device']:22}{row['shots']:6d}{row['mape']:7.1f}{row['within_10']:7.0%}{row['coverage_90']:7.0%}   "
                     f"{row['mape_random']:13.1f}{row['mape_alone']:13.1f}{row['mape_macs']:12.1f}")  # fmt: skip
    return "\n".join(lines)


class FewShot:
    """Latencies of all networks of the tables on a device, predicted from SHOTS measured ones and the other eight device files."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables

    @cached_property
    def counted(self) -> latency.Counted:
        return latency.counted(self.tables)

    def __call__(self, device: str, seed: int) -> tuple[Values, Values]:
        known = self.counted.rows(latency.others(device))
        found = latency.few_shot(known, self.counted.kinds, self.tables.latency_ms[device], SHOTS, seed)
        return found.mean_ms, found.low_ms


def best_single(bench: Bench) -> str:
    """The proxy of the report that ranks best over all, beside the combination: one line."""
    top = max((row for row in bench.proxies.rows if row.n), key=lambda row: row.tau)
    ours = [p for p in bench.curve if p.learner == OURS and p.labels == ADDED_LABELS]
    return f"best single proxy {top.name} {top.tau:.3f}; {OURS} " + ", ".join(f"{p.tau:.3f} (families {p.families})" for p in ours)
