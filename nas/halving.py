"""Successive halving between the search and the finalists: many candidates for a few epochs, the better third of them for more.

Jamieson and Talwalkar 2016 (arXiv:1502.07943).  A rung is the recipe at a share of its epochs.  Its float epochs are kept: training stops
in the middle of the recipe's schedule and goes on from there, so a finalist ends with the weights of one that was trained at once.  Its
quantized epochs are a branch, since what is compared is mAP at the bits of the genes: it is measured and dropped.

The first half of those that enter come by score and start from random weights.  The others are chosen one by one, by the growth of the
front that the predictor expects of what was trained so far (learned_accuracy.py), and start from the weights of the nearest of the first
half.  So no candidate has more than one donor behind it; who goes on is decided at equal epochs, a donor's counted by the share it gave.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from nas.candidates import ranked
from nas.finalist import Note, train_net, train_quantized
from nas.learned_accuracy import LearnedAccuracy, Measured, Traits
from nas.model import Model, load, save
from nas.objectives import Objective
from nas.progress import Progress
from nas.search.acquisition import hypervolume_gain
from nas.search.latent import level
from nas.search.surrogate import beyond
from nas.study import Study, Trial
from nas.train import History, TrainSettings, coco_map, predict
from nas.train.inherit import Inherited, inherit
from searchspaces import SPACES, Graph, Weights
from searchspaces.module import to_torch
from searchspaces.quantizers import floated, quantized
from searchspaces.rewrite import is_float, merge_rep

if TYPE_CHECKING:
    from nas.job import Run

ETA = 3  # one candidate in so many goes on, to so many times the epochs
DONOR = "donor.safetensors"  # a candidate's weights at the end of the first rung, for later ones to start from
Fits = Callable[[Trial], bool]


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """What a candidate started from: random weights, or those of the trial `donor`, which gave a `share` 0..1 of its numbers and so much
    training, in recipes."""

    donor: int | None = None
    share: float = 0.0
    given: float = 0.0


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """What one candidate reached at one rung.

    epochs      of float training that it has had, those of lower rungs included; `done` in recipes
    quantized   epochs of the branch that was measured and dropped; 0 for a float network
    map, map50  on the validation split, of the branch
    """

    trial: int
    rung: int  # from 1
    entry: int  # its place among those that entered the first rung, from 0
    start: Start
    epochs: int
    done: float
    quantized: int
    map: float
    map50: float

    @property
    def behind(self) -> float:
        """Float training that its weights have behind them, in recipes."""
        return self.done + self.start.given


class Promotion(msgspec.Struct, frozen=True, kw_only=True):
    """Everybody on a rung in the `order` in which they go on from it, and what was expected of them at the end of the whole recipe:
    trial -> (mAP, lower and upper end of its 90 % interval)."""

    rung: int
    order: tuple[int, ...]
    expected: dict[int, tuple[float, float, float]]


@dataclass(frozen=True)
class Rung:
    """`candidates` at most are trained here, up to `share` of the recipe's epochs."""

    number: int
    candidates: int
    share: float

    def of(self, epochs: int) -> int:
        return max(1, round(self.share * epochs))


def ladder(entrants: int, finalists: int) -> tuple[Rung, ...]:
    """The rungs below the whole recipe; none where no candidate has to be dropped."""
    sizes = [entrants]
    while sizes[-1] > finalists:
        sizes.append(max(finalists, ceil(sizes[-1] / ETA)))
    return tuple(Rung(k, size, float(ETA) ** (k - len(sizes))) for k, size in enumerate(sizes[:-1], 1))


def standings(study: Study) -> list[Standing]:
    """All of a study: by rung, in the order in which candidates entered the first."""
    found = [msgspec.convert(payload, Standing) for name, payload in study.stages().items() if name.startswith("rung:")]
    return sorted(found, key=lambda s: (s.rung, s.entry))


def promotions(study: Study) -> list[Promotion]:
    """Those of the rungs that were finished, by rung."""
    payloads = [payload for name, payload in study.stages().items() if name.startswith("promotion:")]
    return sorted((msgspec.convert(payload, Promotion, str_keys=True) for payload in payloads), key=lambda p: p.rung)


def climb(run: Run, study: Study, fits: Fits, progress: Progress) -> list[Trial]:
    """Every candidate in the order in which it may become a finalist: who came farthest first, then who was never trained, by score.

    `fits` says whether an untrained candidate meets the limits when it is measured.  Goes on where an earlier call was cut off.
    """
    trials = {trial.number: trial for trial in run.trials}
    predictor = Predictor(run, study)
    known = {p.rung: p for p in promotions(study)}
    for rung in ladder(run.settings.halving, run.settings.finalists):
        if rung.number not in known:
            climber = _Climber(run, study, rung, progress)
            if rung.number == 1:
                climber.enter(_by_rank(run), predictor, fits)
            else:
                climber.go_on([trials[number] for number in known[rung.number - 1].order[: rung.candidates]])
            known[rung.number] = predictor.promotion(rung.number)
            study.finish_stage(f"promotion:{rung.number}", msgspec.to_builtins(known[rung.number]))
    order = dict.fromkeys(number for rung in sorted(known, reverse=True) for number in known[rung].order)
    return [trials[number] for number in order] + [trial for trial in ranked(run.front) if trial.number not in order]


def _by_rank(run: Run) -> Iterator[Trial]:
    """The front by rank, then what else is within the limits."""
    held = {trial.number for trial in run.front}
    yield from ranked(run.front)
    yield from ranked([trial for trial in run.within if trial.number not in held])


class Predictor:
    """What the study has learned of accuracy so far, read anew from its standings whenever it is asked."""

    def __init__(self, run: Run, study: Study) -> None:
        self._run, self._study = run, study
        self._within = {trial.number: trial for trial in run.within}

    @cached_property
    def _traits(self) -> Traits:
        return Traits(list(self._within.values()), len(self._run.data.classes), believed=not self._run.settings.proxy)

    def _learned(self, found: Sequence[Standing]) -> LearnedAccuracy:
        return LearnedAccuracy(self._traits, [Measured(s.trial, s.behind, s.map) for s in found])

    def promotion(self, rung: int) -> Promotion:
        found = [s for s in standings(self._study) if s.rung <= rung]
        here = [s.trial for s in found if s.rung == rung]
        guesses = dict(zip(here, self._learned(found).guesses(here, 1.0))) if here else {}
        best = sorted(here, key=lambda number: -guesses[number].mean)  # of equals the first to enter
        return Promotion(rung=rung, order=tuple(best), expected={n: (g.mean, g.low, g.high) for n, g in guesses.items()})

    def next(self, left_out: Collection[int], behind: float) -> Trial | None:
        """The candidate by which the front of what was trained is expected to grow most, after so much of the recipe; None where none is
        left.  The front is that of mAP and of the first objective that is known beforehand (Emmerich et al. 2011, as in the surrogate);
        of mAP alone where one finalist is asked for, which is to be the best.
        """
        found = standings(self._study)
        done, left = [s.trial for s in found], [number for number in self._within if number not in left_out]
        if not left:
            return None
        known = [o for o in self._run.objectives if o.optimized and o.cost == "cheap"] if self._run.settings.finalists > 1 else []
        cost = known[0] if known else None
        learned, costs = self._learned(found), self._costs(cost, [*done, *left])
        mean, sd = learned.levels(left, behind)
        front = np.column_stack((costs[: len(done)], learned.levels(done, behind)[0]))
        reach = (float(np.ptp(costs)) or 1.0) * (beyond(cost) if cost is not None else 1.0)
        gains = hypervolume_gain(
            np.column_stack((costs[len(done) :], mean)), np.column_stack((np.zeros(len(left)), sd)), front,
            (float(costs.max()) + reach, 0.0),
        )  # fmt: skip
        return self._within[left[int(gains.argmax())]]

    def _costs(self, cost: Objective | None, numbers: Sequence[int]) -> np.ndarray:
        """(n,) levels of a column that is known beforehand; zeros where there is none."""
        if cost is None:
            return np.zeros(len(numbers))
        return level(cost, np.array([self._within[number][cost.name] for number in numbers]))


class _Climber:
    """One rung, as it is being climbed."""

    def __init__(self, run: Run, study: Study, rung: Rung, progress: Progress) -> None:
        self._run, self._study, self._rung, self._progress = run, study, rung, progress

    def _done(self) -> list[Standing]:
        return [s for s in standings(self._study) if s.rung == self._rung.number]

    def enter(self, queue: Iterator[Trial], predictor: Predictor, fits: Fits) -> None:
        """Fill the first rung with what fits."""
        seen = {s.trial for s in self._done()}
        while (entry := len(self._done())) < self._rung.candidates:
            by_rank = entry < ceil(self._rung.candidates / 2)
            trial = next((t for t in queue if t.number not in seen), None) if by_rank else predictor.next(seen, self._rung.share)
            if trial is None:
                return
            seen.add(trial.number)
            if fits(trial):
                self._train(trial, entry, Start() if by_rank else self._nearest(trial))

    def go_on(self, members: Sequence[Trial]) -> None:
        entered, done = {s.trial: s for s in standings(self._study) if s.rung == 1}, {s.trial for s in self._done()}
        for trial in members:
            if trial.number not in done:
                self._train(trial, entered[trial.number].entry, entered[trial.number].start)

    def _nearest(self, trial: Trial) -> Start:
        """Of those that started from random weights the one that has most to give."""
        graph = self._graph(trial)
        weights = to_torch(floated(graph)).weights()
        shares = {s: self._heir(graph, weights, s.trial).share for s in self._done() if s.start.donor is None}
        donor, share = max(shares.items(), key=lambda pair: pair[1])
        return Start(donor=donor.trial, share=share, given=share * donor.done)

    def _heir(self, graph: Graph, weights: Weights, donor: int) -> Inherited:
        model = load(self._run.folder(donor) / DONOR)
        return inherit(floated(graph), weights, floated(model.graph), model.weights)

    def _graph(self, trial: Trial) -> Graph:
        return SPACES[trial.arch.space].build(trial.arch, len(self._run.data.classes))

    def _train(self, trial: Trial, entry: int, start: Start) -> None:
        """Bring a candidate to the end of this rung, from where it is, and note its standing."""
        data, recipe, folder, number = self._run.data, self._run.settings.recipe, self._run.folder(trial.number), self._rung.number
        graph, size = self._graph(trial), int(trial.arch["resolution"])
        has_bits = not is_float(quantized(graph))
        whole = recipe.for_float(size, data, has_bits)
        epochs, branch = self._rung.of(whole.epochs), self._rung.of(recipe.qat_epochs) if has_bits else 0
        donor = start.donor
        begin = None if donor is None else lambda weights: self._heir(graph, weights, donor).weights
        with self._progress.task(f"rung {number}, {trial.number}", epochs + branch) as task:
            note: Note = lambda stage, record: task.advance(1)  # noqa: E731
            net, _ = train_net(graph, data, whole, folder / "float", note, begin, until=epochs)
            if number == 1 and donor is None:
                save(Model(graph, net.weights(), data.classes, "float"), folder / DONOR)
            if has_bits:
                merged = Model(*merge_rep(graph, net.weights()), data.classes, "float")
                settings = _shortened(recipe.for_qat(size, data), branch)
                model, _ = train_quantized(merged, data, settings, recipe.qat, folder / f"rung{number}", note)
                net = to_torch(quantized(model.graph), model.weights).eval()
            found = coco_map(data.val, predict(net, data.val, size, len(data.classes), accelerator=whole.accelerator), data.classes)
        standing = Standing(
            trial=trial.number, rung=number, entry=entry, start=start, epochs=epochs, done=epochs / whole.epochs, quantized=branch,
            map=found.map, map50=found.map50,
        )  # fmt: skip
        self._study.finish_stage(f"rung:{number}:{trial.number:05d}", msgspec.to_builtins(standing))
        shutil.rmtree(folder / f"rung{number}", ignore_errors=True)
        self._progress.say(f"rung {number}, trial {trial.number}: mAP {found.map:.3f} after {epochs} + {branch} epochs")


def _shortened(settings: TrainSettings, epochs: int) -> TrainSettings:
    """The same schedule in fewer epochs, evaluated afterwards."""
    warmup = settings.warmup_epochs * epochs / settings.epochs
    return msgspec.structs.replace(settings, epochs=epochs, warmup_epochs=warmup, close_mosaic=epochs, val_every=0)


def epochs_trained(run: Run) -> dict[str, int]:
    """Epochs of the whole study so far by kind, 'float' and 'quantized', those of dropped candidates and branches included."""
    found, finalists = run.standings, [f.trial for f in run.finalists]
    floats = {s.trial: s.epochs for s in found}  # by rung, so the last one stays
    floats |= {number: epochs for number in finalists if (epochs := _epochs(run.folder(number), "float"))}
    low = sum(s.quantized for s in found) + sum(_epochs(run.folder(number), "quantized") for number in finalists)
    return {"float": sum(floats.values()), "quantized": low}


def _epochs(folder: Path, stage: str) -> int:
    path = folder / f"{stage}.history.json"
    return len(msgspec.json.decode(path.read_bytes(), type=History).epochs) if path.exists() else 0
