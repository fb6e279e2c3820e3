import numpy as np
import pytest
import search_toys as toys
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.objectives import Evaluation, Objective, violations
from nas.pareto import hypervolume
from nas.search.core import SearchError, SpaceExhausted, best_first
from nas.search.searchers import SEARCHERS, searcher
from nas.search.workers import attempt
from nas.study import Trial
from searchspaces.space import Choice, Space

GENES = 30
# ZDT1 on 30 genes of 32 options (Zitzler, Deb, Thiele 2000, doi:10.1162/106365600568202): the front is f2 = 1 - sqrt(f1).
ZDT1 = Space("zdt1", tuple(Choice(f"x{i}", tuple(np.linspace(0, 1, 32).tolist())) for i in range(GENES)), toys.SPACE.build)
ZDT1_OBJECTIVES = (Objective("f1", ""), Objective("f2", ""))


def zdt1(arch):
    x = list(arch.genes.values())
    g = 1 + 9 * sum(x[1:]) / (GENES - 1)
    return {"f1": x[0], "f2": g * (1 - (x[0] / g) ** 0.5)}


def drive(search, evaluation, count):
    """Ask and tell in batches, without study or budget."""
    trials = []
    while len(trials) < count:
        batch = []
        for number in range(len(trials), len(trials) + search.batch):
            try:
                arch = search.ask()
            except SpaceExhausted:
                break
            result = attempt(evaluation, "cheap", arch)
            missed = violations(result.columns, evaluation.objectives)
            state = "failed" if result.error else "infeasible" if missed else "ok"
            batch.append(Trial(number, arch, state, result.columns, error=result.error))
        for trial in batch:
            search.tell(trial)
        trials += batch
        if len(batch) < search.batch:
            break
    return trials


def volume(trials):
    return hypervolume([(t["f1"], t["f2"]) for t in trials], (1.1, 10.0))


@pytest.mark.parametrize("name", ["nsga2", "evolution"])
def test_evolving_searchers_beat_random_on_zdt1_for_every_seed(name):
    judge = Evaluation(ZDT1_OBJECTIVES, zdt1)
    for seed in range(3):
        evolved = volume(drive(searcher(name, ZDT1, ZDT1_OBJECTIVES, seed), judge, 1200))
        blind = volume(drive(searcher("random", ZDT1, ZDT1_OBJECTIVES, seed), judge, 1200))
        assert evolved > blind + 1.0


def test_nsga2_reaches_the_known_front_of_zdt1():
    trials = drive(searcher("nsga2", ZDT1, ZDT1_OBJECTIVES, 1, population=100), Evaluation(ZDT1_OBJECTIVES, zdt1), 20_000)
    best = 1.1 * 10.0 - 1 / 3 - 0.0  # area above 1 - sqrt(f1) up to the reference: 11 - integral of the front over 0..1
    assert volume(trials) > best - 0.25


@pytest.mark.parametrize("known", [False, True], ids=["blind", "costs known"])
@pytest.mark.parametrize("name", SEARCHERS)
def test_a_searcher_asks_the_same_for_the_same_seed_and_never_twice(name, known):
    judge = Evaluation((Objective("latency_ms", "ms", limit=5.0), Objective("size_mb", "MB")), toys.cheap)
    told = {"cheap": judge.cheap, "belief": toys.belief} if known else {}
    runs = [[t.arch.key for t in drive(searcher(name, toys.SPACE, judge.objectives, seed, **told), judge, 150)] for seed in (3, 3, 4)]
    assert runs[0] == runs[1] != runs[2]
    assert len(set(runs[0])) == len(runs[0])


@pytest.mark.parametrize("name", SEARCHERS)
def test_a_searcher_that_is_asked_more_than_its_batch_goes_on(name):
    search = searcher(name, toys.SPACE, toys.objectives(), 0, cheap=toys.cheap, belief=toys.belief)
    archs = [search.ask() for _ in range(3 * search.batch)]
    assert len({arch.key for arch in archs}) == len(archs)
    for number, arch in enumerate(archs):
        search.tell(Trial(number, arch, "failed", error="no"))
    assert search.ask().key not in {arch.key for arch in archs}


@pytest.mark.parametrize("name", SEARCHERS)
def test_a_searcher_lists_a_small_space_whole_and_then_says_so(name):
    space = Space("small", (Choice("a", (1, 2, 3)), Choice("b", (1, 2)), Choice("c", (1, 2, 3, 4), when=("b", (2,)))), toys.SPACE.build)
    objectives = (Objective("a", ""),)
    search = searcher(name, space, objectives, 0)
    trials = drive(search, Evaluation(objectives, lambda arch: {"a": arch["a"]}), 1000)
    assert len({t.arch.key for t in trials}) == len(trials) == 3 * (1 + 4)
    with pytest.raises(SpaceExhausted):
        search.ask()


@pytest.mark.parametrize("name", SEARCHERS)
def test_a_searcher_goes_on_after_failures_and_takes_archs_from_elsewhere(name):
    def fails(arch):
        raise RuntimeError("no")

    objectives = (Objective("latency_ms", "ms"), Objective("size_mb", "MB"))
    search = searcher(name, toys.SPACE, objectives, 0)
    assert {t.state for t in drive(search, Evaluation(objectives, fails), 150)} == {"failed"}
    stranger = toys.SPACE.sample(np.random.default_rng(9))
    search.tell(Trial(999, stranger, "ok", toys.cheap(stranger)))
    assert len(drive(search, Evaluation(objectives, toys.cheap), 150)) >= 150


def test_nsga2_finds_its_way_into_tight_limits():
    objectives = (Objective("latency_ms", "ms", limit=0.9), Objective("size_mb", "MB", "max"))
    judge = Evaluation(objectives, toys.cheap)
    fits = {name: sum(t.state == "ok" for t in drive(searcher(name, toys.SPACE, objectives, 2), judge, 800)) for name in SEARCHERS}
    assert fits["random"] < 10
    assert min(fits["nsga2"], fits["evolution"]) > 80


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.sampled_from([0.0, 0.0, 0.5, 1.0])), min_size=1, max_size=15))
def test_best_first_never_puts_a_candidate_before_one_that_constraint_dominates_it(rows):
    values, violation = np.array([row[:2] for row in rows], dtype=float), np.array([row[2] for row in rows])

    def beats(i, j):
        if violation[i] or violation[j]:
            return violation[i] < violation[j]
        return (values[i] <= values[j]).all() and (values[i] < values[j]).any()

    order = best_first(values, violation)
    assert sorted(order) == list(range(len(rows)))
    assert not any(beats(order[b], order[a]) for a in range(len(order)) for b in range(a + 1, len(order)))


def test_an_unknown_searcher_is_refused_with_the_list():
    with pytest.raises(SearchError, match="'annealing'.*surrogate, nsga2, evolution"):
        searcher("annealing", toys.SPACE, toys.objectives(), 0)
