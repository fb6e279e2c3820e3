import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictors import PredictorError, choose
from predictors.active import BELIEF
from predictors.gp import process


def test_what_is_chosen_leaves_less_unknown_than_any_of_many_draws(known):
    def unknown(measured):
        z = known.kin_matrix
        belief = process(known.seen[measured], z[measured], np.zeros(len(measured)), BELIEF)
        return (belief.sd(known.seen, z) ** 2).sum()

    drawn = [unknown(np.random.default_rng(seed).choice(len(known), 12, replace=False)) for seed in range(50)]
    assert unknown(np.array(choose(known, 12))) < min(drawn)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 8), st.sets(st.integers(0, 119), max_size=6))
def test_a_choice_holds_new_candidates_once_and_begins_as_a_shorter_one_does(known, count, measured):
    measured = sorted(measured)
    candidates = np.arange(0, 120, 2)
    chosen = choose(known, count, measured=measured, candidates=candidates)
    assert len(set(chosen)) == count and not set(chosen) & set(measured) and set(chosen) <= set(candidates.tolist())
    assert choose(known, count + 2, measured=measured, candidates=candidates)[:count] == chosen


def test_too_few_candidates_are_refused(known):
    with pytest.raises(PredictorError, match="3 networks to measure out of 2"):
        choose(known, 3, measured=[0], candidates=[0, 1, 2])
