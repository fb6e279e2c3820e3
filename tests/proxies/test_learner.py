"""Structure, the learners of accuracy and the protocols that judge them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxies import ProxyError
from proxies.learner import aggregated, fit_monotone, learn
from proxies.protocols import Setting, families_seen, families_unseen, ridge_learner, unseen_predictions
from proxies.ranking import kendall_tau
from proxies.structure import FEATURES, NAMES, structure
from searchspaces import Builder, yolobench
from searchspaces.blocks import conv_bn_act, repvgg
from searchspaces.heads import yolov8_head

seeds = st.integers(0, 2**32 - 1)


def test_structure_counts_paths_to_the_raw_maps_and_widths_by_stride():
    g = Builder()
    x = conv_bn_act(g, g.input(3, 64, 64), 8, 3, stride=2, act="relu")
    x = conv_bn_act(g, x, 16, 3, stride=2, act="relu")
    x = g.add(x, conv_bn_act(g, x, 16, 3, act="silu"))
    x = conv_bn_act(g, x, 32, 3, stride=2, act="relu")
    graph = g.graph(yolov8_head(g, [x], 3, act="relu", box_width=8, class_width=8, strides=(8,)))
    found = structure(graph)
    assert np.exp(found["log_longest_path"]) == pytest.approx(4 + 2)  # body, residual branch included, and two 3x3 of the head
    assert np.exp(found["log_shortest_path"]) == pytest.approx(3 + 3)  # past the residual branch; the head's last conv is 1x1
    assert np.exp(found["log_width"]) == pytest.approx(np.sqrt(16 * 32))  # strides 4 and 8
    assert np.exp(found["log_convs"]) == pytest.approx(4 + 6)
    assert np.exp(found["log_head_macs"]) == pytest.approx(8 * 8 * (2 * (9 * 32 * 8 + 9 * 8 * 8) + 8 * 64 + 8 * 3))
    elements = 8 * 32 * 32 + 2 * 16 * 16 * 16 + 32 * 8 * 8 + 8 * 8 * (4 * 8 + 64 + 3)
    assert found["smooth_share"] == pytest.approx((16 * 16 * 16 + 8 * 8 * (64 + 3)) / elements)
    assert np.exp(found["log_activation_elements"]) == pytest.approx(elements)


def test_structure_sees_a_rep_block_as_the_conv_it_becomes():
    def net(block):
        g = Builder()
        x = block(g, conv_bn_act(g, g.input(3, 64, 64), 8, 3, stride=2, act="relu"), 8)
        return structure(g.graph(yolov8_head(g, [x], 3, act="relu", box_width=8, class_width=8, strides=(2,))))

    rep, plain = net(repvgg), net(lambda g, x, c: conv_bn_act(g, x, c, 3, act="relu"))
    assert {k: v for k, v in rep.items() if k != "log_params"} == {k: v for k, v in plain.items() if k != "log_params"}


def test_structure_of_a_graph_without_convs_is_an_error():
    g = Builder()
    with pytest.raises(ProxyError, match="without a conv"):
        structure(g.graph(g.maxpool(g.input(3, 8, 8), 3)))


def toy(seed, n=60):
    """Features of random networks and an accuracy that follows them, one family in four."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, len(FEATURES)))
    signs = [1 if feature.rises else -1 for feature in FEATURES]
    return x, 1 / (1 + np.exp(-0.3 * np.tanh(x) @ signs)), [f"family{i % 4}" for i in range(n)]


@given(seeds)
def test_what_is_learned_from_thirty_labels_ranks_the_rest(seed):
    x, y, _ = toy(seed)
    assert kendall_tau(learn(x[:30], y[:30], x)(x[30:]), y[30:]) > 0.5


@given(seeds)
def test_the_monotone_part_never_turns_whatever_the_labels(seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(12, len(FEATURES)))
    term = fit_monotone(x, rng.uniform(size=12))
    at, more = x.copy(), rng.integers(len(FEATURES))
    at[:, more] += rng.uniform(0, 3) * (1 if FEATURES[more].rises else -1)
    assert (term(at) >= term(x) - 1e-12).all()


@given(seeds, st.floats(0, 1))
def test_a_slope_that_is_given_stays_and_the_rest_is_fitted_to_what_it_leaves(seed, slope):
    x, y, _ = toy(seed)
    left = 1 / (1 + 1 / (y / (1 - y) * np.exp(-slope * x[:, -1])))
    term = fit_monotone(x, y, slopes={FEATURES[-1].name: slope})
    others = fit_monotone(x, left, slopes={FEATURES[-1].name: 0.0})
    assert term.logit(x) == pytest.approx(others.logit(x) + slope * x[:, -1], abs=1e-9)


@pytest.mark.parametrize(("x", "y"), [
    (np.zeros((1, len(FEATURES))), [0.5]), (np.zeros((3, 2)), [0.1, 0.2, 0.3]), (np.zeros((2, len(FEATURES))), [0.5, 1.5]),
    (np.full((2, len(FEATURES)), np.nan), [0.5, 0.6]),
])  # fmt: skip
def test_labels_and_features_that_do_not_fit_are_an_error(x, y):
    with pytest.raises(ProxyError):
        learn(x, np.array(y))


@given(st.lists(st.tuples(st.integers(1, 1000), st.integers(1, 1000)), min_size=2, max_size=9, unique=True))
def test_rank_aggregation_sees_ranks_alone(rows):
    a, b = (np.array(column, dtype=float) for column in zip(*rows))
    assert aggregated([a, b], [True, False]) == pytest.approx(aggregated([a**3, np.log(b)], [True, False]))
    assert aggregated([a], [True]).argmax() == aggregated([-a], [False]).argmax()


def test_ranks_that_do_not_fit_are_an_error():
    with pytest.raises(ProxyError, match="2 proxies and 1 directions"):
        aggregated([np.ones(2), np.ones(2)], [True])


def test_no_learner_sees_a_label_of_the_family_it_predicts():
    _, y, families = toy(0)
    asked_of = []

    def learner(known, asked):
        assert not {families[i] for i in known} & {families[i] for i in asked}
        asked_of.extend(asked.tolist())
        return y[asked]

    found = unseen_predictions(learner, Setting(y, families), labels=9)
    assert sorted(asked_of) == list(range(len(y)))
    assert found.tolist() == y.tolist()


def test_seen_families_are_judged_on_what_was_not_drawn():
    _, y, families = toy(0)

    def learner(known, asked):
        assert len(known) == 9
        assert not set(known.tolist()) & set(asked.tolist())
        return y[asked]

    times = np.ones(len(y))
    found = families_seen(learner, Setting(y, families, {"device": times}), 9, draws=2)
    assert found.tau == 1
    assert found.tau_band == {"device": 1}


@pytest.mark.parametrize("protocol", [families_unseen, families_seen])
def test_more_labels_than_there_are_is_an_error(protocol):
    x, y, families = toy(0)
    with pytest.raises(ProxyError, match="labels"):
        protocol(ridge_learner(x, y), Setting(y, families), 60, 1)


def test_the_features_of_the_score_are_those_of_structure():
    assert tuple(structure(yolobench.build("yolo5n_160"))) == NAMES
