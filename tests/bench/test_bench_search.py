from pathlib import Path

import numpy as np
import pytest

from nas.bench import search as bench
from nas.bench.table_space import OBJECTIVES, REFERENCE, SPACE, Counting, arch_of, counts, name_of, problem
from nas.bench.tables import SCRATCH, load
from nas.pareto import front, hypervolume
from nas.search.core import SearchError
from nas.search.searchers import searcher
from searchspaces import yolobench

FOLDER = Path(__file__).resolve().parents[2] / "../shared/data/yolobench"
PI4 = "raspi4-tflite-fp32"


@pytest.fixture(scope="module")
def tables():
    if not FOLDER.is_dir():
        pytest.skip(f"the YOLOBench tables are not in {FOLDER}")
    return load(FOLDER)


def test_the_space_of_the_table_is_its_968_networks():
    rng = np.random.default_rng(0)
    assert {name_of(arch_of(name)) for name in yolobench.names()} == set(yolobench.names())
    assert {name_of(SPACE.sample(rng)) for _ in range(300)} <= set(yolobench.names())
    assert name_of(arch_of("yolo6s-d6w25_320")) == "yolo6s-d6w25_320"


def test_counts_are_those_of_the_benchmark():
    assert counts("yolo8n_320")["macs_m"] == pytest.approx(1013, abs=1)


def test_a_problem_is_the_protocol(tables):
    task = problem(tables, PI4, SCRATCH)
    assert task.points.shape == (968, 2)
    assert task.points.min(axis=0) == pytest.approx([0, 0]) and task.points[:, 0].max() == pytest.approx(1)
    best = front(task.points)
    assert hypervolume(task.points[best], REFERENCE) == pytest.approx(task.volume)
    arch = arch_of("yolo8n_480")
    row = tables.names.index("yolo8n_480")
    assert task.expensive(arch) == {"map50_95": tables.map50_95[SCRATCH][row]}
    assert task.cheap(arch)["log_latency"] == task.points[row, 0]


def test_a_fine_tuned_table_has_572_networks_and_the_others_fail(tables):
    task = problem(tables, PI4, "coco")
    assert len(task.points) == 572
    with pytest.raises(KeyError):
        task.cheap(arch_of("yolo8s_320") if task.row(arch_of("yolo8s_320")) is None else arch_of("yolo8d33w1_320"))


def test_a_predicted_latency_is_what_searchers_see_and_the_measured_one_is_what_counts(tables):
    wrong = tables.latency_ms[PI4][::-1].copy()
    task = problem(tables, PI4, SCRATCH, wrong)
    assert task.volume == problem(tables, PI4, SCRATCH).volume
    assert task.cheap(arch_of(tables.names[0]))["log_latency"] == pytest.approx(task.points[-1, 0])


def test_hypervolumes_rise_to_the_front_and_count_every_accuracy(tables):
    task = problem(tables, PI4, SCRATCH)
    volumes = bench.hypervolumes(task, searcher("random", SPACE, OBJECTIVES, 0), 2000)
    assert (np.diff(volumes) > -1e-12).all() and len(volumes) <= 968
    assert volumes[-1] >= 0.999 * task.volume
    assert len(bench.hypervolumes(task, searcher("random", SPACE, OBJECTIVES, 0), 50)) == 50


def test_the_surrogate_knows_the_front_long_before_nsga2_does(tables):
    found = bench.run(tables, searchers=["surrogate", bench.TRANSFER, "nsga2"], devices=[PI4, "vim3-npu-int16"], seeds=3)
    needed = {(row.searcher, row.device): row.median_evals_99 for row in found.rows}
    for device in (PI4, "vim3-npu-int16"):
        assert needed["surrogate", device] <= 45 and needed[bench.TRANSFER, device] <= 45
        assert needed["nsga2", device] > 90
    assert set(found.json()["rows"][0]) >= {"searcher", "device", "latency", "median_evals_95", "median_evals_99", "seeds"}
    assert all(row.searcher in found.text() for row in found.rows)


def test_a_search_over_the_budget_has_no_figure(tables):
    row = bench.run(tables, searchers=["random"], devices=[PI4], seeds=2, budget=20).rows[0]
    assert row.median_evals_99 is None and " - " in bench.run(tables, searchers=["random"], devices=[PI4], seeds=1, budget=5).text()


def test_transfer_never_learns_from_the_labels_it_is_judged_on():
    assert all(bench.source(data) != data for data in ("voc-scratch", "voc", "coco", "sku110k", "widerface"))


def test_unknown_names_are_refused_with_the_list(tables):
    for names in ({"searchers": ["annealing"]}, {"devices": ["abacus"]}, {"data": ["imagenet"]}):
        with pytest.raises(SearchError, match="there are"):
            bench.run(tables, **names)


def test_the_counting_belief_rises_with_resolution():
    names = [f"yolo8n_{side}" for side in yolobench.RESOLUTIONS]
    beliefs = Counting.over(names)([arch_of(name) for name in names], [counts(name) for name in names])
    assert (np.diff(beliefs) > 0).all()
