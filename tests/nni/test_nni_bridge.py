import builtins
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import nni_toys as toys
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.objectives import violations
from nas.search.core import SearchError, SpaceExhausted
from nas.search.workers import attempt
from nas.study import Study, Trial
from searchspaces.space import Choice, Space

if importlib.util.find_spec("nni") is None:
    pytest.skip("NNI is not installed: pip install 'edgenas[nni]'", allow_module_level=True)

import psutil

from nas import nni_bridge as bridge

RUNNABLE = [name for name in bridge.STRATEGIES if name != "PolicyBasedRL"]
ROOT = Path(__file__).resolve().parents[2]


@st.composite
def spaces(draw):
    options = st.one_of(
        st.lists(st.integers(-3, 64), min_size=1, max_size=5, unique=True),
        st.lists(st.sampled_from(["c3", "c2f", "elan", "csp"]), min_size=1, max_size=4, unique=True),
        st.lists(st.sampled_from([0.25, 0.5, 0.75, 1.5]), min_size=1, max_size=4, unique=True),
        st.just([False, True]),
        st.just([None, "silu", 3]),
    )
    choices = []
    for i in range(draw(st.integers(1, 6))):
        when = None
        if choices and draw(st.booleans()):
            parent = draw(st.sampled_from(choices))
            when = (parent.name, tuple(draw(st.lists(st.sampled_from(parent.options), min_size=1, unique=True))))
        choices.append(Choice(f"g{i}", tuple(draw(options)), when=when))
    return Space("drawn", tuple(choices), toys.SPACE.build)


@settings(max_examples=60, deadline=None)
@given(spaces(), st.integers(0, 2**31))
def test_every_space_goes_to_nni_and_back(space, seed):
    made = bridge.mutables(space)
    assert list(made) == [choice.name for choice in space.choices]
    again = bridge.mutables(space)
    assert all(made[name].equals(again[name]) for name in made)
    arch = space.sample(np.random.default_rng(seed))
    sample = bridge.sample_of(space, arch)
    assert bridge.Network(space).contains(sample)
    assert all(type(value) in (int, str) for value in sample.values())
    assert bridge.arch_of(space, json.loads(json.dumps(sample))) == arch
    drawn = {}
    bridge.Network(space).random(memo=drawn, random_state=np.random.RandomState(seed))
    found = bridge.arch_of(space, drawn)
    assert space.arch(dict(found.genes)) == found  # canonical, whatever NNI drew for genes that cannot matter


def test_a_sample_outside_the_space_is_refused():
    with pytest.raises(SearchError, match="'toy'.*does not fit"):
        bridge.arch_of(toys.SPACE, {"width": 8})
    with pytest.raises(SearchError, match="'lr' is a Numerical"):
        bridge.space_of({"lr": bridge.nni.mutable.Numerical(0, 1, label="lr")})


def drive(search, count, evaluation=toys.EVALUATION):
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
            columns, error = result.columns, result.error
            if not error and not missed:
                late = attempt(evaluation, "expensive", arch)
                columns, error = {**columns, **late.columns}, late.error
            batch.append(Trial(number, arch, "failed" if error else "infeasible" if missed else "ok", columns, error=error))
        if not batch:
            break
        for trial in batch:
            search.tell(trial)
        trials += batch
    return trials


@pytest.mark.parametrize("name", RUNNABLE)
def test_an_nni_searcher_asks_the_same_for_the_same_seed_and_never_twice(name):
    runs = [[t.arch.key for t in drive(bridge.searcher_from_nni(name, toys.SPACE, toys.OBJECTIVES, seed=seed), 100)] for seed in (3, 3, 4)]
    assert len(set(runs[0])) == len(runs[0]) >= 100
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


@pytest.mark.parametrize("name", RUNNABLE)
def test_an_nni_searcher_lists_a_small_space_whole_and_then_says_so(name):
    space = Space("small", (Choice("a", (1, 2, 3)), Choice("b", (1, 2)), Choice("c", (1, 2, 3, 4), when=("b", (2,)))), toys.SPACE.build)
    judge = toys.Evaluation((toys.Objective("a", ""),), lambda arch: {"a": arch["a"]})
    search = bridge.searcher_from_nni(name, space, judge.objectives)
    trials = drive(search, 1000, judge)
    assert len({t.arch.key for t in trials}) == len(trials) == 3 * (1 + 4)
    with pytest.raises(SpaceExhausted):
        search.ask()


@pytest.mark.parametrize("name", ["RegularizedEvolution", "TPE"])
def test_nnis_learners_beat_its_random_search_within_the_limits(name):
    def best(which, seed):
        return np.mean(sorted(t["score"] for t in drive(bridge.searcher_from_nni(which, toys.SPACE, toys.OBJECTIVES[1:], seed=seed), 90)
                              if t.state == "ok")[-10:])

    assert np.mean([best(name, seed) for seed in range(3)]) > np.mean([best("Random", seed) for seed in range(3)])


def test_the_number_told_to_nni_is_worst_outside_the_limits_and_best_on_the_front():
    scalar = bridge.Scalar(toys.OBJECTIVES)

    def of(latency, score=None, state="ok"):
        columns = {"latency_ms": latency} | ({} if score is None else {"score": score})
        return scalar.of(Trial(0, toys.SPACE.sample(np.random.default_rng(0)), state, columns))

    first, better, dominated, also = of(2.0, 5.0), of(1.0, 6.0), of(2.5, 4.0), of(0.5, 1.0)
    assert min(first, better, also) > 0.0 > dominated
    assert of(9.0) < of(4.0) < dominated
    assert of(1.0, state="failed") is None


def test_an_nni_search_is_resumed_by_replay(tmp_path):
    from nas.search.loop import run

    def fingerprint(path, *budgets):
        for budget in budgets:
            new = not path.exists()
            with Study.create(path, "toy", {}, {}) if new else Study.open(path, writable=True) as study:
                run(study, bridge.searcher_from_nni("RegularizedEvolution", toys.SPACE, toys.OBJECTIVES, seed=5), toys.EVALUATION, budget)
                found = study.fingerprint()
        return found

    assert fingerprint(tmp_path / "once.db", 60) == fingerprint(tmp_path / "twice.db", 25, 60)


def test_unknown_and_unavailable_strategies_are_refused_by_name():
    with pytest.raises(SearchError, match="no NNI strategy 'GP'; there are RegularizedEvolution, TPE"):
        bridge.searcher_from_nni("GP", toys.SPACE, toys.OBJECTIVES)
    if importlib.util.find_spec("tianshou") is None:
        with pytest.raises(SearchError, match="PolicyBasedRL cannot run here: .*tianshou"):
            bridge.searcher_from_nni("PolicyBasedRL", toys.SPACE, toys.OBJECTIVES)


def test_a_strategy_that_waits_for_its_results_or_fails_is_driven_as_well():
    class Rounds(bridge.Strategy):
        def _run(self):
            rng = np.random.RandomState(0)
            for _ in range(3):
                models = [self.model_space.random(random_state=rng, memo={}) for _ in range(4)]
                self.engine.submit_models(*models)
                self.engine.wait_models(*models)
                assert all(model.status.completed() for model in models)
            raise OverflowError("no more ideas")

    judge = toys.Evaluation((toys.OBJECTIVES[0],), toys.cheap)
    search = bridge.searcher_from_nni(Rounds(), toys.SPACE, judge.objectives)
    with pytest.raises(SearchError, match="OverflowError: no more ideas"):
        drive(search, 100, judge)


def test_our_nsga2_runs_as_an_nni_strategy():
    from nni.nas.execution import SequentialExecutionEngine

    engine = SequentialExecutionEngine(max_model_count=150, continue_on_failure=True)
    strategy = bridge.SearcherStrategy("nsga2", seed=1)
    strategy(bridge.Network(toys.SPACE, toys.EVALUATION), engine)
    models = list(strategy.list_models(sort=False))
    assert len(models) == 150
    assert len({m.arch.key for m in models}) == 150
    good = [m for m in models if m.status == bridge.ModelStatus.Trained and m.columns["latency_ms"] <= 3.0]
    late = [m for m in models[75:] if m in good]
    assert len(late) > len(good) / 2
    assert all(m.metric == m.columns["score"] for m in good)


def test_our_searchers_take_a_model_space_that_is_nnis_own():
    from nni.mutable import Categorical
    from nni.nas.execution import SequentialExecutionEngine

    class Foreign(bridge.Network):  # a model space that knows nothing of Space but its mutables
        def __init__(self, sample=None):
            bridge.ExecutableModelSpace.__init__(self, bridge.ModelStatus.Frozen if sample else bridge.ModelStatus.Initialized)
            self.sample = sample
            self._mutables = {"x": Categorical([0.1, 0.2, 0.7], label="x"), "y": Categorical(["a", "b"], label="y")}

        def freeze(self, sample):
            self.validate(sample)
            return Foreign(sample)

        def execute(self):
            bridge.nni.report_final_result(self.sample["x"] + (self.sample["y"] == "b"))

    space = Foreign()
    space.__class__ = type("Other", (bridge.ExecutableModelSpace,), dict(Foreign.__dict__) | {
        "leaf_mutables": bridge.Network.leaf_mutables, "check_contains": bridge.Network.check_contains})
    strategy = bridge.SearcherStrategy("evolution", population=3)
    strategy(space, SequentialExecutionEngine())
    best = next(strategy.list_models())
    assert best.sample == {"x": 0.7, "y": "b"}


def test_everything_else_works_without_nni_and_the_error_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == "nni":
            raise ImportError("No module named 'nni'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.delitem(sys.modules, "nas.nni_bridge")
    with pytest.raises(SearchError, match=r"pip install 'edgenas\[nni\]'"):
        importlib.import_module("nas.nni_bridge")


def test_nothing_but_the_bridge_imports_nni():
    for path in (ROOT / "nas").rglob("*.py"):
        if path.name not in ("nni_bridge.py", "nni_experiment.py"):
            lines = [line.split() for line in path.read_text().splitlines()]
            assert not any(line[:1] in (["import"], ["from"]) and line[1].split(".")[0] == "nni" for line in lines if len(line) > 1), path


# ------------------------------------------------------------------------------------------------------------------- web page
def listeners(port):
    return {c.laddr.ip for c in psutil.net_connections("inet") if c.status == psutil.CONN_LISTEN and c.laddr.port == port}


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return reply.status
    except (urllib.error.URLError, OSError):
        return None


def until(condition, seconds=40.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)
    return condition()


def test_an_experiment_serves_its_page_to_this_machine_alone_and_ends_it(tmp_path):
    from nas.nni_experiment import experiment

    with experiment("nni_toys:task", tmp_path, strategy="nsga2", trials=2, seed=2) as page:
        port = int(page.url.rsplit(":", 1)[1])
        assert listeners(port) == {"127.0.0.1"}
        assert answers(page.url) == 200
        trials = page.wait(120)
        server = page.pid
    assert [t.number for t in trials] == [0, 1]
    for trial in trials:
        if trial.state != "failed":
            assert trial.columns["latency_ms"] == pytest.approx(toys.cheap(trial.arch)["latency_ms"])
            assert (trial.state == "infeasible") == (trial["latency_ms"] > 3.0)
    assert answers(page.url) is None
    assert not psutil.pid_exists(server)
    assert not (tmp_path / "server.json").exists()


def test_a_killed_parent_leaves_no_server_and_no_trial(tmp_path):
    script = [sys.executable, str(Path(toys.__file__)), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{Path(toys.__file__).parent}"}
    with subprocess.Popen(script, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        url = parent.stdout.readline().strip()
        assert answers(url) == 200
        assert until((tmp_path / "trial.pid").exists, 60)
        trial, server = int((tmp_path / "trial.pid").read_text()), json.loads((tmp_path / "server.json").read_text())["pid"]
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        assert until(lambda: answers(url) is None and not psutil.pid_exists(server))
        assert until(lambda: not psutil.pid_exists(trial) or psutil.Process(trial).status() == psutil.STATUS_ZOMBIE)


def test_a_server_left_by_an_earlier_start_is_ended_and_a_stranger_with_its_number_is_not(tmp_path):
    from nas.nni_experiment import end_leftover

    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as left:
        created = psutil.Process(left.pid).create_time()
        for moved, ended in ((-100.0, False), (0.0, True)):
            (tmp_path / "server.json").write_text(json.dumps({"pid": left.pid, "created": created + moved, "port": 1}))
            assert end_leftover(tmp_path) == ended
            assert (left.poll() is not None) == ended or left.wait(10) is not None
    assert not end_leftover(tmp_path)


def test_a_task_that_cannot_be_imported_is_refused_before_a_server_starts(tmp_path):
    from nas.nni_experiment import run_experiment

    with pytest.raises(SearchError, match="task 'nowhere:at_all'"):
        run_experiment("nowhere:at_all", tmp_path)
