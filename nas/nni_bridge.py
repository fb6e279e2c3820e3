"""NNI (github.com/microsoft/nni, 3.0): its strategies and tuners as our searchers, our searchers as its strategies, its web page.

The only module that imports nni; it comes with `pip install 'edgenas[nni]'`, and everything else works without it.

    mutables(space), sample_of, arch_of      a Space as nni.mutable objects, and back
    searcher_from_nni("TPE", ...)            an NNI strategy or tuner that is asked and told, as nas.search.loop drives it
    SearcherStrategy("nsga2", ...)           one of our searchers as an nni.nas Strategy, for any space of categorical mutables
    nas.nni_experiment                       trials as an NNI experiment with its web page on the loopback address

What NNI 3.0 needs to work, found by trying: no framework set before nni.nas is imported; optimize_mode "maximize" for every tuner; metrics
that are one number, so vectors stay with us; mutables compared with .equals(); samples made of strings and integers.  Its TPE strategy
sleeps a second a model, so its tuners are called directly.  GP, Metis and PBT do not work with current versions of what they import.
"""

from __future__ import annotations

import logging
import random
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from nas.objectives import Evaluation, Objective
from nas.pareto import hypervolume
from nas.search.core import Scores, SearchError, SpaceExhausted
from nas.search.foreign import Ended, Foreign, Repair
from nas.study import Trial
from searchspaces.space import Arch, Choice, Genes, Space

try:
    import nni

    nni.set_default_framework("none")  # else the next import wants pytorch_lightning
    from nni.mutable import Categorical, LabeledMutable, Mutable, SampleValidationError
    from nni.nas.execution import ExecutionEngine
    from nni.nas.execution.event import FinalMetricEvent, ModelEventType, TrainingEndEvent
    from nni.nas.space import ExecutableModelSpace, ModelStatus
    from nni.nas.strategy import GridSearch, PolicyBasedRL, RegularizedEvolution
    from nni.nas.strategy import Random as RandomStrategy
    from nni.nas.strategy.base import Strategy
    from nni.nas.strategy.hpo import HPOTunerStrategy
    from nni.tuner import Tuner
except ImportError as missing:
    raise SearchError(f"NNI is not installed here ({missing}): pip install 'edgenas[nni]'") from missing

logging.getLogger("nni").setLevel(logging.ERROR)  # it logs every sample at level INFO

Sample = Mapping[str, Any]
Make = Callable[[Space, int], Any]  # space, seed -> Strategy or Tuner

_PATIENCE = 10  # proposals in a row of networks that were asked before, after which a random new one is asked


# ---------------------------------------------------------------------------------------------------------------- spaces
def _values(choice: Choice) -> list[Any]:
    """The options as NNI can carry them: integers and strings as they are, anything else by its number."""
    plain = all(type(option) is int for option in choice.options) or all(type(option) is str for option in choice.options)
    return list(choice.options) if plain else list(range(len(choice.options)))


def mutables(space: Space) -> dict[str, Categorical]:
    """One categorical mutable for each gene.  Conditions are unknown to NNI: `arch_of` makes a sample canonical afterwards."""
    return {choice.name: Categorical(_values(choice), label=choice.name) for choice in space.choices}


def sample_of(space: Space, arch: Arch) -> dict[str, Any]:
    """The NNI sample of an arch, {label: value}."""
    return {c.name: _values(c)[number] for c, number in zip(space.choices, space.encode(arch).tolist())}


def arch_of(space: Space, sample: Sample) -> Arch:
    """The canonical arch of an NNI sample.  Raises SearchError for a label or a value that is not in the space."""
    return space.decode(_genes(space, sample).tolist())


def _genes(space: Space, sample: Sample) -> Genes:
    """(genes,) canonical option numbers."""
    try:
        numbers = [_values(choice).index(sample[choice.name]) for choice in space.choices]
    except (KeyError, ValueError) as wrong:
        raise SearchError(f"space '{space.name}': the NNI sample {dict(sample)} does not fit ({wrong})") from None
    return space.canonical(np.array([numbers], dtype=np.int64))[0]


def space_of(simplified: Mapping[str, Any], name: str = "nni") -> Space:
    """The other way: the space of an NNI model space's `simplify()`.  Raises SearchError for a mutable that is not categorical."""
    for label, mutable in simplified.items():
        if not isinstance(mutable, Categorical):
            raise SearchError(f"the NNI mutable '{label}' is a {type(mutable).__name__}: only Categorical is searched here")

    def no_graph(arch: Arch, classes: int) -> Any:
        raise SearchError("a space that comes from NNI has no graph: its models are built by NNI")

    return Space(name, tuple(Choice(label, tuple(mutable.values)) for label, mutable in simplified.items()), no_graph)


class Network(ExecutableModelSpace):
    """A Space as NNI's model space; frozen by a sample, one network of it.  `columns` keeps what NNI's single metric cannot."""

    def __init__(self, space: Space, evaluation: Evaluation | None = None, sample: Sample | None = None) -> None:
        super().__init__(ModelStatus.Initialized if sample is None else ModelStatus.Frozen)
        self.space = space
        self.evaluation = evaluation
        self.evaluator = None
        self.sample = None if sample is None else dict(sample)
        self.columns: dict[str, float] = {}
        self._mutables = mutables(space)

    @property
    def arch(self) -> Arch:
        return arch_of(self.space, self.sample or {})

    def leaf_mutables(self, is_leaf: Callable[[Mutable], bool]) -> Iterable[LabeledMutable]:
        return list(self._mutables.values())

    def check_contains(self, sample: Sample) -> SampleValidationError | None:
        return next((fault for m in self._mutables.values() if (fault := m.check_contains(sample)) is not None), None)

    def freeze(self, sample: Sample) -> Network:
        self.validate(sample)
        return Network(self.space, self.evaluation, sample)

    def execute(self) -> None:
        """What NNI's own engines call: evaluates, keeps the columns, reports the first optimized one, larger being better."""
        if self.evaluation is None:
            raise SearchError(f"space '{self.space.name}' was given to NNI without an evaluation")
        trial = evaluated(0, self.arch, self.evaluation)
        self.columns = dict(trial.columns)
        nni.report_final_result(headline(trial, self.evaluation.objectives))


def evaluated(number: int, arch: Arch, evaluation: Evaluation) -> Trial:
    """Cheap columns first; the expensive ones where no limit is missed.  Raises what the evaluation raises."""
    columns = evaluation.columns(arch, "cheap")
    if Scores(evaluation.objectives).violation(Trial(number, arch, "ok", columns)) > 0:
        return Trial(number, arch, "infeasible", columns)
    if evaluation.expensive is not None:
        columns |= evaluation.columns(arch, "expensive")
    return Trial(number, arch, "ok", columns, spent=True)


def headline(trial: Trial, objectives: Sequence[Objective]) -> float:
    """The one number that NNI shows: the last optimized objective, larger being better; -1e9 for a network outside its limits."""
    scores = Scores(objectives)
    return -1e9 if scores.violation(trial) > 0 else -scores.values(trial)[-1]


class Scalar:
    """One number for a trial, larger being better, from what has been told so far.

    Inside the limits with one objective: that objective.  With several, each scaled to the range seen: the hypervolume that it adds to
    the front (reference point 1.05), or minus the share of the networks told before that dominate it.  Outside the limits: below all that
    were inside, by its violation.
    """

    def __init__(self, objectives: Sequence[Objective]) -> None:
        self._scores = Scores(objectives)
        self._inside = np.empty((0, self._scores.width))
        self._front = np.empty((0, self._scores.width))
        self._worst = 0.0

    def of(self, trial: Trial) -> float | None:
        """None for a trial that failed."""
        if trial.state == "failed":
            return None
        violation = self._scores.violation(trial)
        if violation > 0:
            return self._worst - 1.0 - violation
        point = np.array(self._scores.values(trial))
        value = -float(point[0]) if len(point) == 1 else self._gained(point)
        self._worst = min(self._worst, value)
        return value

    def _gained(self, point: np.ndarray) -> float:
        beaten = (self._inside <= point).all(axis=1)
        self._inside = np.concatenate((self._inside, point[None]))
        if beaten.any():
            return -float(beaten.mean())
        before, low = self._front, self._inside.min(axis=0)
        self._front = np.concatenate((before[~(point <= before).all(axis=1)], point[None]))
        reach = self._inside.max(axis=0) - low
        reach[reach == 0] = 1.0
        bound = [1.05] * len(point)
        return hypervolume((self._front - low) / reach, bound) - hypervolume((before - low) / reach, bound)


# ------------------------------------------------------------------------------------------------- NNI's searchers as ours
class TunerSearcher(Foreign):
    """An NNI tuner.  Tuners that draw from the global generators of random and numpy draw from their own here, by `seed`."""

    def __init__(self, space: Space, objectives: Sequence[Objective], tuner: Tuner, *, seed: int = 0, batch: int = 8,
                 repair: Repair | None = None) -> None:
        super().__init__(space, np.random.default_rng(seed), batch=batch, repair=repair, patience=_PATIENCE)
        self._scalar = Scalar(objectives)
        self._tuner = tuner
        self._count = self._imports = 0  # tickets: 0, 1, ... of proposals, -1, -2, ... of imported networks
        self._samples: dict[int, Sample] = {}
        self._fortune = _Fortune(seed)
        with self._fortune.drawn():
            tuner.update_search_space({c.name: {"_type": "choice", "_value": _values(c)} for c in space.choices})

    def tell(self, trial: Trial) -> None:
        self._metric = self._scalar.of(trial)
        super().tell(trial)

    def _propose(self) -> tuple[int, Genes]:
        ticket = self._count
        self._count += 1
        try:
            with self._fortune.drawn():
                sample = self._tuner.generate_parameters(ticket)
        except nni.NoMoreTrialError:
            raise Ended from None
        self._samples[ticket] = sample
        return ticket, _genes(self._space, sample)

    def _settle(self, ticket: int, trial: Trial) -> None:
        sample = self._samples.pop(ticket)
        with self._fortune.drawn():
            if ticket < 0:
                if self._metric is not None:
                    self._tuner.import_data([{"parameter": sample, "value": self._metric}])
                return
            if self._metric is not None:
                self._tuner.receive_trial_result(ticket, sample, self._metric)
            self._tuner.trial_end(ticket, self._metric is not None)

    def _repeated(self, ticket: int, trial: Trial) -> None:
        self._samples.pop(ticket)
        with self._fortune.drawn():  # a result told again and again would outweigh all others in what a tuner learns
            self._tuner.trial_end(ticket, False)

    def _imported(self, arch: Arch) -> list[int]:
        if type(self._tuner).import_data is Tuner.import_data:
            return []
        self._imports -= 1
        self._samples[self._imports] = sample_of(self._space, arch)
        return [self._imports]


class _Fortune:
    """The state of the global generators that one tuner sees."""

    def __init__(self, seed: int) -> None:
        self._state = (random.Random(seed).getstate(), np.random.RandomState(seed % 2**32).get_state())

    @contextmanager
    def drawn(self) -> Iterator[None]:
        outside = (random.getstate(), np.random.get_state())
        random.setstate(self._state[0])
        np.random.set_state(self._state[1])
        try:
            yield
        finally:
            self._state = (random.getstate(), np.random.get_state())
            random.setstate(outside[0])
            np.random.set_state(outside[1])


class _Engine(ExecutionEngine):
    """The engine of a strategy that runs in a thread of its own, in strict turns with the searcher: the strategy computes only while the
    searcher waits in `model`, so that a run depends on nothing but the seed."""

    def __init__(self) -> None:
        super().__init__()
        self._strategy_turn = threading.Semaphore(0)
        self._searcher_turn = threading.Semaphore(0)
        self._models: list[Any] = []
        self._offered: Any = None
        self._waits = False
        self.closed = False
        self._fault: BaseException | None = None
        self._finished = False

    def start(self, run: Callable[[], None]) -> None:
        def body() -> None:
            self._strategy_turn.acquire()
            try:
                if not self.closed:
                    run()
            except BaseException as fault:
                self._fault = fault
            finally:
                self._finished = True
                self._searcher_turn.release()

        threading.Thread(target=body, name="nni-strategy", daemon=True).start()

    def model(self) -> Any:
        """The strategy's next model.  Raises Ended, or SpaceExhausted where it waits for the results of earlier ones."""
        self._offered, self._waits = None, False
        if not self._finished:
            self._strategy_turn.release()
            self._searcher_turn.acquire()
        if self._fault is not None and not self.closed:
            raise SearchError(f"the NNI strategy failed: {type(self._fault).__name__}: {self._fault}") from self._fault
        if self._offered is not None:
            return self._offered
        if self._waits:
            raise SpaceExhausted("the NNI strategy waits for the results of the networks it asked for")
        raise Ended

    def close(self) -> None:
        """Lets the thread of the strategy run out: its budget has ended."""
        self.closed = True
        self._strategy_turn.release()

    def _hand_over(self) -> None:
        self._searcher_turn.release()
        self._strategy_turn.acquire()

    def submit_models(self, *models: Any) -> None:
        for model in models:
            if self.closed:
                raise Ended
            model.status = ModelStatus.Training
            self._models.append(model)
            self._offered = model
            self._hand_over()

    def wait_models(self, *models: Any) -> None:
        while not self.closed and not all(model.status.completed() for model in models or self._models):
            self._waits = True
            self._hand_over()

    def list_models(self, status: Any = None) -> list[Any]:
        return [model for model in self._models if status is None or model.status == status]

    def idle_worker_available(self) -> bool:
        return True

    def budget_available(self) -> bool:
        return not self.closed

    def shutdown(self) -> None:
        self.close()


class StrategySearcher(Foreign):
    """An NNI multi-trial strategy (one-shot strategies train a supernet of NNI's own modules, which a Space is not)."""

    def __init__(self, space: Space, objectives: Sequence[Objective], strategy: Strategy, *, seed: int = 0, batch: int = 8,
                 repair: Repair | None = None) -> None:
        super().__init__(space, np.random.default_rng(seed), batch=batch, repair=repair, patience=_PATIENCE)
        self._scalar = Scalar(objectives)
        self._metrics: dict[str, float | None] = {}
        self._engine = _Engine()
        strategy.initialize(Network(space), self._engine)
        self._engine.start(strategy.run)
        weakref.finalize(self, self._engine.close)

    def tell(self, trial: Trial) -> None:
        self._metrics[trial.arch.key] = self._scalar.of(trial)
        super().tell(trial)

    def _propose(self) -> tuple[Any, Genes]:
        model = self._engine.model()
        return model, _genes(self._space, model.sample)

    def _settle(self, ticket: Any, trial: Trial) -> None:
        metric = self._metrics[trial.arch.key]
        if metric is not None:
            self._engine.dispatch_model_event(FinalMetricEvent(ticket, metric))
        self._engine.dispatch_model_event(TrainingEndEvent(ticket, ModelStatus.Failed if metric is None else ModelStatus.Trained))


def _evolution(space: Space, seed: int) -> Any:
    # NNI's own rate of .05 suits hundreds of genes; a gene that "mutates" may keep its option.
    rate = min(0.5, max(0.05, 1 / len(space.choices)))
    return RegularizedEvolution(population_size=20, sample_size=10, mutation_prob=rate, seed=seed)


class _AsProposed:
    """In the place of NNI's Deduplicator, which replaces a repeated proposal by the next point of a grid."""

    def __call__(self, parameters: Any) -> Any:
        return parameters

    def add_history(self, parameters: Any) -> None:
        """Nothing is remembered."""


def _tpe(space: Space, seed: int) -> Any:
    from nni.algorithms.hpo.tpe_tuner import TpeTuner

    class Tpe(TpeTuner):
        def update_search_space(self, space: Any) -> None:
            super().update_search_space(space)
            self.dedup = _AsProposed()

    # Of NNI's 24 candidates a gene the best one is nearly always the same; two make its proposals differ.
    return Tpe(optimize_mode="maximize", seed=seed, tpe_args={"n_ei_candidates": 2})


def _naive_evolution(space: Space, seed: int) -> Any:
    from nni.algorithms.hpo.evolution_tuner import EvolutionTuner

    class Evolution(EvolutionTuner):
        def update_search_space(self, space: Any) -> None:
            super().update_search_space(space)  # draws its population from the entropy of the system
            self.random_state = np.random.RandomState(seed % 2**32)
            self.population: list[Any] = []
            for _ in range(self.population_size):
                self._random_generate_individual()

    return Evolution(optimize_mode="maximize")


STRATEGIES: dict[str, Make] = {
    "RegularizedEvolution": _evolution,
    "TPE": _tpe,
    "Random": lambda space, seed: RandomStrategy(seed=seed),
    "GridSearch": lambda space, seed: GridSearch(seed=seed),
    "PolicyBasedRL": lambda space, seed: PolicyBasedRL(),
    "Evolution": _naive_evolution,
}


def searcher_from_nni(name: str | Strategy | Tuner, space: Space, objectives: Sequence[Objective], *, seed: int = 0,
                      batch: int = 8, repair: Repair | None = None) -> Foreign:
    """A searcher by NNI's name (see STRATEGIES), or from a fresh strategy or tuner of one's own (optimize_mode "maximize").

    Raises SearchError for an unknown name, and where NNI lacks a package that the strategy needs.
    """
    made: Any = name
    if isinstance(name, str):
        if name not in STRATEGIES:
            raise SearchError(f"no NNI strategy '{name}'; there are {', '.join(STRATEGIES)}")
        try:
            made = STRATEGIES[name](space, seed)
        except ImportError as missing:
            raise SearchError(f"NNI's {name} cannot run here: {missing}") from missing
    if isinstance(made, HPOTunerStrategy):  # its own loop sleeps a second a model
        made = made.tuner
    if isinstance(made, Strategy):
        return StrategySearcher(space, objectives, made, seed=seed, batch=batch, repair=repair)
    return TunerSearcher(space, objectives, made, seed=seed, batch=batch, repair=repair)


# ------------------------------------------------------------------------------------------------- our searchers as NNI's
class SearcherStrategy(Strategy):
    """One of our searchers (NSGA-II unless told otherwise) as an NNI strategy, for any model space whose mutables are categorical.

    A model's columns are read from its attribute `columns`, which its evaluation may set (a Network does); without it there is the one
    column "metric", larger being better, and the search has one objective.
    """

    def __init__(self, name: str = "nsga2", objectives: Sequence[Objective] | None = None, *, seed: int = 0, **settings: Any) -> None:
        super().__init__()
        self._name = name
        self._objectives = objectives
        self._seed = seed
        self._settings = settings
        self._lock = threading.Lock()  # engines report from threads of their own
        self._open: dict[int, tuple[Any, int, Arch]] = {}
        self._count = 0

    def _initialize(self, model_space: Any, engine: Any) -> Any:
        from nas.search.searchers import searcher

        ours = isinstance(model_space, Network)
        self._space = model_space.space if ours else space_of(model_space.simplify())
        known = model_space.evaluation.objectives if ours and model_space.evaluation else (Objective("metric", "", "max"),)
        self._searcher = searcher(self._name, self._space, self._objectives or known, self._seed, **self._settings)
        engine.register_model_event_callback(ModelEventType.TrainingEnd, self._ended)
        return model_space

    def _run(self) -> None:
        while self.wait_for_resource():
            try:
                with self._lock:
                    arch = self._searcher.ask()
            except SpaceExhausted:
                break
            sample = sample_of(self._space, arch) if isinstance(self.model_space, Network) else dict(arch.genes)
            model = self.model_space.freeze(sample)
            self._open[id(model)] = (model, self._count, arch)
            self._count += 1
            self.engine.submit_models(model)
        self.engine.wait_models()

    def _cleanup(self) -> None:
        self.engine.unregister_model_event_callback(ModelEventType.TrainingEnd, self._ended)

    def _ended(self, event: Any) -> None:
        held = self._open.pop(id(event.model), None)
        if held is None:
            return
        model, number, arch = held
        columns = getattr(model, "columns", None) or ({} if model.metric is None else {"metric": model.metric})
        if event.status == ModelStatus.Trained and columns:
            trial = Trial(number, arch, "ok", columns)
        else:
            trial = Trial(number, arch, "failed", error=f"NNI: {event.status.value}")
        with self._lock:
            self._searcher.tell(trial)
