import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.pareto import ParetoError, _ranks_by_matrix, crowding, dominates, front, hypervolume, knee, ranks


def clouds(dimensions, most=12):
    """Points on a small grid, so that ties and duplicates are common."""
    return st.integers(1, dimensions).flatmap(
        lambda m: st.lists(st.lists(st.integers(0, 5).map(float), min_size=m, max_size=m), min_size=1, max_size=most))


def covered_cells(points, reference):
    """Volume by counting the unit cells of the grid that some point dominates."""
    cells = itertools.product(*(range(int(bound)) for bound in reference))
    return sum(any(all(p <= c for p, c in zip(point, cell)) for point in points) for cell in cells)


@given(clouds(4), st.data())
def test_dominates_is_a_strict_order_that_follows_directions(points, data):
    directions = data.draw(st.lists(st.sampled_from(["min", "max"]), min_size=len(points[0]), max_size=len(points[0])))
    sign = [1 if d == "min" else -1 for d in directions]
    for a, b in itertools.product(points[:5], repeat=2):
        expected = all(s * x <= s * y for s, x, y in zip(sign, a, b)) and a != b
        assert dominates(a, b, directions) == expected
        assert not (expected and dominates(b, a, directions))


@settings(max_examples=200)
@given(clouds(4, most=25))
def test_ranks_take_off_one_brute_force_front_after_another(points):
    rank, left, level = ranks(points), set(range(len(points))), 0
    while left:
        best = {i for i in left if not any(dominates(points[j], points[i]) for j in left)}
        assert {i for i in left if rank[i] == level} == best
        left, level = left - best, level + 1
    assert front(points).tolist() == np.flatnonzero(rank == 0).tolist()


@pytest.mark.parametrize("m", [2, 3])
def test_ranks_of_many_points_agree_with_the_table_of_comparisons(m):
    points = np.random.default_rng(3).integers(0, 60, size=(1500, m)).astype(float)
    assert (ranks(points) == _ranks_by_matrix(points)).all()


@given(clouds(4, most=8))
def test_hypervolume_is_the_number_of_dominated_cells(points):
    reference = [5.0] * len(points[0])
    assert hypervolume(points, reference) == pytest.approx(covered_cells(points, reference))


@given(clouds(3), clouds(3))
def test_hypervolume_grows_with_more_points_and_ignores_dominated_ones(points, others):
    m = min(len(points[0]), len(others[0]))
    points, others = [p[:m] for p in points], [p[:m] for p in others]
    reference = [6.0] * m
    volume = hypervolume(points, reference)
    assert hypervolume(points + others, reference) >= volume - 1e-9
    assert hypervolume([points[i] for i in front(points)], reference) == pytest.approx(volume)
    mirrored = [[-x for x in p] for p in points]
    assert hypervolume(mirrored, [-6.0] * m, ["max"] * m) == pytest.approx(volume)


def test_hypervolume_of_no_points_and_of_points_outside_is_zero():
    assert hypervolume([], (1.0, 1.0)) == 0
    assert hypervolume([(2.0, 0.5), (1.0, 0.0)], (1.0, 1.0)) == 0


def test_crowding_is_infinite_at_the_ends_and_the_scaled_gap_between_them():
    assert crowding([(0, 4), (1, 2), (4, 0)]).tolist() == [np.inf, 2.0, np.inf]
    assert crowding([(1, 1), (1, 1), (1, 1)]).tolist() == [0, 0, 0]


def test_knee_is_where_the_front_bulges_most_whatever_the_units():
    bulge = np.array([(0, 10), (2, 1), (6, 0.5), (10, 0)], dtype=float)
    assert knee(bulge) == 1
    assert knee(bulge * [1000, 1]) == 1
    assert knee(bulge * [1, -1], ["min", "max"]) == 1
    assert knee([(3.0, 4.0)]) == 0


@pytest.mark.parametrize("points", [[(1.0, float("nan"))], [(float("inf"), 0.0)], [1.0, 2.0]])
def test_points_that_cannot_be_compared_are_refused(points):
    with pytest.raises(ParetoError):
        ranks(points)
    with pytest.raises(ParetoError, match="directions"):
        ranks([(1.0, 2.0)], ["min", "up"])
