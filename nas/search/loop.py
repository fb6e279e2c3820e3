"""The loop: asks a searcher, evaluates cheap columns first, spends the budget on what fits, writes the study, tells the searcher.

The trials depend on the searcher's seed alone. They are asked in batches of `searcher.batch`, whatever the number of workers, told in the
order of asking, and on resume the same searcher is driven through the trials of the study again before it goes on with new ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from nas.objectives import Evaluation, Objective, describe_misses, violations
from nas.search.core import Searcher, SearchError, SpaceExhausted
from nas.search.workers import Result, Workers
from nas.study import Study, StudyError, Trial
from searchspaces.space import Arch

ATTEMPTS_PER_TRIAL = 50   # cheap attempts for each unit of the budget
PATIENCE = 4000           # attempts without anything feasible and without a nearer miss, after which a search is infeasible

OnTrial = Callable[[Trial], None]


class Infeasible(SearchError):
    """No candidate met every limit. `nearest` came closest, `misses` has its relative excess by column, `best` the best value of each
    limited column over all candidates."""

    def __init__(self, message: str, nearest: Trial, misses: dict[str, float], best: dict[str, float]) -> None:
        super().__init__(message)
        self.nearest = nearest
        self.misses = misses
        self.best = best


@dataclass(frozen=True)
class Outcome:
    """Why a search ended: its "budget" was spent, its cheap "attempts" were used up, or the "space" has no more networks."""

    ended: str
    spent: int          # expensive evaluations, the study's earlier ones included
    attempts: int       # trials altogether


def run(study: Study, searcher: Searcher, evaluation: Evaluation, budget: int, *, workers: int = 1,
        initializer: Callable[[], None] | None = None, attempts: int | None = None, patience: int = PATIENCE,
        on_trial: OnTrial | None = None) -> Outcome:
    """Search until `budget` trials have had their expensive evaluation (all their columns, where none is expensive).

    `searcher` is new: what the study holds is told to it. A candidate that misses the limit of a cheap column is recorded as
    infeasible and spends nothing; there are at most `attempts` (default 50 x budget) candidates altogether. `initializer` runs in
    every worker, or here where workers=1. `on_trial` sees every new trial as soon as it is recorded, in order of completion.

    Raises Infeasible where nothing meets the limits, SearchError where every candidate failed, StudyError where the study cannot be
    written or was made with other settings.
    """
    if budget < 1:
        raise SearchError(f"a budget of {budget} trials: want one at least")
    limit = ATTEMPTS_PER_TRIAL * budget if attempts is None else attempts
    known = {trial.number: trial for trial in study.trials()}
    tally = _Tally(evaluation.objectives)
    ended = "budget"
    with Workers(evaluation, workers, initializer) as pool:
        round_ = _Round(study, evaluation, pool, on_trial)
        while tally.spent < budget:
            archs = _asked(searcher, min(searcher.batch, limit - tally.attempts))
            if not archs:
                ended = "attempts" if tally.attempts >= limit else "space"
                break
            for trial in round_.trials(tally.attempts, archs, known, budget - tally.spent):
                searcher.tell(trial)
                tally.add(trial)
            if tally.feasible == 0 and tally.idle >= patience:
                ended = "attempts"
                break
    if tally.feasible == 0:
        raise tally.failure()
    return Outcome(ended, tally.spent, tally.attempts)


class _Round:
    """One batch of candidates at a time, from archs to recorded trials."""

    def __init__(self, study: Study, evaluation: Evaluation, pool: Workers, on_trial: OnTrial | None) -> None:
        self._study = study
        self._evaluation = evaluation
        self._pool = pool
        self._on_trial = on_trial

    def trials(self, first: int, archs: Sequence[Arch], known: dict[int, Trial], budget: int) -> list[Trial]:
        """The trials of the archs in order, up to the one that spends the last of the budget. `known` ones are not evaluated again."""
        done: dict[int, Trial] = {}
        for number, arch in enumerate(archs, first):
            if number in known:
                done[number] = _again(self._study, known[number], arch)
        todo = [(number, arch) for number, arch in enumerate(archs, first) if number not in done]
        cheap = dict(self._pool.evaluated("cheap", todo))
        drafts = {number: self._draft(number, arch, cheap[number]) for number, arch in todo}
        last = _last((drafts.get(number) or done[number] for number in range(first, first + len(archs))), budget)
        costly = []
        for number, draft in drafts.items():
            if number > last:
                break
            if draft.spent and self._evaluation.expensive is not None:
                costly.append((number, draft.arch))
            else:
                done[number] = self._recorded(draft)
        for number, result in self._pool.evaluated("expensive", costly):
            done[number] = self._recorded(self._completed(drafts[number], result))
        return [done[number] for number in range(first, last + 1)]

    def _draft(self, number: int, arch: Arch, result: Result) -> Trial:
        """The trial after its cheap evaluation; `spent` says that it goes on to the expensive one."""
        if result.error is not None:
            return Trial(number, arch, "failed", error=result.error, seconds=result.seconds)
        missed = violations(result.columns, self._evaluation.objectives)
        trial = Trial(number, arch, "infeasible" if missed else "ok", spent=not missed, seconds=result.seconds)
        return self._filled(trial, result.columns)

    def _completed(self, draft: Trial, result: Result) -> Trial:
        seconds = draft.seconds + result.seconds
        if result.error is not None:
            return replace(draft, state="failed", error=result.error, seconds=seconds)
        return self._filled(replace(draft, seconds=seconds), result.columns)

    def _filled(self, trial: Trial, columns: dict[str, float]) -> Trial:
        stable = {o.name for o in self._evaluation.objectives if o.deterministic}
        return replace(trial, columns={**trial.columns, **{k: v for k, v in columns.items() if k in stable}},
                       volatile={**trial.volatile, **{k: v for k, v in columns.items() if k not in stable}})

    def _recorded(self, trial: Trial) -> Trial:
        self._study.record(trial)
        if self._on_trial:
            self._on_trial(trial)
        return trial


class _Tally:
    """What the loop has seen so far, and what it says where nothing fits."""

    def __init__(self, objectives: Sequence[Objective]) -> None:
        self._objectives = objectives
        self.attempts = 0
        self.spent = 0
        self.feasible = 0
        self.idle = 0               # trials since the nearest miss came nearer
        self._nearest: tuple[float, Trial] | None = None
        self._error: str | None = None
        self._best: dict[str, float] = {}

    def add(self, trial: Trial) -> None:
        self.attempts += 1
        self.spent += trial.spent
        self.idle += 1
        if trial.state == "failed":
            self._error = self._error or f"trial {trial.number}: {trial.error}"
            return
        for o in self._objectives:
            if o.limit is not None and o.name in trial.columns:
                better = min if o.direction == "min" else max
                self._best[o.name] = better(self._best.get(o.name, trial.columns[o.name]), trial.columns[o.name])
        miss = sum(violations(trial.columns, self._objectives).values())
        self.feasible += miss == 0
        if self._nearest is None or miss < self._nearest[0]:
            self._nearest, self.idle = (miss, trial), 0

    def failure(self) -> SearchError:
        if self._nearest is None:
            return SearchError(f"each of {self.attempts} candidates failed; the first, {self._error}")
        trial = self._nearest[1]
        units = {o.name: o.unit for o in self._objectives}
        best = ", ".join(f"{name} {value:.4g} {units[name]}".rstrip() for name, value in self._best.items())
        message = (f"none of {self.attempts} candidates meets every limit. The nearest miss, trial {trial.number}: "
                   f"{describe_misses(trial.columns, self._objectives)}. The best of each alone: {best}")
        return Infeasible(message, trial, violations(trial.columns, self._objectives), self._best)


def _asked(searcher: Searcher, count: int) -> list[Arch]:
    archs: list[Arch] = []
    try:
        while len(archs) < count:
            archs.append(searcher.ask())
    except SpaceExhausted:
        pass
    return archs


def _again(study: Study, trial: Trial, arch: Arch) -> Trial:
    """The recorded trial for an arch that was asked again. Raises StudyError where the study holds another one under its number."""
    if trial.arch.key != arch.key:
        raise StudyError(f"{study.path}: trial {trial.number} is another network than this search asks for: the study was made with other "
                         "settings, another seed or another version; start a new study")
    return replace(trial, arch=arch)


def _last(trials: Iterable[Trial], budget: int) -> int:
    """Number of the trial that spends the last of the budget, or of the last one."""
    number = -1
    for trial in trials:
        number = trial.number
        budget -= trial.spent
        if budget == 0:
            break
    return number
