import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from searchspaces import YOLO, Choice, Space, SpaceError
from searchspaces.yolo import bits, with_precisions

seeds = st.integers(0, 2**31)


@given(seeds)
@settings(max_examples=50, deadline=None)
def test_samples_children_and_mutants_are_canonical_archs_of_the_space(seed):
    rng = np.random.default_rng(seed)
    a, b = YOLO.sample(rng), YOLO.sample(rng)
    for arch in (a, YOLO.mutate(a, rng), YOLO.mutate(a, rng, rate=0.5), YOLO.crossover(a, b, rng)):
        assert YOLO.arch(arch.genes) == arch
        assert YOLO.decode(YOLO.encode(arch)) == arch
        assert YOLO.repair(arch.genes) == arch


@given(seeds)
@settings(max_examples=50, deadline=None)
def test_a_mutant_differs_and_a_gene_that_cannot_matter_does_not_make_it_so(seed):
    rng = np.random.default_rng(seed)
    arch = YOLO.sample(rng)
    assert YOLO.mutate(arch, rng).key != arch.key
    if arch["neck"] == "fpn":
        assert YOLO.arch({**arch.genes, "pan.depth": 3}).key == arch.key


def test_sampling_is_uniform_over_each_gene():
    genes = YOLO.sample_genes(np.random.default_rng(0), 20_000)
    resolutions = np.bincount(genes[:, 0], minlength=YOLO.sizes[0]) / len(genes)
    assert np.allclose(resolutions, 1 / YOLO.sizes[0], atol=0.01)


def test_repair_takes_the_nearest_option_and_drops_strange_genes():
    arch = YOLO.repair({"resolution": 301, "stage1.width": 1000, "neck": "ring", "moustache": 1})
    assert (arch["resolution"], arch["stage1.width"], arch["neck"]) == (288, 64, "pan")


@pytest.mark.parametrize(
    ("genes", "says"),
    [({"stage2.kernel": 9}, "stage2.kernel.*outside space 'yolo'"), ({"resolution": 97}, "resolution=97.*options are 96, 128")],
)
def test_an_option_outside_the_space_is_named_with_what_would_work(genes, says):
    with pytest.raises(SpaceError, match=says):
        YOLO.arch({**YOLO.repair({}).genes, **genes})


def test_a_missing_gene_is_named():
    with pytest.raises(SpaceError, match="'neck'"):
        YOLO.arch({k: v for k, v in YOLO.repair({}).genes.items() if k != "neck"})


def test_a_device_limits_the_precisions_and_one_that_prices_none_is_refused():
    limited = with_precisions(YOLO, ["w8a8", "fp32"])
    assert {limited.sample(np.random.default_rng(i))["neck.precision"] for i in range(5)} == {"w8a8"}
    float_only = with_precisions(YOLO, ["fp32"])
    graph = float_only.build(float_only.sample(np.random.default_rng(0)), 3)
    assert {graph.precision(conv) for conv in graph.of("conv2d")} == {"fp32"}
    with pytest.raises(SpaceError, match="precision"):
        with_precisions(YOLO, ["w16a16"])


def test_a_condition_on_a_later_gene_is_refused():
    with pytest.raises(SpaceError, match="no earlier gene"):
        Space("s", (Choice("a", (1, 2), when=("b", (1,))), Choice("b", (1, 2))), lambda arch, classes: None)


def test_precision_names_are_pairs_of_bits():
    assert [bits(p) for p in ("w8a8", "w1a2", "fp32")] == [(8, 8), (1, 2), (32, 32)]
