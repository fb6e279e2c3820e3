"""Searchers of other libraries, each at its best reasonable settings, asked and told like ours: pymoo, Optuna, NNI.

None of them is needed by the toolkit; `pip install 'edgenas[peers]'` brings them.  All follow one rule (nas/search/foreign.py): a network
that is proposed again costs nothing, one that does not exist is replaced by the nearest that does.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from nas.objectives import Objective
from nas.search.core import Scores, Searcher, SearchError, SpaceExhausted
from nas.search.foreign import Ended, Foreign, Repair
from nas.study import Trial
from searchspaces.space import Arch, Choice, Genes, Space

POPULATION = 20
_FAILED = 1e9       # objectives and violation of a network that could not be evaluated


def nearest(space: Space, archs: Iterable[Arch]) -> Repair:
    """A repair towards the given networks: fewest genes changed first, then the shortest way along the options; ties by order."""
    table = np.stack([space.encode(arch) for arch in archs])
    known = {row.tobytes() for row in table}
    reach = np.maximum(space.sizes - 1, 1)

    def repair(genes: Genes) -> Genes:
        if np.ascontiguousarray(genes).tobytes() in known:
            return genes
        apart = np.abs(table - genes)
        return np.asarray(table[((apart > 0) + apart / (reach * len(reach))).sum(axis=1).argmin()])

    return repair


class PymooNSGA2(Foreign):
    """pymoo's NSGA-II (github.com/anyoptimization/pymoo) as its guide sets it up for discrete variables."""

    def __init__(self, space: Space, objectives: Sequence[Objective], *, seed: int, repair: Repair | None = None,
                 population: int = POPULATION) -> None:
        super().__init__(space, np.random.default_rng(seed), batch=1, repair=repair)
        self._scores = Scores(objectives)
        self._problem = _pymoo_problem(space, self._scores.width)
        self._algorithm = _pymoo_algorithm(population)
        self._algorithm.setup(self._problem, termination=("n_gen", 10**9), seed=seed, verbose=False)
        self._offspring: Any = None
        self._next = 0
        self._left = 0

    def _propose(self) -> tuple[int, Genes]:
        if self._offspring is None or self._next == len(self._offspring):
            if self._left:
                raise SpaceExhausted("pymoo waits for the rest of a generation")
            self._breed()
        ticket = self._next
        self._next += 1
        return ticket, np.asarray(self._offspring[ticket].X, dtype=np.int64)

    def _breed(self) -> None:
        self._offspring, self._next = self._algorithm.ask(), 0
        if self._offspring is None or len(self._offspring) == 0:
            raise Ended
        self._left = len(self._offspring)
        self._values = np.zeros((self._left, self._scores.width))
        self._violations = np.zeros((self._left, 1))

    def _settle(self, ticket: int, trial: Trial) -> None:
        from pymoo.core.evaluator import Evaluator
        from pymoo.problems.static import StaticProblem

        known = trial.state != "failed"
        self._values[ticket] = self._scores.values(trial) if known else [_FAILED] * self._scores.width
        self._violations[ticket] = self._scores.violation(trial) if known else _FAILED
        self._left -= 1
        if self._left == 0:
            told = StaticProblem(self._problem, F=self._values, G=self._violations)
            Evaluator().eval(told, self._offspring)
            self._algorithm.tell(infills=self._offspring)


def _pymoo_problem(space: Space, width: int, evaluate: Callable[[Genes], np.ndarray] | None = None) -> Any:
    from pymoo.core.problem import Problem

    class Genome(Problem):
        def __init__(self) -> None:
            constraints = 0 if evaluate else 1
            super().__init__(n_var=len(space.choices), n_obj=width, n_ieq_constr=constraints, xl=0, xu=space.sizes - 1, vtype=int)

        def _evaluate(self, x: Genes, out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
            if evaluate is not None:
                out["F"] = evaluate(x)

    return Genome()


def _pymoo_algorithm(population: int) -> Any:
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.operators.crossover.sbx import SBX
    from pymoo.operators.mutation.pm import PM
    from pymoo.operators.repair.rounding import RoundingRepair
    from pymoo.operators.sampling.rnd import IntegerRandomSampling

    rounded = RoundingRepair()
    return NSGA2(pop_size=population, sampling=IntegerRandomSampling(), crossover=SBX(prob=1.0, eta=3.0, vtype=float, repair=rounded),
                 mutation=PM(prob=1.0, eta=3.0, vtype=float, repair=rounded), eliminate_duplicates=True)


class OptunaPeer(Foreign):
    """An Optuna sampler (github.com/optuna/optuna); ordered genes are integers to it, the others categories."""

    def __init__(self, space: Space, objectives: Sequence[Objective], sampler: Any, *, seed: int,
                 repair: Repair | None = None) -> None:
        import optuna

        super().__init__(space, np.random.default_rng(seed), batch=1, repair=repair)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._scores = Scores(objectives)
        self._limited = any(objective.limit is not None for objective in objectives)
        self._study = optuna.create_study(directions=["minimize"] * self._scores.width, sampler=sampler)
        self._distributions = {choice.name: _distribution(choice) for choice in space.choices}
        self._failed = optuna.trial.TrialState.FAIL

    def _propose(self) -> tuple[Any, Genes]:
        ticket = self._study.ask(self._distributions)
        return ticket, np.array([ticket.params[choice.name] for choice in self._space.choices], dtype=np.int64)

    def _settle(self, ticket: Any, trial: Trial) -> None:
        if trial.state == "failed":
            self._study.tell(ticket, state=self._failed)
        else:
            if self._limited:
                ticket.set_constraint("violation", self._scores.violation(trial))
            self._study.tell(ticket, self._scores.values(trial))


def _distribution(choice: Choice) -> Any:
    from optuna.distributions import CategoricalDistribution, IntDistribution

    ordered = all(isinstance(option, int | float) for option in choice.options)
    last = len(choice.options) - 1
    return IntDistribution(0, last) if ordered else CategoricalDistribution(tuple(range(last + 1)))


def _optuna_nsga2(space: Space, objectives: Sequence[Objective], seed: int, repair: Repair | None) -> Searcher:
    from optuna.samplers import NSGAIISampler

    sampler = NSGAIISampler(population_size=POPULATION, seed=seed)
    return OptunaPeer(space, objectives, sampler, seed=seed, repair=repair)


def _optuna_tpe(space: Space, objectives: Sequence[Objective], seed: int, repair: Repair | None) -> Searcher:
    from optuna.samplers import TPESampler

    sampler = TPESampler(seed=seed, multivariate=True)
    return OptunaPeer(space, objectives, sampler, seed=seed, repair=repair)


def _nni(name: str) -> Callable[..., Searcher]:
    def make(space: Space, objectives: Sequence[Objective], seed: int, repair: Repair | None) -> Searcher:
        from nas.nni_bridge import searcher_from_nni

        return searcher_from_nni(name, space, objectives, seed=seed, batch=1, repair=repair)

    return make


@dataclass(frozen=True)
class Peer:
    """How one is made, and the package it comes from."""

    make: Callable[..., Searcher]       # (space, objectives, seed, repair)
    package: str


PEERS: dict[str, Peer] = {
    "pymoo-nsga2": Peer(lambda space, objectives, seed, repair: PymooNSGA2(space, objectives, seed=seed, repair=repair), "pymoo"),
    "optuna-nsga2": Peer(_optuna_nsga2, "optuna"),
    "optuna-tpe": Peer(_optuna_tpe, "optuna"),
    "nni-evolution": Peer(_nni("RegularizedEvolution"), "nni"),
    "nni-tpe": Peer(_nni("TPE"), "nni"),
}


def available() -> dict[str, bool]:
    """Every peer, and whether its package is installed."""
    return {name: find_spec(peer.package) is not None for name, peer in PEERS.items()}


def peer(name: str, space: Space, objectives: Sequence[Objective], seed: int, *, repair: Repair | None = None) -> Searcher:
    """A new peer by name.  Raises SearchError for an unknown one and for one whose package is not installed."""
    if name not in PEERS:
        raise SearchError(f"no peer '{name}'; there are {', '.join(PEERS)}")
    if find_spec(PEERS[name].package) is None:
        raise SearchError(f"{name} needs the package {PEERS[name].package}: pip install 'edgenas[peers,nni]'")
    return PEERS[name].make(space, objectives, seed, repair)


@dataclass(frozen=True)
class Throughput:
    """Evaluations a CPU second of NSGA-II on a cheap objective, ours asked and told one by one, pymoo's evaluated by generations."""

    genes: int
    population: int
    ours_per_s: float
    pymoo_per_s: float | None       # None where it is not installed


def throughput(genes: int = 60, options: int = 5, evaluations: int = 30_000, population: int = 100, seed: int = 0) -> Throughput:
    """Two objectives over (genes,) option numbers: the sum of the first half, and the distance of the others from their middle."""
    from nas.search.nsga2 import NSGA2

    space = Space("cheap", tuple(Choice(f"g{i}", tuple(range(options))) for i in range(genes)), _no_graph)
    objectives = (Objective("f1", ""), Objective("f2", ""))
    ours = NSGA2(space, objectives, rng=np.random.default_rng(seed), population=population)
    half, middle = genes // 2, options // 2
    start = time.process_time()
    for first in range(0, evaluations, population):
        archs = [ours.ask() for _ in range(population)]
        for number, arch in enumerate(archs, first):
            row = list(arch.genes.values())
            columns = {"f1": float(sum(row[:half])), "f2": float(abs(sum(row[half:]) - middle * (genes - half)))}
            ours.tell(Trial(number, arch, "ok", columns))
    ours_s = time.process_time() - start
    if find_spec("pymoo") is None:
        return Throughput(genes, population, evaluations / ours_s, None)
    from pymoo.optimize import minimize

    def evaluate(x: Genes) -> np.ndarray:
        return np.stack([x[:, :half].sum(axis=1), np.abs(x[:, half:].sum(axis=1) - middle * (genes - half))], axis=1).astype(float)

    start = time.process_time()
    minimize(_pymoo_problem(space, 2, evaluate), _pymoo_algorithm(population), ("n_eval", evaluations), seed=seed, verbose=False)
    return Throughput(genes, population, evaluations / ours_s, evaluations / (time.process_time() - start))


def _no_graph(arch: Arch, classes: int) -> Any:
    raise SearchError("this space is for timing searchers alone")


logging.getLogger("optuna").setLevel(logging.ERROR)
