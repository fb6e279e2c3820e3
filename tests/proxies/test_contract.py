"""What every proxy of the catalog promises, and how score and catalog treat those that break it."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import proxies
from proxies import PROXIES, ProxyError, catalog, find, proxy, score
from proxies import probe as make_probe
from proxies.combine import calibrated
from searchspaces import YOLO
from searchspaces.module import to_torch
from searchspaces.yolobench import detector, parse

every_proxy = pytest.mark.parametrize("item", PROXIES.values(), ids=list(PROXIES))


@every_proxy
def test_every_proxy_gives_the_same_score_twice(item, tiny, small_probe):
    first, second = (score(item, tiny(), small_probe, seeds=(3,)) for _ in range(2))
    assert first.error is None
    assert math.isfinite(first.number())
    assert first.values == second.values
    assert first.seconds > 0


@every_proxy
def test_every_proxy_leaves_torchs_random_state_and_the_probe_alone(item, tiny, small_probe):
    images, state = small_probe.images.clone(), torch.get_rng_state()
    score(item, tiny(), small_probe)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(small_probe.images, images)


@every_proxy
def test_every_proxy_leaves_a_model_it_is_given_unchanged(item, tiny, small_probe):
    model = to_torch(tiny())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    value = score(item, model, small_probe).number()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert score(item, model, small_probe).number() == value


@every_proxy
def test_every_proxy_says_where_it_comes_from_and_what_it_is(item):
    assert item.source
    assert item.summary
    assert item.file.endswith(".py")


@every_proxy
def test_every_proxy_scores_every_family_of_detectors(item, families):
    """Transposed convs, learned scalars, rep branches, shared heads and maps of three levels: a finite number, of each its own."""
    seen = make_probe(None, 64, classes=20, images=4)
    found = {name: score(item, graph, seen) for name, graph in families.items()}
    assert {name: value.error for name, value in found.items() if value.error} == {}
    alike = {"resolution", "quant_noise", "swap"}  # of one side, in float, and so few images that every pattern occurs
    assert item.name in alike or len({value.value for value in found.values()}) == len(found)


@pytest.fixture(scope="session")
def families():
    """The smallest detector of each YOLOBench family and two samples of the joint space, at 64 px."""
    rng = np.random.default_rng(4)
    samples = [YOLO.repair(dict(YOLO.sample(rng).genes) | {"resolution": 96, "stem.width": 8}) for _ in range(2)]
    named = ["yolo3n", "yolo4n", "yolo5n", "yolo6s-d33w25", "yolo6m-d33w25", "yolo6l-d33w25", "yolo7n", "yolo8n"]
    graphs = {name: detector(replace(parse(name), resolution=64), 20) for name in named}
    return graphs | {f"yolo space {i}": YOLO.build(arch, 20) for i, arch in enumerate(samples)}


def test_score_takes_an_arch_and_resizes_the_probe_to_it():
    genes = {"resolution": 96, "backbone.block": "c3", "stem.width": 8}
    arch = YOLO.repair(genes)
    seen = []

    @proxy(higher_is_better=True, needs={"graph"}, source="test")
    def looks(graph, probe):
        seen.append((tuple(probe.images.shape), probe.seed, probe.graph is graph, probe.rng.integers(1000)))
        return 1.0

    score(looks, arch, make_probe(None, 64, images=2), seeds=(4, 5))
    assert [row[:3] for row in seen] == [((2, 3, 96, 96), 4, True), ((2, 3, 96, 96), 5, True)]
    assert seen[0][3] == np.random.default_rng(4).integers(1000)


def test_score_reports_mean_and_standard_deviation_over_seeds(tiny, small_probe):
    @proxy(higher_is_better=False, needs={"graph"}, source="test")
    def counts(graph, probe):
        return float(probe.seed)

    result = score(counts, tiny(), small_probe, seeds=(1, 2, 6))
    assert (result.value, result.values) == (3.0, (1.0, 2.0, 6.0))
    assert result.noise == pytest.approx(np.std([1, 2, 6], ddof=1))


def test_seeds_change_the_start_weights(tiny, small_probe):
    assert score(PROXIES["nwot"], tiny(), small_probe, seeds=(0, 1)).noise > 0


@pytest.mark.parametrize(("value", "reason"), [(float("nan"), "the value is nan"), (float("inf"), "the value is inf")])
def test_a_value_that_is_no_number_is_a_failed_score_with_its_reason(value, reason, tiny, small_probe):
    @proxy(higher_is_better=True, source="test")
    def broken(model, probe):
        return value

    result = score(broken, tiny(), small_probe, seeds=(7,))
    assert result.value is None
    assert result.error == f"broken (seed 7): {reason}"
    with pytest.raises(ProxyError, match="broken"):
        result.number()


def test_a_fault_inside_a_proxy_is_a_failed_score_that_names_it(tiny, small_probe):
    @proxy(higher_is_better=True, source="test")
    def crashes(model, probe):
        raise RuntimeError("no such layer")

    assert score(crashes, tiny(), small_probe).error == "crashes (seed 0): RuntimeError: no such layer"


def test_a_proxy_that_needs_gradients_gets_them_and_another_does_not(tiny, small_probe):
    @proxy(higher_is_better=True, needs={"gradient"}, source="test")
    def differentiates(model, probe):
        probe.loss(model).backward()
        return sum(float(w.grad.abs().sum()) for w in model.parameters() if w.grad is not None)

    @proxy(higher_is_better=True, source="test")
    def asks(model, probe):
        return float(probe.loss(model).requires_grad)

    assert score(differentiates, tiny("fp32"), small_probe).number() > 0
    assert score(asks, tiny("fp32"), small_probe).number() == 0


def test_detection_loss_falls_when_it_is_trained_on(tiny, small_probe):
    torch.manual_seed(0)
    model = to_torch(tiny("fp32"))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = small_probe.loss(model)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_two_proxies_of_one_name_raise_naming_both_files():
    @proxy(higher_is_better=True, source="test")
    def nwot(model, probe):
        return 0.0

    with pytest.raises(ProxyError, match=r"two proxies are named 'nwot'.*activation\.py.*test_contract\.py"):
        catalog(PROXIES["nwot"], nwot)


def test_an_undecorated_function_is_refused_by_the_catalog():
    with pytest.raises(ProxyError, match="decorate a function"):
        catalog(lambda model, probe: 0.0)


def test_an_unknown_proxy_is_named_and_the_known_ones_are_listed():
    with pytest.raises(ProxyError, match="unknown proxy 'nowt'; proxies: nwot_conv, nwot, swap"):
        find("nowt", PROXIES)


def test_an_unknown_need_is_refused():
    with pytest.raises(ProxyError, match="needs 'labels'"):
        proxy(higher_is_better=True, needs={"labels"}, source="test")(lambda model, probe: 0.0)


@pytest.mark.parametrize(("kwargs", "message"), [
    ({"resolution": 100}, "multiple of 32"), ({"images": 1}, "at least 2 images"), ({"samples": []}, "at least 2 images"),
    ({"samples": [np.zeros((8, 8, 3), np.float32)] * 2}, "float32 of shape"),
    ({"samples": [np.zeros((8, 8, 3), np.uint8)] * 2, "boxes_xyxy": [np.zeros((0, 4))]}, "boxes and labels for each"),
])  # fmt: skip
def test_a_probe_that_cannot_be_used_is_refused(kwargs, message):
    with pytest.raises(ProxyError, match=message):
        make_probe(**kwargs)


def test_a_probe_of_real_images_is_resized_and_stays_in_range():
    rng = np.random.default_rng(0)
    samples = [rng.integers(0, 256, (40 + 10 * i, 70, 3), dtype=np.uint8) for i in range(3)]
    found = make_probe(samples, 64, boxes_xyxy=[np.zeros((0, 4)), np.array([[0.1, 0.1, 0.5, 0.6]]), np.zeros((0, 4))],
                       labels=[[], [1], []], classes=3)
    assert found.images.shape == (3, 3, 64, 64)
    assert 0 <= float(found.images.min()) <= float(found.images.max()) <= 1
    assert [len(labels) for labels in found.labels] == [0, 1, 0]


def test_a_proxy_called_without_score_knows_no_graph(small_probe):
    with pytest.raises(ProxyError, match="knows no graph"):
        _ = small_probe.graph


def test_the_package_names_its_proxies_and_ships_its_calibration():
    assert {"nwot", "quant_noise", "macs", "params", "activation_elements", "resolution"} <= set(proxies.PROXIES)
    assert "YOLOBench" in calibrated().source
