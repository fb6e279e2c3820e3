"""Table `joint`: what a searched detector reaches within a latency, beside nano YOLOs scaled to fit and beside random search.

Every figure is that of the compiled artifact on this machine; what is chosen is chosen by the validation split, so a test split, where
there is one, is the fairer judge.  A latency budget is a share of what a YOLOv8n takes here at W8A8 and at the plan's size.  A nano YOLO is
scaled in width and resolution to the variant of the highest accuracy score that fits, as measured, and trained once, with SiLU as it was
published and at two bits with ReLU, which they want; the random search trains networks that fit, whole ones, for as many epochs as the
search had in all.  `layer-bits` is the searched network again, quantized from its float weights with bits chosen for each layer.  When
all are there, and no other process of the table trains beside it any more, every artifact and that YOLOv8n are timed once again, in
turns: those are the latencies and budgets that the table shows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from hwmodels.limits import priced
from nas.bench.accuracy.core import Cell, Figures, Plan, Table, gmacs
from nas.bench.accuracy.training import splits
from nas.bench.timing import alternate
from nas.candidates import KNOWN, Costs, columns
from nas.data import Dataset
from nas.deploy.local import find_device
from nas.deploy.verify import Verification, grey
from nas.finalist import Bits, Recipe, develop, misses_untrained, scored, trial_run, verify, with_layer_bits
from nas.halving import epochs_trained, ladder
from nas.job import JobError, NothingFits, Run, SearchSettings, resume, search
from nas.model import write_whole
from nas.runtime import Executor
from nas.search.loop import Infeasible
from searchspaces import SPACES, YOLO, Arch
from searchspaces.nano import FAMILIES, nano, scaled

REFERENCE = "reference"  # the cell that times YOLOv8n
TIMED = "timed"  # the cell of so many seeds that times every artifact again: key -> ms
TIMED_S = 0.5  # s of each
DRAWS = 100_000  # random networks that are costed before a budget counts as too tight


@dataclass(frozen=True)
class Setting:
    """`shares` of YOLOv8n's latency; `scored` candidates of a search, of which `entrants` are trained."""

    space: str = "yolo"
    shares: tuple[float, ...] = (0.3, 0.5, 0.8)
    scored: int = 300
    entrants: int = 3


@dataclass(frozen=True)
class Contest:
    """One budget and one seed of a plan."""

    setting: Setting
    plan: Plan
    dataset: Dataset
    share: float
    seed: int

    @property
    def recipe(self) -> Recipe:
        """The plan's float epochs, and half as many quantized ones."""
        half = max(1, self.plan.epochs // 2)
        whole = self.plan.epochs + half
        return Recipe(epochs=whole, qat_share=half / whole, accelerator=self.plan.accelerator, seed=self.seed)

    @property
    def limit_ms(self) -> float:
        return self.share * float(json.loads(_reference_file(self.plan).read_text()))

    def key(self, contender: str) -> str:
        return f"x{self.share:g}-{contender}-s{self.seed}"

    def searched(self, folder: Path) -> Figures:
        settings = SearchSettings(
            data=self.plan.data, space=self.setting.space, budget=self.setting.scored, finalists=1, halving=self.setting.entrants,
            limits={"latency_ms": self.limit_ms}, seed=self.seed, recipe=self.recipe,
        )  # fmt: skip
        try:
            run = resume(folder) if (folder / "run.json").exists() else search(settings, folder)
        except (NothingFits, Infeasible) as why:
            return {"failed": str(why)}
        best = run.pick("best")
        assert best.verified is not None
        return {**self.figures(run.folder(best.trial) / "model.edge", best.verified, best.genes), **epochs_trained(run)}

    def refined(self, folder: Path) -> Figures:
        """What was searched, with bits chosen for each layer within the limit, from the same float weights."""
        run = Run.open(folder.parent / self.key("search"))
        try:
            best = run.pick("best")
        except JobError as why:
            return {"failed": str(why)}
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("float.history.json", "float.safetensors"):
            if not (folder / name).exists():
                write_whole(folder / name, (run.folder(best.trial) / name).read_bytes())
        limits = {"latency_ms": self.limit_ms}
        bits = partial(with_layer_bits, dataset=self.dataset, device=find_device("local"), limits=limits, folder=folder)
        figures = self.trained(Arch(self.setting.space, best.genes), folder, bits)
        if figures is None:
            return {"failed": "what was searched no longer fits"}
        spent = epochs_trained(run)
        return {**figures, **spent, "quantized": spent["quantized"] + self.recipe.qat_epochs}

    def drawn(self, folder: Path) -> Figures:
        """The best of random networks that were trained for as many epochs as the search of this contest."""
        searched = epochs_trained(Run.open(folder.parent / self.key("search")))
        device, rng = find_device("local"), np.random.default_rng(self.seed)
        space, costs = priced(SPACES[self.setting.space], device), Costs(device, len(self.dataset.classes))
        wanted, found = max(1, sum(searched.values()) // self.recipe.epochs), list[Figures]()
        for number in range(DRAWS):
            arch = space.sample(rng)
            if costs(arch)["latency_ms"] <= self.limit_ms and (figures := self.trained(arch, folder / f"{number:06d}")):
                found.append(figures)
                if len(found) == wanted:
                    break
        if not found:
            return {"failed": f"none of {DRAWS} random networks takes {self.limit_ms:.3g} ms or less"}
        totals = {stage: sum(figures[stage] for figures in found) for stage in ("float", "quantized")}
        return {**max(found, key=lambda figures: (figures["met"], figures["map50"])), **totals}

    def scaled(self, block: str, precision: str, folder: Path) -> Figures:
        from proxies.combine import estimate

        costs, classes = Costs(find_device("local"), len(self.dataset.classes)), len(self.dataset.classes)
        within = [arch for arch in scaled(YOLO, block, KNOWN[precision], precision) if costs(arch)["latency_ms"] <= self.limit_ms]
        for number, arch in enumerate(sorted(within, key=lambda arch: -estimate(arch, classes).score)):
            if figures := self.trained(arch, folder / f"{number:03d}"):
                return figures
        return {"failed": f"no variant takes {self.limit_ms:.3g} ms or less"}

    def trained(self, arch: Arch, folder: Path, bits: Bits | None = None) -> Figures | None:
        """Figures of one network after the recipe, once; None where it does not fit when it is measured."""
        kept = folder / "figures.json"
        if kept.exists():
            return dict(json.loads(kept.read_text()))
        limits = {"latency_ms": self.limit_ms}
        if misses_untrained(arch, self.dataset, folder, columns(limits)):
            return None
        artifact = develop(arch, self.dataset, self.recipe, folder, {"seed": self.seed}, lambda stage, record: None, bits)
        low = self.recipe.qat_epochs
        epochs = {"float": self.recipe.epochs - low, "quantized": low}
        figures = {**self.figures(artifact, verify(artifact, self.dataset, limits=limits), arch.genes), **epochs}
        write_whole(kept, json.dumps(figures).encode())
        return figures

    def figures(self, artifact: Path, v: Verification, genes: Mapping[str, Any]) -> dict[str, Any]:
        """Of the validation split, and mAP of the test split where there is one."""
        found = {
            "map50": v.map50, "map": v.map, "latency_ms": v.latency_ms, "size_mb": v.size_mb, "met": v.met, "throttled": v.throttled,
            "genes": dict(genes), "artifact": str(artifact.relative_to(self.plan.out)),
        }  # fmt: skip
        if "test" in splits(self.dataset):
            test = scored(Executor.load(artifact), self.dataset.splits["test"], self.dataset)
            found |= {"test_map50": test.map50, "test_map": test.map}
        return found

    def cells(self) -> list[Cell]:
        """The random search takes its epochs from the search, all their limit from the reference."""
        low = self.recipe.qat_epochs
        rungs = ladder(self.setting.entrants, 1)
        climbed = 1 + sum(rung.share * rung.candidates for rung in rungs)
        pace = len(self.dataset.train) * self.share * gmacs(YOLO.build(_reference(self.plan), len(self.dataset.classes)))
        runs: dict[str, tuple[float, Callable[[Path], Figures]]] = {"search": (climbed, self.searched), "random": (climbed, self.drawn)}
        runs["layer-bits"] = 0.0, self.refined
        for (name, block), precision in product(FAMILIES.items(), KNOWN):
            runs[f"{name}-{precision}"] = 1.0, partial(self.scaled, block, precision)
        after = dict.fromkeys(("random", "layer-bits"), (REFERENCE, self.key("search")))
        return [
            Cell(self.key(name), pace * times * (self.recipe.epochs - low), run, pace * (times or 1.0) * low, after.get(name, (REFERENCE,)))
            for name, (times, run) in runs.items()
        ]


def _reference(plan: Plan) -> Arch:
    return nano("c2f", plan.size, "silu", "w8a8")


def _reference_file(plan: Plan) -> Path:
    return plan.shared("joint") / "yolov8n_ms.json"


def _measured_reference(plan: Plan, dataset: Dataset) -> Cell:
    def run(folder: Path) -> Figures:
        folder.mkdir(parents=True, exist_ok=True)
        artifact = folder / "untrained.edge"
        latency = trial_run(_reference(plan), dataset, artifact)["latency_ms"]
        write_whole(_reference_file(plan), json.dumps(latency).encode())
        return {"latency_ms": latency, "artifact": str(artifact.relative_to(plan.out))}

    return Cell(REFERENCE, 0.0, run)


def _timed_again(keys: Sequence[str], seeds: int) -> Cell:
    def run(folder: Path) -> Figures:
        found = {key: json.loads((folder.parent / f"{key}.json").read_text()) for key in (REFERENCE, *keys)}
        nets = {key: Executor.load(folder.parents[1] / f["artifact"]) for key, f in found.items() if "artifact" in f}
        samples = alternate([partial(_mean_us, net, grey(net)) for net in nets.values()], TIMED_S)
        return {key: float(np.median(us)) / 1e3 for key, us in zip(nets, samples)}

    return Cell(f"{TIMED}-{seeds}", 0.0, run, after=tuple(keys))


def _mean_us(net: Executor, image: np.ndarray, runs: int) -> float:
    return fmean(net.time(image, runs))


def table(setting: Setting) -> Table:
    def cells(plan: Plan, dataset: Dataset) -> Sequence[Cell]:
        contests = [Contest(setting, plan, dataset, share, seed) for seed in range(plan.seeds) for share in setting.shares]
        contenders = [cell for contest in contests for cell in contest.cells()]
        return [_measured_reference(plan, dataset), *contenders, _timed_again([c.key for c in contenders], plan.seeds)]

    return Table("joint", "searched detectors beside scaled YOLOs and random search, at three latencies", cells, text)


def text(known: Mapping[str, Figures]) -> str:
    """Means over seeds; a contender that found nothing within the budget on a seed says so."""
    timed = next((figures for key, figures in known.items() if key.startswith(TIMED)), {})
    reference = timed.get(REFERENCE) or known.get(REFERENCE, {}).get("latency_ms")
    lines = ["joint: mAP50 and mAP of the artifact within a latency, on the validation split and on the test split, means over seeds"]
    scores = "".join(f"{name:>7}" for name in ("mAP50", "mAP", "test", "test"))
    lines.append(f"{'budget ms':>10}  {'contender':<14}{scores}{'ms':>8}{'MB':>7}{'epochs':>12}{'seeds':>7}  within")
    rows: dict[tuple[float, str], list[Figures]] = {}
    for key, figures in known.items():
        if key == REFERENCE or key.startswith(TIMED):
            continue
        times, _, rest = key.partition("-")
        share = float(times.removeprefix("x"))
        if reference and key in timed:
            figures = {**figures, "latency_ms": timed[key], "met": timed[key] <= share * reference}
        rows.setdefault((share, rest.rpartition("-")[0]), []).append(figures)
    for (share, contender), found in rows.items():
        budget = f"{share * reference:.2f}" if reference else f"x{share:g}"
        lines.append(f"{budget:>10}  {contender:<14}{_row(found)}")
    return "\n".join(lines)


def _row(found: Sequence[Figures]) -> str:
    """One contender at one budget, of every seed."""
    good = [figures for figures in found if "failed" not in figures]
    if not good:
        return f" {found[0]['failed']}"
    mean = {name: fmean(figures[name] for figures in good) for name in ("map50", "map", "latency_ms", "size_mb", "float", "quantized")}
    test = "".join(f"{fmean(figures[name] for figures in good):>7.3f}" if name in good[0] else f"{'-':>7}"
                   for name in ("test_map50", "test_map"))  # fmt: skip
    epochs, within = f"{mean['float']:.0f} + {mean['quantized']:.0f}", sum(figures["met"] for figures in good)
    return (f"{mean['map50']:>7.3f}{mean['map']:>7.3f}{test}{mean['latency_ms']:>8.2f}{mean['size_mb']:>7.2f}"
            f"{epochs:>12}{len(good):>7}  {within} of {len(found)}")  # fmt: skip


JOINT = table(Setting())
