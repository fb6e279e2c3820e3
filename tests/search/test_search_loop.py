import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import search_toys as toys

from nas.objectives import Evaluation, Objective
from nas.search.core import SearchError
from nas.search.loop import Infeasible, run
from nas.search.searchers import SEARCHERS, searcher
from nas.study import Study, StudyError

BUDGET = 60


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Fingerprint of the toy search in one process without any interruption."""
    return toys.search(tmp_path_factory.mktemp("whole") / "study.db", budget=BUDGET)


def searched(path, judge, budget, name="nsga2", **settings):
    """(outcome, trials) of a new study."""
    with Study.create(path, toys.SPACE.name, {}, {}) as study:
        outcome = run(study, searcher(name, toys.SPACE, judge.objectives, 7), judge, budget, **settings)
        return outcome, study.trials()


def test_the_budget_counts_expensive_evaluations_and_what_does_not_fit_spends_none(tmp_path):
    calls = []

    def counted(arch):
        calls.append(arch.key)
        return toys.expensive(arch)

    outcome, trials = searched(tmp_path / "study.db", toys.evaluation(counted), BUDGET)
    assert (outcome.ended, outcome.spent, outcome.attempts) == ("budget", BUDGET, len(trials))
    assert len(calls) == BUDGET == sum(t.spent for t in trials)
    assert [t.number for t in trials] == list(range(len(trials)))
    for t in trials:
        fits = t.columns["latency_ms"] <= 6.0
        assert (t.state == "infeasible") == (not fits) == (t.arch.key not in calls)
        assert ("score" in t.columns) == (t.state == "ok")


def test_failures_are_trials_with_their_reason_and_the_search_goes_on(tmp_path):
    _, trials = searched(tmp_path / "study.db", toys.evaluation(), 3 * BUDGET, "random")
    reasons = {t.error for t in trials if t.state == "failed"}
    assert reasons == {"RuntimeError: this one cannot be scored", "ObjectiveError: score is nan"}
    assert sum(t.state == "ok" for t in trials) > BUDGET


@pytest.mark.parametrize("name", SEARCHERS)
def test_a_study_that_was_stopped_anywhere_resumes_to_the_same_trials(name, tmp_path):
    whole = toys.search(tmp_path / "whole.db", budget=30, name=name)
    for after in (1, 17, 29):
        path = tmp_path / f"{after}.db"
        seen = []

        def stop(trial, seen=seen, after=after):
            seen.append(trial)
            if len(seen) == after:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            toys.search(path, budget=30, name=name, on_trial=stop)
        again = []
        assert toys.search(path, budget=30, name=name, on_trial=again.append) == whole
        assert not {t.number for t in again} & {t.number for t in seen}


def test_a_larger_budget_continues_a_finished_study(tmp_path):
    toys.search(tmp_path / "a.db", budget=25)
    assert toys.search(tmp_path / "a.db", budget=55) == toys.search(tmp_path / "b.db", budget=55)


def test_several_workers_give_the_trials_of_one(tmp_path, uninterrupted):
    path = tmp_path / "study.db"
    assert toys.search(path, budget=BUDGET, workers=3) == uninterrupted
    with Study.open(path) as study:
        assert os.getpid() not in {t["pid"] for t in study.trials("ok")}


def test_a_search_killed_at_ten_random_moments_ends_like_the_uninterrupted_one(tmp_path, uninterrupted):
    path, rng = tmp_path / "study.db", np.random.default_rng(11)
    pids = set()
    for turn in range(10):
        child = start(path, workers=2 if turn in (3, 7) else 1)
        if turn < 2:  # while the study is created or the process still starts
            time.sleep(rng.uniform(0.05, 0.4))
        else:
            for line in itertools.islice(child.stdout, int(rng.integers(1, 9))):
                pids.add(int(line.split()[1]))
            time.sleep(rng.uniform(0, 0.004))
        child.kill()
        child.communicate()
        assert child.returncode == -signal.SIGKILL
    child = start(path)
    child.communicate()
    assert child.returncode == 0
    with Study.open(path) as study:
        assert study.fingerprint() == uninterrupted
    pids.discard(0)
    deadline = time.monotonic() + 10
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, pids))


def start(path, workers=1):
    script = Path(toys.__file__)
    environment = {**os.environ, "PYTHONPATH": str(script.parents[2])}
    return subprocess.Popen([sys.executable, str(script), str(path), str(BUDGET), str(workers)], stdout=subprocess.PIPE, text=True,
                            env=environment)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"  # a zombie waits for its parent only


def test_a_dead_worker_costs_the_one_trial_that_killed_it(tmp_path):
    path = tmp_path / "study.db"
    toys.search(path, budget=20, workers=2, judge=toys.evaluation(toys.deadly), patience=100)
    with Study.open(path) as study:
        trials = [t for t in study.trials() if t.spent]
    died = {t.number for t in trials if t.error and "worker process died" in t.error}
    assert died
    assert died == {t.number for t in trials if t.arch["width2"] == 8}
    assert len(trials) == 20


def test_an_infeasible_search_ends_in_bounded_time_with_the_nearest_miss(tmp_path):
    judge = Evaluation(toys.objectives(latency=0.3, size=0.1), toys.cheap, toys.expensive)
    with pytest.raises(Infeasible, match=r"latency_ms is 0.\d+ ms, 0.\d+ ms \(61.3 %\) above the limit of 0.3 ms") as caught:
        searched(tmp_path / "study.db", judge, 100, attempts=600)
    smallest = 6 * 64 / 1000 + 0.1
    assert caught.value.misses["latency_ms"] == pytest.approx((smallest - 0.3) / 0.3, rel=0.5)
    assert caught.value.best["latency_ms"] <= caught.value.nearest["latency_ms"]
    with Study.open(tmp_path / "study.db") as study:
        assert study.count("infeasible") == study.count() == 600


def test_an_infeasible_search_loses_patience_before_its_attempts_are_used_up(tmp_path):
    judge = Evaluation(toys.objectives(latency=0.1), toys.cheap, toys.expensive)
    with pytest.raises(Infeasible):
        searched(tmp_path / "study.db", judge, 10**6, patience=300)
    with Study.open(tmp_path / "study.db") as study:
        assert study.count() < 3000


def test_a_missed_expensive_limit_is_infeasible_too(tmp_path):
    objectives = (Objective("latency_ms", "ms"), Objective("size_mb", "MB", optimized=False),
                  Objective("score", "", "max", "expensive", limit=1e6),
                  Objective("pid", "", cost="expensive", optimized=False, deterministic=False))
    with pytest.raises(Infeasible, match="score is .* below the limit"):
        searched(tmp_path / "study.db", Evaluation(objectives, toys.cheap, toys.expensive), 40)


def test_a_search_in_which_everything_fails_gives_the_first_reason(tmp_path):
    judge = Evaluation((Objective("latency_ms", "ms"),), lambda arch: {"latency_ms": float("nan")})
    with pytest.raises(SearchError, match="each of 200 candidates failed; the first, trial 0: ObjectiveError: latency_ms is nan"):
        searched(tmp_path / "study.db", judge, 4)


def test_a_study_of_another_seed_is_refused(tmp_path):
    toys.search(tmp_path / "study.db", budget=5, seed=1)
    with pytest.raises(StudyError, match=r"study\.db: trial 0 is another network"):
        toys.search(tmp_path / "study.db", budget=5, seed=2)


def test_an_evaluation_that_cannot_travel_and_workers_that_cannot_start_are_explained(tmp_path):
    judge = Evaluation((Objective("latency_ms", "ms"),), lambda arch: {"latency_ms": 1.0})
    with pytest.raises(SearchError, match="define it in a module"):
        searched(tmp_path / "a.db", judge, 4, workers=2)
    with pytest.raises(SearchError, match="before they start"):
        searched(tmp_path / "b.db", toys.evaluation(), 4, workers=2, initializer=toys.broken_start)
