import numpy as np
import pytest
import search_toys as toys
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.objectives import Objective, violations
from nas.pareto import hypervolume
from nas.search.acquisition import expected_shortfall, hypervolume_gain, staircase
from nas.search.core import Ledger
from nas.search.features import Features
from nas.search.latent import Latent, level
from nas.search.local import neighbours
from nas.search.pool import Pools, spread
from nas.search.searchers import searcher
from nas.search.transfer import Learned
from nas.study import Trial
from searchspaces.space import Choice, Space

coordinates = st.floats(0, 1.25, allow_nan=False, width=32)
points = st.lists(st.tuples(coordinates, coordinates), min_size=0, max_size=12).map(lambda rows: np.array(rows).reshape(-1, 2))
REFERENCE = (1.05, 1.05)
ACCURACY = Objective("score", "", "max", "expensive")


@settings(max_examples=200)
@given(points, st.tuples(coordinates, coordinates))
def test_the_gain_of_a_certain_candidate_is_the_growth_of_the_hypervolume(front, candidate):
    grown = hypervolume(np.concatenate((front, [candidate])), REFERENCE) - (hypervolume(front, REFERENCE) if len(front) else 0.0)
    gain = hypervolume_gain(np.array([candidate]), np.zeros((1, 2)), front, REFERENCE)
    assert gain[0] == pytest.approx(grown, abs=1e-9)


@pytest.mark.parametrize("sd", [(0.0, 0.2), (0.15, 0.0), (0.1, 0.3)])
def test_the_gain_of_an_uncertain_candidate_is_the_mean_over_its_outcomes(sd):
    rng = np.random.default_rng(0)
    front = rng.random((8, 2))
    mean = np.array([[0.3, 0.2], [0.9, 0.9]])
    outcomes = mean[:, None] + rng.standard_normal((2, 40_000, 2)) * sd
    means = [hypervolume_gain(rows, np.zeros_like(rows), front, REFERENCE).mean() for rows in outcomes]
    assert hypervolume_gain(mean, np.tile(sd, (2, 1)), front, REFERENCE) == pytest.approx(means, rel=0.03, abs=1e-3)


@given(points)
def test_a_staircase_is_the_undominated_points_and_spans_the_same_volume(rows):
    stairs = staircase(rows, REFERENCE)
    assert (np.diff(stairs[:, 0]) > 0).all() and (np.diff(stairs[:, 1]) < 0).all()
    assert hypervolume(stairs, REFERENCE) == pytest.approx(hypervolume(rows, REFERENCE) if len(rows) else 0.0)


def test_the_shortfall_of_a_certain_number_is_what_lacks_to_the_level():
    assert expected_shortfall(np.array([1.0, 1.0]), np.array([0.25, 2.0]), np.zeros(2)).tolist() == [0.75, 0.0]


@pytest.mark.parametrize("objective", [ACCURACY, Objective("latency_ms", "ms"), Objective("loss", "")])
def test_latents_and_levels_are_inverse_and_better_is_larger(objective):
    values = np.array([0.1, 0.3, 0.35, 0.6])
    levels = level(objective, values)
    link = Latent.fitted(objective, levels)
    latents = link.of(levels)
    assert link.levels(latents, np.zeros(4))[0] == pytest.approx(levels)
    assert (np.argsort(latents) == np.argsort(-levels)).all()
    assert (link.levels(latents, np.full(4, 0.1))[1] > 0).all()


def test_features_are_logs_of_numbers_bits_of_precisions_and_flags_of_names():
    space = Space("s", (Choice("width", (8, 16)), Choice("act", ("relu", "silu", "mish")), Choice("p", ("w8a8", "w4a8")),
                        Choice("fixed", (1,))), toys.SPACE.build)
    genes = np.indices((2, 3, 2, 1)).reshape(4, -1).T
    columns = [{"macs_m": float(i + 1), "latency_ms": 1.0} for i in range(len(genes))]
    rows = Features(space, genes, columns)(genes, columns)
    assert rows.shape == (12, 1 + 3 + 2 + 1)
    assert rows.mean(axis=0) == pytest.approx(0, abs=1e-9)
    assert rows[:, [0, 4, 6]].std(axis=0) == pytest.approx(1)
    assert np.ptp(rows[:, 1:4], axis=0) == pytest.approx(1)


def test_neighbours_step_in_numbers_and_jump_in_names():
    space = Space("s", (Choice("width", (8, 16, 32, 64)), Choice("act", ("relu", "silu", "mish"))), toys.SPACE.build)
    assert sorted(neighbours(space, np.array([1, 1])).tolist()) == [[0, 1], [1, 0], [1, 2], [2, 1]]
    assert sorted(neighbours(space, np.array([0, 2])).tolist()) == [[0, 0], [0, 1], [1, 2]]


def test_pools_hold_what_can_be_costed_within_the_limits_and_was_not_asked():
    def cheap(arch):
        if arch["neck"] == "fpn":
            raise RuntimeError("cannot be costed")
        return toys.cheap(arch)

    rng = np.random.default_rng(0)
    ledger = Ledger(toys.SPACE, rng)
    pools = Pools(toys.SPACE, ledger, rng, toys.objectives(latency=6.0), cheap, toys.belief, 64)
    pool = pools.random(4)
    for _ in range(3):
        archs = [toys.SPACE.decode(genes) for genes in pool.genes.tolist()]
        assert pool.columns == [toys.cheap(arch) for arch in archs]
        assert all(arch["neck"] == "pan" and row["latency_ms"] <= 6.0 for arch, row in zip(archs, pool.columns))
        assert pool.beliefs.tolist() == toys.belief(archs, pool.columns).tolist()
        taken = {genes.tobytes() for genes in ledger.fresh(pool.genes[:5])}
        pools.keep(pool, rng.random(len(pool)))
        pool = pools.around(pool.genes[:5])
        assert not taken & {genes.tobytes() for genes in pool.genes} and len(np.unique(pool.genes, axis=0)) == len(pool)


def test_starts_are_spread_over_the_known_objective_and_believed_in():
    rng = np.random.default_rng(0)
    pools = Pools(toys.SPACE, Ledger(toys.SPACE, rng), rng, toys.objectives(latency=None), toys.cheap, toys.belief, 64)
    pool = pools.random(8)
    known = np.log([row["latency_ms"] for row in pool.columns])
    chosen = spread(pool, known, 4, rng)
    assert np.digitize(known[chosen], np.quantile(known, [0.25, 0.5, 0.75])).tolist() == [0, 1, 2, 3]
    above = pool.beliefs - np.polyval(np.polyfit(known, pool.beliefs, 1), known)
    assert above[chosen].mean() > above.mean() + above.std() / 2


def searched(name, seed, budget, *, objectives=None, **settings):
    """Points (log latency, -score) of the trials that were spent, and all trials."""
    objectives = objectives or (Objective("latency_ms", "ms", limit=6.0), Objective("size_mb", "MB", optimized=False), ACCURACY)
    search = searcher(name, toys.SPACE, objectives, seed, **settings)
    trials, spent = [], []
    while len(spent) < budget:
        for arch in [search.ask() for _ in range(search.batch)]:
            columns = toys.cheap(arch)
            state = "infeasible" if violations(columns, objectives) else "ok"
            if state == "ok":
                columns |= {"score": 1 / (1 + np.exp(4 - toys.gain(arch) / 25))}
                spent.append((np.log(columns["latency_ms"]), -columns["score"]))
            trials.append(Trial(len(trials), arch, state, columns, spent=state == "ok"))
        for trial in trials[-search.batch:]:
            search.tell(trial)
    return np.array(spent[:budget]), trials


def volume(spent):
    return hypervolume(spent, (np.log(6.0), 0.0))


def test_the_surrogate_is_ahead_of_nsga2_after_sixty_evaluations_for_every_seed():
    for seed in range(3):
        blind = volume(searched("nsga2", seed, 60)[0])
        assert volume(searched("surrogate", seed, 60, cheap=toys.cheap, candidates=256)[0]) > 1.1 * blind


def test_the_surrogate_asks_nothing_that_misses_a_known_limit_where_networks_within_are_common():
    trials = searched("surrogate", 0, 40, cheap=toys.cheap)[1]
    assert {trial.state for trial in trials} == {"ok"}


def test_the_surrogate_leaves_limits_that_random_networks_miss_to_nsga2_and_then_goes_on():
    tight = (Objective("latency_ms", "ms", limit=0.75), Objective("size_mb", "MB", optimized=False), ACCURACY)
    counted = []
    trials = searched("surrogate", 1, 60, objectives=tight, cheap=lambda arch: counted.append(arch) or toys.cheap(arch))[1]
    first = next(i for i, trial in enumerate(trials) if trial.state == "ok")
    assert sum(trial.state == "infeasible" for trial in trials[first + 60 :]) < len(trials[first + 60 :]) / 2
    assert len(counted) < 4000


def test_what_one_score_has_taught_starts_the_search_for_another():
    rng = np.random.default_rng(5)
    archs = [toys.SPACE.sample(rng) for _ in range(150)]
    columns = [toys.cheap(arch) for arch in archs]
    taught = Learned(toys.SPACE, archs, columns, ACCURACY, [1 / (1 + np.exp(4 - toys.gain(arch) / 20)) for arch in archs])
    fresh = [toys.SPACE.sample(rng) for _ in range(100)]
    beliefs = taught(fresh, [toys.cheap(arch) for arch in fresh])
    assert np.corrcoef(beliefs, [toys.gain(arch) for arch in fresh])[0, 1] > 0.97
    for seed in range(2):
        told = searched("surrogate", seed, 16, cheap=toys.cheap, belief=taught)[0]
        assert volume(told) > volume(searched("surrogate", seed, 16, cheap=toys.cheap)[0])


def test_known_networks_are_asked_first_and_none_twice():
    judge = toys.evaluation()
    known = [toys.SPACE.sample(np.random.default_rng(seed)) for seed in (0, 1, 0)]
    search = searcher("surrogate", toys.SPACE, judge.objectives, 3, cheap=judge.cheap, belief=toys.belief, known=known)
    asked = [search.ask() for _ in range(10)]
    assert asked[:2] == known[:2] and len(set(asked)) == 10
