"""What a candidate of the search is judged by: costs counted or predicted from its graph, and the accuracy score of its proxies."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from hwmodels.device import Device
from hwmodels.energy import energy_mj
from hwmodels.flash import flash_bytes
from hwmodels.memory import arena
from hwmodels.workload import workload
from nas.objectives import Evaluation, Objective, limited, optimized, violations
from nas.search.core import Scores, SpaceExhausted, best_first
from nas.search.nsga2 import NSGA2
from nas.study import Trial
from searchspaces import SPACES, Arch, Graph
from searchspaces.deploy import DeployBuilder
from searchspaces.nano import FAMILIES, scaled
from searchspaces.space import Space
from searchspaces.yolo import PARTS, STAGES, precisions_of

if TYPE_CHECKING:
    from proxies import Probe

COLUMNS = (
    Objective("latency_ms", "ms"),
    Objective("latency_low_ms", "ms", optimized=False),
    Objective("latency_high_ms", "ms", optimized=False),
    Objective("ram_kib", "KiB", optimized=False),
    Objective("flash_kib", "KiB", optimized=False),
    Objective("size_mb", "MB", optimized=False),
    Objective("macs_m", "M", optimized=False),
    Objective("params_m", "M", optimized=False),
    Objective("score", "", "max", "expensive"),
    Objective("quant_noise", "dB", "max", "expensive", optimized=False),
    Objective("score_seconds", "s", "min", "expensive", optimized=False, deterministic=False),
)
ENERGY = Objective("energy_mj", "mJ")  # where it is asked for and the device prices it
KNOWN = {"w8a8": "silu", "w4a4": "silu", "w2a2": "relu"}  # precision of published networks that a search begins with -> activation
PROMISED, BEGUN = 40, 0.25  # candidates that are costed and believed for each one that is scored; share of scored ones that begin a search
_POPULATION = 100
FRONT = ("latency_ms", "score")  # what is optimized where nothing else is asked for
ALIKE = 0.03  # finalists whose predicted latencies differ by less than this are one choice, not two
# Of the noise at the outputs of a network of one bit-width throughout, what each part adds: later layers average earlier noise away.
# Taken by hand from quant_noise of three networks (W2A2 throughout, with 8-bit neck, with 8-bit neck and head).
_SHARE_OF_NOISE = {"head": 0.3, "neck": 0.6} | {f"stage{stage}": 0.025 for stage in STAGES}


def deploy_form(arch: Arch, classes: int) -> Graph:
    """The structure that will run on the device."""
    return SPACES[arch.space].build(arch, classes, DeployBuilder())


def columns(limits: Mapping[str, float], wanted: Sequence[str] = FRONT) -> tuple[Objective, ...]:
    """Every column of a trial, with the limits set and the `wanted` ones optimized; raises ObjectiveError for names that are none."""
    found = optimized((*COLUMNS[:-3], ENERGY, *COLUMNS[-3:]), wanted)
    return limited([o for o in found if o.name != ENERGY.name or o.optimized], limits)


@dataclass(frozen=True)
class Costs:
    """Columns known from the graph alone; milliseconds of work a candidate."""

    device: Device
    classes: int
    energy: bool = False

    def __call__(self, arch: Arch) -> Mapping[str, float]:
        graph = deploy_form(arch, self.classes)
        load = workload(graph)
        latency = self.device.predict(load)
        flash = flash_bytes(graph)
        return {
            "latency_ms": latency.mean_ms,
            "latency_low_ms": latency.low_ms,
            "latency_high_ms": latency.high_ms,
            "ram_kib": arena(graph).peak_bytes / 1024,
            "flash_kib": flash / 1024,
            "size_mb": flash / 1e6,
            "macs_m": load.macs / 1e6,
            "params_m": load.params / 1e6,
            **({ENERGY.name: energy_mj(load, self.device)} if self.energy else {}),
        }


@dataclass(frozen=True)
class Accuracy:
    """Columns that take a forward pass of an untrained net: the accuracy score of the search, or a proxy in its place.

    seen: what `proxy` looks at; '' is the combined score, which sees bits.  A proxy of which less is better is negated.
    """

    seen: Probe = field(repr=False)
    classes: int
    proxy: str = ""
    seed: int = 0

    def __call__(self, arch: Arch) -> Mapping[str, float]:
        from proxies import PROXIES, find, score
        from proxies.combine import estimate

        start = time.perf_counter()
        found = estimate(arch, self.classes, self.seed)
        value = found.score
        if self.proxy:
            chosen = find(self.proxy, PROXIES)
            value = score(chosen, arch, self.seen, seeds=(self.seed,)).number()
            value = value if chosen.higher_is_better else -value
        return {"score": value, "quant_noise": found.snr_db, "score_seconds": time.perf_counter() - start}


@dataclass(frozen=True)
class Promise:
    """What the accuracy score may come to, from a candidate's structure and the bits of its genes, without a forward pass; as a logit.

    What screening ranks candidates by, and what the surrogate begins with and learns the difference to; a few milliseconds each.
    """

    classes: int

    def __call__(self, archs: Sequence[Arch], columns: Sequence[Mapping[str, float]]) -> np.ndarray:
        scores = np.array([self.of(arch) for arch in archs])
        return np.log(scores / (1 - scores))

    def of(self, arch: Arch) -> float:
        """The same as a score."""
        from proxies.combine import SNR_AT, architecture_term, drop
        from proxies.structure import structure_of

        snr = {part: min((SNR_AT[p] for p in precisions_of(arch, part)), default=SNR_AT["fp32"]) for part in PARTS}
        noise = sum(_SHARE_OF_NOISE[part] * 10 ** (-snr[part] / 10) for part in PARTS)
        g = DeployBuilder()
        graph = SPACES[arch.space].build(arch, self.classes, g)
        term = architecture_term(structure_of(graph, workload(graph), g.saved))
        return float(np.clip(term * (1 - drop(-10 * np.log10(noise))), 1e-3, 1 - 1e-3))


def published(space: Space, judge: Evaluation, classes: int) -> list[Arch]:
    """What a search begins with, for nobody wants less than what is known: of each nano family at 8, 4 and 2 bits throughout, where the
    space has them, the scaled network of most promise within the limits, if there is one.  Two bits come with ReLU, more with SiLU.
    """
    offered = next(choice.options for choice in space.choices if choice.name.endswith(".precision"))
    promise, found = Promise(classes), dict[Arch, None]()
    for block, (precision, act) in product(FAMILIES.values(), KNOWN.items()):
        if precision not in offered:
            continue
        within = [(arch, row) for arch in scaled(space, block, act, precision) if (row := _costs_within(judge, arch))]
        if within:
            archs, rows = zip(*within)
            found[archs[int(promise(archs, rows).argmax())]] = None
    return list(found)


def promised(
    space: Space, judge: Evaluation, classes: int, budget: int, seed: int, note: Callable[[], object] = lambda: None
) -> list[Arch]:
    """What a search of so large a budget begins with besides: the networks of most promise within the limits, best first.

    NSGA-II over the objectives of the search, with the promise in place of the score: PROMISED candidates for each one that is scored, a
    few milliseconds each.  `note` is called after each.
    """
    promise, rng = Promise(classes), np.random.default_rng([seed, budget])
    evolution, found = NSGA2(space, judge.objectives, rng=rng, population=_POPULATION), list[Trial]()
    for number in range(PROMISED * budget):
        try:
            arch = evolution.ask()
        except SpaceExhausted:
            break
        trial = _believed(number, arch, judge, promise)
        evolution.tell(trial)
        if trial.state == "ok":
            found.append(trial)
        note()
    scores = Scores(judge.objectives)
    values = np.array([scores.values(trial) for trial in found]).reshape(len(found), scores.width)
    return [found[i].arch for i in best_first(values, np.zeros(len(found)))[: max(1, round(BEGUN * budget))]]


def _believed(number: int, arch: Arch, judge: Evaluation, promise: Promise) -> Trial:
    """A candidate with its cheap columns and, where these keep the limits, its promise as the score."""
    try:
        row = dict(judge.cheap(arch))
    except ValueError as why:
        return Trial(number, arch, "failed", error=str(why))
    missed = violations(row, [o for o in judge.objectives if o.cost == "cheap"])
    return Trial(number, arch, "infeasible" if missed else "ok", row if missed else row | {"score": promise.of(arch)})


def _costs_within(judge: Evaluation, arch: Arch) -> Mapping[str, float]:
    """The cheap columns; none where a limit is missed or the device cannot price the network."""
    try:
        row = judge.cheap(arch)
    except ValueError:
        return {}
    return {} if violations(row, judge.objectives) else row


def evaluation(
    device: Device, classes: int, seen: Probe, limits: Mapping[str, float], *, wanted: Sequence[str] = FRONT, proxy: str = "", seed: int = 0
) -> Evaluation:
    """Objectives, limits and the functions behind them; picklable, so that worker processes can take it."""
    objectives = columns(limits, wanted)
    costs = Costs(device, classes, any(o.name == ENERGY.name for o in objectives))
    return Evaluation(objectives, costs, Accuracy(seen, classes, proxy, seed))


def ranked(candidates: Sequence[Trial]) -> Iterator[Trial]:
    """Candidates for finalists: by score, those first whose predicted latency tells them apart; then the rest, by score."""
    by_score = sorted(candidates, key=lambda trial: (-trial["score"], trial.number))
    first: list[Trial] = []
    for trial in by_score:
        if all(abs(trial["latency_ms"] / other["latency_ms"] - 1) > ALIKE for other in first):
            first.append(trial)
    yield from first
    yield from (trial for trial in by_score if trial not in first)
