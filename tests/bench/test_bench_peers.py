import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.bench import peers
from nas.objectives import Evaluation, Objective
from nas.pareto import hypervolume
from nas.search.core import SearchError, SpaceExhausted
from nas.search.random import Random
from nas.study import Trial
from searchspaces.space import Choice, Space


def _no_graph(arch, classes):
    raise AssertionError("these tests build no graph")


SPACE = Space(
    "grid",
    (
        Choice("family", ("a", "b", "c", "d")),
        Choice("depth", (1, 2, 3), when=("family", ("a", "b", "c"))),
        Choice("width", (1, 2, 3, 4)),
        Choice("resolution", tuple(range(160, 481, 32))),
    ),
    _no_graph,
)
OBJECTIVES = (Objective("latency", ""), Objective("accuracy", "", "max"))


def columns(arch):
    """A trade-off with a few families that are better than others; depth pays less than width."""
    cost = arch["resolution"] ** 2 * arch["width"] ** 1.5 * arch["depth"] ** 0.7 * {"a": 1.0, "b": 1.3, "c": 0.8, "d": 1.1}[arch["family"]]
    gain = 1 - cost**-0.05 + 0.02 * {"a": 1, "b": 3, "c": -1, "d": 0}[arch["family"]] + 0.004 * arch["depth"] * (arch["width"] % 3)
    return {"latency": float(np.log(cost)), "accuracy": float(gain)}


JUDGE = Evaluation(OBJECTIVES, columns)


@pytest.fixture(params=peers.PEERS)
def name(request):
    if not peers.available()[request.param]:
        pytest.skip(f"{request.param} needs {peers.PEERS[request.param].package}: pip install 'edgenas[peers,nni]'")
    return request.param


def drive(search, count, exists=lambda arch: True):
    trials = []
    while len(trials) < count:
        try:
            arch = search.ask()
        except SpaceExhausted:
            break
        assert exists(arch)
        trials.append(Trial(len(trials), arch, "ok", columns(arch), spent=True))
        search.tell(trials[-1])
    return trials


def volume(trials):
    return hypervolume([(t["latency"], -t["accuracy"]) for t in trials], (16.0, 0.0))


def test_a_peer_asks_the_same_for_the_same_seed_and_never_twice(name):
    runs = [[t.arch.key for t in drive(peers.peer(name, SPACE, OBJECTIVES, seed), 50)] for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]
    assert len(set(runs[0])) == 50


def test_a_peer_is_no_worse_than_random_search(name):
    found = np.mean([volume(drive(peers.peer(name, SPACE, OBJECTIVES, seed), 60)) for seed in range(2)])
    blind = np.mean([volume(drive(Random(SPACE, OBJECTIVES, rng=np.random.default_rng(seed), batch=1), 60)) for seed in range(6)])
    assert found > blind


def test_a_peer_lists_a_small_table_whole_and_asks_for_nothing_else(name):
    kept = {SPACE.decode(row.tolist()) for row in SPACE.sample_genes(np.random.default_rng(0), 20)}
    search = peers.peer(name, SPACE, OBJECTIVES, 0, repair=peers.nearest(SPACE, kept))
    trials = drive(search, 100, exists=kept.__contains__)
    assert {t.arch for t in trials} == kept
    assert len(trials) == len(kept)


def test_a_peer_goes_on_after_failures(name):
    search = peers.peer(name, SPACE, OBJECTIVES, 0)
    asked = set()
    for number in range(60):
        arch = search.ask()
        asked.add(arch.key)
        if number % 3:
            search.tell(Trial(number, arch, "ok", columns(arch), spent=True))
        else:
            search.tell(Trial(number, arch, "failed", error="no"))
    assert len(asked) == 60


def test_a_peer_finds_its_way_into_a_limit(name):
    every = SPACE.canonical(np.indices(tuple(SPACE.sizes)).reshape(len(SPACE.sizes), -1).T.astype(np.int64))
    limit = float(np.quantile([columns(SPACE.decode(row.tolist()))["latency"] for row in np.unique(every, axis=0)], 0.2))
    search = peers.peer(name, SPACE, (Objective("latency", "", limit=limit), OBJECTIVES[1]), 3)
    inside = [t["latency"] <= limit for t in drive(search, 80)]
    assert np.mean(inside[40:]) > 0.28


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60))
def test_the_nearest_network_is_itself_or_one_that_exists_and_no_other_is_closer_in_genes(seed, kept):
    rng = np.random.default_rng(seed)
    archs = [SPACE.decode(row.tolist()) for row in SPACE.sample_genes(rng, kept)]
    repair = peers.nearest(SPACE, archs)
    for genes in SPACE.sample_genes(rng, 20):
        found = repair(genes)
        table = np.stack([SPACE.encode(arch) for arch in archs])
        assert (table == found).all(axis=1).any()
        assert (found != genes).sum() == (table != genes).sum(axis=1).min()


def test_throughput_counts_both_and_ours_is_far_ahead():
    found = peers.throughput(evaluations=4000)
    assert found.ours_per_s > 5000
    if found.pymoo_per_s is not None:
        assert found.ours_per_s > 1.5 * found.pymoo_per_s


def test_an_unknown_or_missing_peer_is_refused_with_what_would_work(monkeypatch):
    with pytest.raises(SearchError, match="no peer 'smac'; there are pymoo-nsga2"):
        peers.peer("smac", SPACE, OBJECTIVES, 0)
    monkeypatch.setattr(peers, "find_spec", lambda package: None)
    assert not any(peers.available().values())
    with pytest.raises(SearchError, match=r"optuna-tpe needs the package optuna: pip install 'edgenas\[peers,nni\]'"):
        peers.peer("optuna-tpe", SPACE, OBJECTIVES, 0)
