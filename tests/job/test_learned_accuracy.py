"""What the predictor of mAP learns from candidates on the rungs, and whom it lets in."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.candidates import COLUMNS
from nas.halving import Predictor
from nas.learned_accuracy import LearnedAccuracy, Measured, Traits
from nas.study import Trial
from searchspaces import YOLO

RNG = np.random.default_rng(0)
TRIALS = [
    Trial(i, YOLO.sample(RNG), "ok", {"score": RNG.uniform(0.2, 0.5), "quant_noise": RNG.uniform(0, 30), "latency_ms": 1.0 + i})
    for i in range(12)
]
TRAITS = Traits(TRIALS, 3, believed=True)
maps = st.lists(st.floats(0.02, 0.9).map(lambda value: round(value, 9)), min_size=2, max_size=8)  # logits round what is nearer than that


def reached(number, behind):
    """mAP by a law of the score and of the epochs, as logits."""
    score = TRIALS[number]["score"]
    return float(1 / (1 + np.exp(0.5 - np.log(score / (1 - score)) - 0.8 * np.log(behind))))


@given(maps)
@settings(max_examples=20, deadline=None)
def test_after_equal_epochs_candidates_keep_the_order_in_which_they_were_measured(found):
    learned = LearnedAccuracy(TRAITS, [Measured(i, 0.1, value) for i, value in enumerate(found)])
    for behind in (0.1, 1.0):
        means = [guess.mean for guess in learned.guesses(range(len(found)), behind)]
        assert np.argsort(means, kind="stable").tolist() == np.argsort(found, kind="stable").tolist()


def test_a_second_rung_teaches_what_epochs_bring_and_narrows_the_interval():
    first = [Measured(i, 0.11, reached(i, 0.11)) for i in range(8)]
    second = [Measured(i, 0.33, reached(i, 0.33)) for i in range(3)]
    (before,), (after,) = (LearnedAccuracy(TRAITS, found).guesses([9], 1.0) for found in (first, first + second))
    assert after.high - after.low < before.high - before.low
    assert after.mean == pytest.approx(reached(9, 1.0), abs=0.03) and after.low < reached(9, 1.0) < after.high


def test_a_donors_epochs_are_no_merit():
    """Of two candidates with one mAP, the one that started from trained weights is expected to end lower, once epochs are known to help."""
    found = [Measured(i, b, reached(i, b)) for i in range(4) for b in (0.1, 0.3)]
    learned = LearnedAccuracy(TRAITS, [*found, Measured(8, 0.1, 0.05), Measured(9, 0.2, 0.05)])
    plain, heir = learned.guesses([8, 9], 1.0)
    assert plain.mean > heir.mean + 0.01


@pytest.mark.parametrize("finalists", [1, 2])
def test_of_candidates_that_promise_the_same_the_faster_one_enters_where_a_front_is_wanted(monkeypatch, finalists):
    twin = Trial(12, TRIALS[5].arch, "ok", {**TRIALS[5].columns, "latency_ms": 2.5})
    run = SimpleNamespace(
        within=[TRIALS[3], TRIALS[5], twin],
        data=SimpleNamespace(classes=["a"]),
        settings=SimpleNamespace(proxy="", finalists=finalists),
        objectives=COLUMNS,
    )
    monkeypatch.setattr("nas.halving.standings", lambda study: [SimpleNamespace(trial=3, behind=0.1, map=0.2)])
    first, second = (5, 12) if finalists == 1 else (12, 5)  # of equals the first, where only mAP counts
    assert Predictor(run, None).next({3}, 0.1).number == first
    assert Predictor(run, None).next({3, first}, 0.1).number == second
    assert Predictor(run, None).next({3, 5, 12}, 0.1) is None
