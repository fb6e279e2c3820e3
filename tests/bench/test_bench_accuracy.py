"""Tables of trainings: nothing is done twice, gaps are shown, and module and artifact of a trained net score the same."""

import multiprocessing
import os
import time
from functools import partial

import cv2
import numpy as np
import pytest

from nas.bench.accuracy import Cell, Plan, Table, models, named, qat, run, training
from nas.bench.accuracy import core as frame
from nas.bench.engines import BenchError
from searchspaces import Builder
from searchspaces.blocks import conv_bn_act
from searchspaces.heads import yolov8_head


@pytest.fixture(scope="module")
def discs(tmp_path_factory):
    """A YOLO data set: one bright square or disc a picture, 96 px."""
    root = tmp_path_factory.mktemp("discs")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for i in range(16):
            image = rng.integers(0, 60, (96, 96, 3), dtype=np.uint8)
            label, (x, y), half = i % 2, (int(v) for v in rng.integers(30, 66, 2)), int(rng.integers(12, 24))
            if label:
                cv2.circle(image, (x, y), half, (40, 220, 220), -1)
            else:
                cv2.rectangle(image, (x - half, y - half), (x + half, y + half), (220, 40, 40), -1)
            cv2.imwrite(str(root / "images" / split / f"{i:02d}.png"), image)
            (root / "labels" / split / f"{i:02d}.txt").write_text(f"{label} {x / 96} {y / 96} {half / 48} {half / 48}\n")
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [square, disc]\n")
    return str(root / "data.yaml")


@pytest.fixture(autouse=True)
def untimed(monkeypatch):
    monkeypatch.setattr(frame, "seconds_per_work", lambda accelerator, precision: 60.0)


def small(plan, classes, act="relu"):
    """A detector of twenty convolutions."""
    g = Builder()
    with g.precision(8, 8):
        x = conv_bn_act(g, g.input(3, 96, 96), 16, 3, stride=2, act=act)
        levels = []
        for level, channels in enumerate((24, 32, 32, 32)):
            x = conv_bn_act(g, x, channels, 3, stride=2, act=act)
            levels += [x] * (level > 0)
        return g.graph(yolov8_head(g, levels, classes, act=act, box_width=24, class_width=24))


class Said:
    """A progress that keeps what it is told."""

    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)

    def task(self, name, total, done=0):
        from nas.progress import Silent

        return Silent().task(name, total)


def table_of(calls, fails=()):
    """Three cells, each of a minute, that note their calls; those of `fails` are cut off once."""
    waiting = list(fails)

    def cell(key):
        def work(folder):
            calls.append(key)
            if key in waiting:
                waiting.remove(key)
                raise KeyboardInterrupt
            return {"value": len(calls)}

        return Cell(key, 1.0, work)

    return Table("made-up", "three cells", lambda plan, dataset: [cell(key) for key in "abc"], lambda cells: f"cells {' '.join(cells)}")


def test_a_benchmark_that_was_cut_off_goes_on_with_what_is_missing_and_says_how_long_it_takes(discs, tmp_path):
    plan, calls, said = Plan(discs, 2, 1, "cpu", tmp_path), [], Said()
    table = table_of(calls, fails="b")
    with pytest.raises(KeyboardInterrupt):
        run([table], plan, said)
    found = run([table], plan, said)
    assert calls == ["a", "b", "b", "c"]
    assert said.lines == ["made-up: 3 cells to do, about 3 min", "made-up: 2 cells to do, about 2 min"]
    assert run([table], plan).json()["tables"] == found.json()["tables"] and len(calls) == 4
    assert [f["value"] for f in found.cells["made-up"].values()] == [1, 3, 4] and found.text().endswith("cells a b c")


def test_a_folder_of_another_plan_is_refused_and_more_seeds_are_not(discs, tmp_path):
    run([table_of([])], Plan(discs, 2, 1, "cpu", tmp_path))
    run([table_of([])], Plan(discs, 2, 3, "cpu", tmp_path))
    with pytest.raises(BenchError, match="at 160 px with 2 epochs; give another --out"):
        run([table_of([])], Plan(discs, 4, 1, "cpu", tmp_path))
    with pytest.raises(BenchError, match="no table 'qats'; tables: training, qat"):
        named(["qats"])


def test_several_processes_share_the_cells_of_one_folder(discs, tmp_path):
    """None is done twice, each by one of them, and one that needs another waits for it whoever does it."""
    plan, todo = Plan(discs, 2, 1, "cpu", tmp_path / "out"), [f"cell{k}" for k in range(6)]

    def work(key, folder):
        with (tmp_path / "done").open("a") as done:
            done.write(f"{key} {os.getpid()}\n")
        time.sleep(0.3)
        return {"known": sorted(file.stem for file in (plan.out / "shared-out").glob("*.json"))}

    cells = [Cell("last", 1.0, partial(work, "last"), after=tuple(todo)), *(Cell(key, 1.0, partial(work, key)) for key in todo)]
    table = Table("shared-out", "", lambda plan, dataset: cells, lambda cells: "")
    fork = multiprocessing.get_context("fork")
    others = [fork.Process(target=run, args=([table], plan)) for _ in range(2)]
    for process in others:
        process.start()
    found = run([table], plan)
    for process in others:
        process.join()
        assert process.exitcode == 0
    done = [line.split() for line in (tmp_path / "done").read_text().splitlines()]
    assert sorted(key for key, _ in done) == sorted(["last", *todo]) and len({process for _, process in done}) > 1
    assert found.cells["shared-out"]["last"]["known"] == todo
    assert not list(plan.out.rglob("*.lock"))


def scores(map50):
    return {"map50": map50, "map": map50 / 2, "ap50": {"square": map50, "disc": 1.0}}


def test_texts_show_what_is_known_and_leave_out_what_is_not():
    lines = training.text({f"silu-s{k}": {"training_cpu_seconds": 100.0, "val": scores(0.7 + k / 10)} for k in (0, 2)}).splitlines()
    assert len(lines) == 3 and lines[1].split() == ["act", "split", "seeds", "mAP50", "mAP", "square", "disc", "CPU", "s"]
    assert lines[2].split()[:5] == ["silu", "val", "2", "0.800", "+-0.141"]
    figures = {"val": {"fp32": scores(0.8), "module": scores(0.7), "artifact": scores(0.701)}}
    lines = qat.text({"relu-w2a2-s1": figures}).splitlines()
    assert len(lines) == 3
    assert lines[2].split() == ["relu", "w2a2", "val", "1", "0.800", "0.700", "0.350", "0.701", "0.0010", "0.099", "0.08"]
    better = {"val": {"artifact": scores(0.75)}}
    lines = qat.WAYS_TABLE.text({"usual-s0": figures, "usual-s1": figures, "ladder-8-4-s1": better}).splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["usual", "ladder-8-4"] and lines[3].split()[1:] == ["1", "0.750", "0.375", "0.049"]
    assert training.text({}).endswith("nothing known yet") and qat.text({}).endswith("nothing known yet")


def test_module_and_artifact_of_quantized_nets_that_have_learned_score_the_same(discs, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "ACTS", ("relu",))
    monkeypatch.setattr(qat, "NETS", {("relu", "w4a4"): 0.02, ("relu", "w3a3"): 0.04})
    monkeypatch.setattr(qat, "HARD", ("relu", "w3a3"))
    monkeypatch.setattr(qat, "WAYS", {qat.USUAL: qat.QatSettings()})
    for module in (models, training, qat):
        monkeypatch.setattr(module, "network", small)
    plan = Plan(discs, 44, 1, "cpu", tmp_path)
    found = run(named(["training", "qat", "ways"]), plan)
    assert found.cells["training"]["relu-s0"]["val"]["map50"] > 0.3
    for figures in found.cells["qat"].values():
        val = figures["val"]
        assert val["module"]["map50"] > 0.3 and abs(val["module"]["map50"] - val["artifact"]["map50"]) <= qat.APART
        assert val["fp32"] == found.cells["training"]["relu-s0"]["val"]
    assert found.cells["ways"]["usual-s0"]["val"] == found.cells["qat"]["relu-w3a3-s0"]["val"]  # and was not trained again
    kept = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_dir()}
    assert kept == {"shared", "shared/float", "training", "qat", "ways", "qat/relu-w4a4-s0", "qat/relu-w3a3-s0"}
