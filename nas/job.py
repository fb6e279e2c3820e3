"""The main job: search under hard limits, train and compile the finalists, measure what they really do, re-rank.

A run is a folder.  run.json holds the resolved settings, device.toml the device as it was, study.db every trial and every
finished step; resume goes on from whatever is there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import torch

from hwmodels.device import Device
from hwmodels.limits import priced
from hwmodels.workload import workload
from nas import pareto
from nas.candidates import ENERGY, FRONT, PROMISED, Promise, columns, evaluation, promised, published, ranked
from nas.data import Dataset
from nas.data import load as load_data
from nas.deploy.local import find_device
from nas.deploy.verify import Verification
from nas.finalist import (
    LAYER_LIMITS,
    Finalist,
    Recipe,
    develop,
    export_for_runtime,
    layer_bits,
    misses_untrained,
    verify,
    with_layer_bits,
)
from nas.halving import Promotion, Standing, climb, promotions, standings
from nas.model import load, write_whole
from nas.objectives import Evaluation, Objective, violations
from nas.progress import Progress, Silent
from nas.provenance import provenance
from nas.scoring import probe_of
from nas.search.loop import run as run_search
from nas.search.searchers import check as check_strategy
from nas.search.searchers import searcher
from nas.study import Study, Trial
from predictors import Estimate
from searchspaces import SPACES, Arch
from searchspaces.quantizers import quantized
from searchspaces.rewrite import deployed
from searchspaces.space import Space

if TYPE_CHECKING:
    from proxies.combine import Recalibration

EMBEDDED = "digits"  # the data set that is no path
BEGUN = "begun"  # the stage of a study in which what the surrogate begins with is known
TRIES_PER_FINALIST = 4  # candidates that are measured before the job gives up on finding another finalist


class JobError(ValueError):
    """A job that cannot be done as asked: says what was found and what would work."""


class NothingFits(JobError):
    """No artifact met the limits when it was measured: says which limit failed and by how much."""


class SearchSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `edgenas search` was asked for, resolved; limits in the units that close their names.

    halving: candidates that are trained for a few epochs, of which the better ones go on until `finalists` remain; 0 trains finalists
    alone.
    layer_bits: a finalist's layers get bits of their own once it is trained in float, those that it minds least within latency and size.
    objectives: columns of which the front is made; the surrogate takes two, with more NSGA-II asks.
    """

    data: str
    device: str = "local"
    space: str = "yolo"
    strategy: str = "surrogate"
    budget: int = 500
    finalists: int = 3
    halving: int = 0
    layer_bits: bool = False
    objectives: tuple[str, ...] = FRONT
    limits: dict[str, float] = {}
    proxy: str = ""
    workers: int = 1
    seed: int = 0
    recipe: Recipe = Recipe()


@dataclass(frozen=True)
class Run:
    """A run's folder, read.  `front` are the undominated feasible trials, `finalists` what was measured, best mAP50 first."""

    path: Path
    settings: SearchSettings

    @staticmethod
    def open(path: str | Path) -> Run:
        path = Path(path)
        try:
            settings = msgspec.json.decode((path / "run.json").read_bytes(), type=SearchSettings)
        except FileNotFoundError:
            raise JobError(f"no run in {path}: run.json is missing; edgenas search --out {path} starts one") from None
        except (msgspec.MsgspecError, OSError) as fault:
            raise JobError(f"{path / 'run.json'}: {fault}") from None
        return Run(path, settings)

    @cached_property
    def device(self) -> Device:
        return Device.load(self.path / "device.toml")

    @cached_property
    def data(self) -> Dataset:
        return load_data(self.settings.data)

    @property
    def trials(self) -> list[Trial]:
        with Study.open(self.path / "study.db") as study:
            return study.trials()

    @property
    def provenance(self) -> dict[str, Any]:
        with Study.open(self.path / "study.db") as study:
            return study.provenance

    @property
    def within(self) -> list[Trial]:
        """The scored trials that meet every limit, as predicted."""
        return [trial for trial in self.trials if trial.state == "ok" and not violations(trial.columns, self.objectives)]

    @property
    def front(self) -> list[Trial]:
        """Undominated in the objectives among the trials within every limit, fastest first."""
        within = self.within
        if not within:
            return []
        wanted = [o for o in self.objectives if o.optimized]
        kept = pareto.front([[trial[o.name] for o in wanted] for trial in within], [o.direction for o in wanted])
        return sorted((within[i] for i in kept), key=lambda trial: trial["latency_ms"])

    @property
    def objectives(self) -> tuple[Objective, ...]:
        return columns(self.settings.limits, self.settings.objectives)

    @property
    def finalists(self) -> list[Finalist]:
        with Study.open(self.path / "study.db") as study:
            stages = study.stages()
        found = [msgspec.convert(payload, Finalist) for name, payload in stages.items() if name.startswith("finalist:")]
        return sorted(found, key=lambda f: (not f.met, -(f.verified.map50 if f.verified else -1.0)))

    @property
    def standings(self) -> list[Standing]:
        """What candidates reached at each rung: by rung, in the order of entry."""
        with Study.open(self.path / "study.db") as study:
            return standings(study)

    @property
    def promotions(self) -> list[Promotion]:
        """Who went on from each rung that was finished, and what was expected of whom."""
        with Study.open(self.path / "study.db") as study:
            return promotions(study)

    @property
    def calibration(self) -> Recalibration | None:
        """From the search's score to mAP50, fitted to the finalists that were measured; None before the first."""
        from proxies.combine import recalibrated

        measured = [f for f in self.finalists if f.verified is not None]
        if not measured or self.settings.proxy:
            return None
        return recalibrated([f.predicted["score"] for f in measured], [_verified(f).map50 for f in measured])

    def folder(self, trial: int) -> Path:
        return self.path / "finalists" / f"{trial:05d}"

    def pick(self, which: str) -> Finalist:
        """'best' mAP50, 'fastest', 'knee' of both, or a trial number; among the verified finalists that met every limit."""
        good = [f for f in self.finalists if f.met]
        if not good:
            raise JobError(f"{self.path} has no verified finalist within the limits yet; edgenas resume {self.path} goes on with it")
        if which == "best":
            return good[0]
        if which == "fastest":
            return min(good, key=lambda f: _verified(f).latency_ms)
        if which == "knee":
            points = np.array([[_verified(f).latency_ms, -_verified(f).map50] for f in good])
            return good[pareto.knee(points)]
        for finalist in good:
            if str(finalist.trial) == which:
                return finalist
        numbers = ", ".join(str(f.trial) for f in good)
        raise JobError(f"no finalist '{which}' in {self.path}: best, fastest, knee or one of {numbers}")

    def export(self, pick: str = "knee", format: str = "edge", out: str | Path | None = None) -> Path:
        """Write one finalist as 'edge' or 'onnx'; the path written."""
        from nas.export import export_finalist

        return export_finalist(self, pick, format, None if out is None else Path(out))


def search(settings: SearchSettings, out: str | Path, progress: Progress | None = None) -> Run:
    """Start a run in a new folder and bring it to its end.  Raises Infeasible or NothingFits where nothing meets the limits."""
    progress = progress or Silent()
    path = Path(out)
    if (path / "run.json").exists():
        raise JobError(f"{path} holds a run already: edgenas resume {path} goes on with it; another --out starts a new one")
    _check(settings)
    wanted = tuple(o.name for o in columns(settings.limits, settings.objectives) if o.optimized)
    settings = msgspec.structs.replace(settings, objectives=wanted)
    if settings.data != EMBEDDED:  # a run is resumed from any folder
        settings = msgspec.structs.replace(settings, data=str(Path(settings.data).resolve()))
    dataset = load_data(settings.data)
    device = find_device(settings.device, progress)
    if ENERGY.name in settings.objectives and not device.prices_energy:
        raise JobError(f"device '{device.name}' has no price for energy: its file needs pj_per_mac (pJ by precision) and pj_per_byte, with "
                       "sources; no device that ships has them")  # fmt: skip
    if settings.layer_bits and "latency_ms" in settings.limits and not device.is_local and device.operators is None:
        raise JobError(f"device '{device.name}' prices whole networks and no single layer, so --layer-bits cannot mind its latency; "
                       "'local' and boards with operator costs do")  # fmt: skip
    path.mkdir(parents=True, exist_ok=True)
    write_whole(path / "device.toml", device.to_toml().encode())
    if not (path / "study.db").exists():
        with Study.create(path / "study.db", settings.space, msgspec.to_builtins(settings), provenance(dataset, device)):
            pass
    write_whole(path / "run.json", msgspec.json.format(msgspec.json.encode(settings)))
    return _proceed(Run(path, settings), progress)


def resume(path: str | Path, progress: Progress | None = None) -> Run:
    """Go on with a run; nothing that was finished is done again."""
    return _proceed(Run.open(path), progress or Silent())


def _check(settings: SearchSettings) -> None:
    """What can be known to be wrong before anything is measured or loaded."""
    if settings.space not in SPACES:
        raise JobError(f"no space '{settings.space}'; spaces: {', '.join(SPACES)}")
    check_strategy(settings.strategy)
    for name in ("budget", "finalists", "workers"):
        if getattr(settings, name) < 1:
            raise JobError(f"--{name} {getattr(settings, name)}: one at least")
    if settings.halving and settings.halving <= settings.finalists:
        raise JobError(f"--halving {settings.halving}: more candidates than --finalists {settings.finalists}, or 0 for none")
    if settings.layer_bits and not set(LAYER_LIMITS) & set(settings.limits):
        raise JobError("--layer-bits chooses within limits: give --max-latency, --max-size or both")
    if settings.recipe.epochs < 2:
        raise JobError(f"--epochs {settings.recipe.epochs}: two at least, one float and one quantized")
    if settings.proxy:
        from proxies import BROKEN_PLUGINS, PROXIES, find

        find(settings.proxy, PROXIES, BROKEN_PLUGINS)
    columns(settings.limits, settings.objectives)


def _proceed(run: Run, progress: Progress) -> Run:
    with Study.open(run.path / "study.db", writable=True) as study:
        _search(run, study, progress)
        _finalists(run, study, progress)
    if not any(f.met for f in run.finalists):
        raise NothingFits(_why_nothing_fits(run))
    return run


def one_thread() -> None:
    """Scores must not depend on how many workers share the machine."""
    torch.set_num_threads(1)


def _search(run: Run, study: Study, progress: Progress) -> None:
    settings = run.settings
    space = priced(SPACES[settings.space], run.device)
    judge = evaluation(
        run.device, len(run.data.classes), probe_of(run.data), settings.limits, wanted=settings.objectives, proxy=settings.proxy,
        seed=settings.seed,
    )  # fmt: skip
    believes = settings.strategy == "screening" or (settings.strategy == "surrogate" and not settings.proxy)
    belief = Promise(len(run.data.classes)) if believes else None
    known = _begun(run, study, space, judge, progress) if settings.strategy == "surrogate" else ()
    seeker = searcher(settings.strategy, space, judge.objectives, settings.seed, cheap=judge.cheap, belief=belief, known=known)
    threads = torch.get_num_threads()
    with progress.task("search", settings.budget, done=sum(t.spent for t in study.trials())) as task:
        run_search(
            study,
            seeker,
            judge,
            settings.budget,
            workers=settings.workers,
            initializer=one_thread,
            on_trial=lambda trial: task.advance(int(trial.spent)),
        )
    torch.set_num_threads(threads)


def _begun(run: Run, study: Study, space: Space, judge: Evaluation, progress: Progress) -> list[Arch]:
    """What the surrogate asks first, found once and kept in the study: published networks and, where the score counts, promised ones."""
    kept = study.stage(BEGUN)
    if kept is not None:
        return [Arch(space.name, genes) for genes in kept]
    settings, classes = run.settings, len(run.data.classes)
    archs = published(space, judge, classes)
    if "score" in settings.objectives and not settings.proxy:
        with progress.task("begin", PROMISED * settings.budget) as task:
            archs += promised(space, judge, classes, settings.budget, settings.seed, lambda: task.advance(1))
    study.finish_stage(BEGUN, [dict(arch.genes) for arch in archs])
    return archs


def _finalists(run: Run, study: Study, progress: Progress) -> None:
    """Take candidates in rank order until enough of them are verified within the limits."""
    settings = run.settings
    candidates = list(ranked(run.front))
    if settings.halving:
        candidates = climb(run, study, lambda trial: not _passed_over(run, study, trial, progress), progress)
    done = {f.trial: f for f in run.finalists}
    good = 0
    for trial in candidates[: TRIES_PER_FINALIST * settings.finalists]:
        if good >= settings.finalists:
            return
        finalist = done.get(trial.number) or _passed_over(run, study, trial, progress) or _finalist(run, study, trial, progress)
        good += finalist.met


def _passed_over(run: Run, study: Study, trial: Trial, progress: Progress) -> Finalist | None:
    """The candidate as a finalist that failed, where it misses a limit before it is trained."""
    if not run.device.is_local:
        return None
    why = misses_untrained(trial.arch, run.data, run.folder(trial.number), run.objectives)
    if not why:
        return None
    progress.say(f"trial {trial.number} is passed over: {why}")
    return _noted(study, Finalist(trial=trial.number, genes=dict(trial.arch.genes), predicted=dict(trial.columns), failed=why))


def _noted(study: Study, finalist: Finalist) -> Finalist:
    study.finish_stage(f"finalist:{finalist.trial:05d}", msgspec.to_builtins(finalist))
    return finalist


def _finalist(run: Run, study: Study, trial: Trial, progress: Progress) -> Finalist:
    settings, folder = run.settings, run.folder(trial.number)
    bits = partial(with_layer_bits, dataset=run.data, device=run.device, limits=settings.limits, folder=folder)
    with progress.task(f"train {trial.number}", settings.recipe.epochs) as task:
        artifact = develop(
            trial.arch,
            run.data,
            settings.recipe,
            folder,
            {"trial": trial.number, "run": run.path.name, "seed": settings.seed},
            lambda stage, record: task.advance(1, f"{stage} {_score(record.map50)}"),
            bits if settings.layer_bits else None,
        )
    if run.device.networks is not None:
        export_for_runtime(folder)
    predicted = Estimate(trial["latency_ms"], trial["latency_low_ms"], trial["latency_high_ms"])
    chosen = layer_bits(folder)
    if chosen:
        predicted = run.device.predict(workload(deployed(quantized(load(folder / "quantized.safetensors").graph))))
    result = verify(artifact, run.data, limits=settings.limits, predicted=predicted, elsewhere=not run.device.is_local)
    progress.say(
        f"trial {trial.number}: mAP50 {result.map50:.3f}, {_latency(run.device, result.latency_ms, predicted)}, "
        f"{result.size_mb:.2f} MB" + ("" if result.met else f" - fails: {_failures(result)}")
    )
    failed = "" if result.met else _failures(result)
    genes, known = dict(trial.arch.genes), dict(trial.columns)
    found = Finalist(trial=trial.number, genes=genes, predicted=known, verified=result, failed=failed, layer_bits=chosen)
    return _noted(study, found)


def _latency(device: Device, here_ms: float, predicted: Estimate) -> str:
    if device.is_local:
        return f"{here_ms:.2f} ms (predicted {predicted.mean_ms:.2f})"
    return f"{predicted.mean_ms:.2f} ms predicted on {device.name} ({here_ms:.2f} ms here)"


def _score(map50: float | None) -> str:
    return "" if map50 is None else f"mAP50 {map50:.3f}"


def _failures(result: Verification) -> str:
    failed = [f"{c.name} {c.value:.4g} is above {c.limit:.4g}" for c in result.constraints if not c.met]
    return "; ".join(failed if result.bit_exact else ["the artifact differs from the integer reference", *failed])


def _why_nothing_fits(run: Run) -> str:
    reasons = "; ".join(f"trial {f.trial}: {f.failed}" for f in run.finalists)
    return f"of {len(run.finalists)} finalists none met every limit when it was measured: {reasons}"


def _verified(finalist: Finalist) -> Verification:
    assert finalist.verified is not None
    return finalist.verified
