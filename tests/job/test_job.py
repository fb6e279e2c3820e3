import importlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest

import nas
from hwmodels.limits import priced
from hwmodels.workload import workload
from nas.candidates import PROMISED, Promise, columns, evaluation, promised
from nas.finalist import LAYER_BITS, Recipe, misses_untrained, with_layer_bits
from nas.job import JobError, NothingFits, Run
from nas.model import load
from nas.objectives import violations
from nas.quant.precisions import free_layers
from nas.report import write_report
from nas.scoring import probe_of
from nas.search.loop import Infeasible
from nas.study import Study
from searchspaces import SPACES
from searchspaces.quantizers import quantized
from searchspaces.rewrite import deployed

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"latency_ms": 1.5, "size_mb": 0.4}


def start(squares, device, out, limits=SMALL, **settings):
    chosen = {"budget": 10, "finalists": 1, "recipe": Recipe(epochs=2, accelerator="cpu"), **settings}
    given = {f"max_{name}": value for name, value in limits.items()}
    return nas.search(squares, device=str(device), out=out, **given, **chosen)


@pytest.fixture(scope="module")
def run(squares, device, tmp_path_factory):
    return start(squares, device, tmp_path_factory.mktemp("run") / "r", finalists=2)


def outcome(path):
    """Everything of a finished run that must not depend on how often it was cut off."""
    with Study.open(path / "study.db") as study:
        trials = study.fingerprint()
    run = Run.open(path)
    finalists = [(f.trial, f.genes, f.predicted, f.verified.map50, f.verified.size_mb, f.verified.bit_exact) for f in run.finalists]
    models = [load(run.folder(f.trial) / "quantized.safetensors").weights.arrays() for f in run.finalists]
    return trials, finalists, [{name: array.tobytes() for name, array in model.items()} for model in models]


def test_a_job_ends_with_verified_finalists_within_every_limit(run):
    assert len(run.trials) >= 10 and run.front
    assert sum(trial.spent for trial in run.trials) == 10
    assert len(run.finalists) == 2 and all(f.met for f in run.finalists)
    for finalist in run.finalists:
        found = finalist.verified
        assert found.bit_exact and found.size_mb <= SMALL["size_mb"] and 0 <= found.map50 <= 1
        by_name = {constraint.name: constraint for constraint in found.constraints}
        assert by_name["size_mb"].measured and not by_name["latency_ms"].measured  # that board is not this machine


def test_predicted_ram_and_size_are_what_the_artifact_has(run):
    for finalist in run.finalists:
        assert finalist.predicted["ram_kib"] == pytest.approx(finalist.verified.ram_kib)
        assert finalist.predicted["size_mb"] == pytest.approx(finalist.verified.size_mb, rel=0.03)


@pytest.mark.parametrize("pick", ["knee", "best", "fastest"])
def test_every_pick_exports_what_predict_can_run(run, pick, squares, tmp_path):
    from nas.predict import predict

    picture = next((squares.parent / "images" / "val").glob("*.png"))
    for format, name in (("edge", "m.edge"), ("onnx", "m.onnx"), ("onnx-int8", "q.onnx")):
        model = run.export(pick, format, tmp_path / name)
        rows = list(predict(model, picture, tmp_path / f"{name}.png", score=0.0))
        assert rows[0]["objects"] and Path(rows[0]["saved"]).stat().st_size > 0
        assert {o["class"] for o in rows[0]["objects"]} <= {"square", "disc"}


def test_an_onnx_export_gives_the_boxes_of_the_float_model(run, tmp_path):
    import onnxruntime as ort
    import torch

    from nas.runtime import decode
    from searchspaces.module import to_torch
    from searchspaces.quantizers import floated

    finalist = run.pick("best")
    model = load(run.folder(finalist.trial) / "float.safetensors")
    path = run.export("best", "onnx", tmp_path / "m.onnx")
    images = np.random.default_rng(0).random((1, 3, model.size, model.size), dtype=np.float32)
    boxes, scores = ort.InferenceSession(str(path)).run(["boxes", "scores"], {"images": images})
    maps = [m[0].detach().numpy() for m in to_torch(floated(model.graph), model.weights).eval()(torch.from_numpy(images))]
    pairs = [part for m in maps for part in (m[:64], m[64:])]
    wanted_boxes, wanted_scores = decode(pairs, (8, 16, 32), 16, 2)
    assert np.allclose(scores[0], wanted_scores, atol=1e-4)
    assert np.allclose(boxes[0], wanted_boxes, atol=0.05)


def test_asking_for_a_pick_or_format_that_is_not_there_says_what_is(run, tmp_path):
    with pytest.raises(JobError, match="best, fastest, knee"):
        run.pick("cheapest")
    with pytest.raises(ValueError, match="edge, onnx"):
        run.export("best", "tflite", tmp_path / "x")


def test_a_second_run_in_one_folder_is_refused_and_a_finished_one_resumes_to_itself(run, squares, device):
    with pytest.raises(JobError, match="resume"):
        start(squares, device, run.path)
    before = outcome(run.path)
    nas.resume(run.path)
    assert outcome(run.path) == before


def test_what_a_search_begins_with_keeps_its_limits_and_promises_more_than_as_many_random_networks(run):
    judge = evaluation(run.device, 2, probe_of(run.data), SMALL)
    space, promise = priced(SPACES["yolo"], run.device), Promise(2)
    asked = promised(space, judge, 2, budget=60, seed=0)
    assert len(asked) == 15 and len(set(asked)) == 15
    assert not any(violations(judge.cheap(arch), judge.objectives) for arch in asked)
    rng = np.random.default_rng(0)
    drawn = [space.sample(rng) for _ in range(60 * PROMISED)]
    within = [promise.of(arch) for arch in drawn if not violations(judge.cheap(arch), judge.objectives)]
    assert max(map(promise.of, asked)) > max(within)


def test_what_a_search_began_with_is_kept_and_comes_before_anything_learned(run, monkeypatch):
    with Study.open(run.path / "study.db") as study:
        kept = study.stage("begun")
    assert [dict(trial.arch.genes) for trial in run.trials][: len(kept)] == kept
    monkeypatch.setattr(importlib.import_module("nas.job"), "promised", None)  # not asked again
    nas.resume(run.path)


def test_limits_that_nothing_can_meet_end_with_the_nearest_miss(squares, device, tmp_path):
    with pytest.raises(Infeasible, match=r"nearest miss.*latency_ms"):
        start(squares, device, tmp_path / "r", {"latency_ms": 1e-4}, budget=2)


def test_a_finalist_that_fails_when_measured_is_replaced_and_the_end_says_why(squares, device, tmp_path, monkeypatch):
    import nas.job

    real, seen = nas.job.verify, []

    def never_fits(path, dataset, **kwargs):
        found = real(path, dataset, **kwargs)
        seen.append(path)
        return msgspec.structs.replace(found, constraints=tuple(msgspec.structs.replace(c, value=c.limit * 2) for c in found.constraints))

    monkeypatch.setattr(nas.job, "verify", never_fits)
    monkeypatch.setattr(nas.job, "TRIES_PER_FINALIST", 2)
    with pytest.raises(NothingFits, match=r"size_mb 0.8 is above 0.4"):
        start(squares, device, tmp_path / "r")
    assert len(seen) == 2


@pytest.mark.parametrize(("latency", "ram", "why"), [
    (0.96, 100, ""),
    (0.98, 100, "latency_ms is 0.98 ms untrained, too near the limit"),
    (1.02, 100, "latency_ms is 1.02 ms, 0.02 ms (2 %) above the limit of 1 ms"),
    (0.98, 101, "ram_kib is 101 KiB, 1 KiB (1 %) above the limit of 100 KiB"),
])  # fmt: skip
def test_an_untrained_candidate_keeps_a_margin_below_the_limit_that_is_timed_again(tmp_path, run, latency, ram, why):
    (tmp_path / "untrained.json").write_text(json.dumps({"latency_ms": latency, "ram_kib": ram}))
    limits = columns({"latency_ms": 1.0, "ram_kib": 100.0})
    assert misses_untrained(run.trials[0].arch, run.data, tmp_path, limits) == why


def test_layers_get_bits_of_their_own_where_these_keep_the_limits_and_the_genes_where_not(squares, device, narrow, tmp_path):
    found = start(squares, device, tmp_path / "r", {"size_mb": 0.4}, space=narrow, layer_bits=True)
    (finalist,) = found.finalists
    folder = found.folder(finalist.trial)
    chosen = json.loads((folder / LAYER_BITS).read_text())
    graph = load(folder / "quantized.safetensors").graph
    assert {node.name: f"w{node['wbits']}a{node['abits']}" for node in free_layers(graph)} == chosen and len(set(chosen.values())) > 1
    assert finalist.layer_bits == chosen and sum(int(part.split()[0]) for part in finalist.bits_of_layers.split(", ")) == len(chosen)
    assert finalist.bits_of_layers in write_report(found).read_text()
    assert finalist.met
    priced = found.device.predict(workload(deployed(quantized(graph))))
    assert (finalist.verified.predicted_ms, finalist.verified.predicted_low_ms) == (priced.mean_ms, priced.low_ms)

    trained = load(folder / "float.safetensors")
    tighter = with_layer_bits(trained, found.data, found.device, {"size_mb": 0.7 * finalist.verified.size_mb}, tmp_path / "tighter").graph
    less, weights = (sum(op.bytes_weights for op in workload(deployed(quantized(g))).ops) for g in (tighter, graph))
    assert 0.5 * weights < less < weights  # it takes what it may
    for limits in ({"size_mb": 1e-3}, {"size_mb": 0.4, "ram_kib": 1.0}):
        kept = with_layer_bits(trained, found.data, found.device, limits, tmp_path / f"{len(limits)}")
        assert kept.graph == trained.graph and json.loads((tmp_path / f"{len(limits)}" / LAYER_BITS).read_text()) == {}
    with pytest.raises(JobError, match="--layer-bits chooses within limits"):
        start(squares, device, tmp_path / "none", {}, layer_bits=True)


JOB = """
import sys, nas
from nas.finalist import Recipe
from pathlib import Path
out = Path(sys.argv[3])
if (out / "run.json").exists():
    nas.resume(out)
else:
    nas.search(sys.argv[1], device=sys.argv[2], out=out, max_latency_ms=1.5, max_size_mb=0.4, budget=10, finalists=1,
               recipe=Recipe(epochs=2, accelerator="cpu"), workers=int(sys.argv[4]))
"""


def job(squares, device, out, workers=1):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", JOB, str(squares), str(device), str(out), str(workers)], cwd=ROOT, env=environment,
                            start_new_session=True)  # fmt: skip


def test_a_job_killed_at_random_moments_ends_as_if_it_never_was(squares, device, tmp_path):
    begin = time.monotonic()
    assert job(squares, device, tmp_path / "whole").wait(timeout=300) == 0
    seconds = time.monotonic() - begin
    wanted = outcome(tmp_path / "whole")
    random.seed(os.getpid())
    out = tmp_path / "cut"
    for _ in range(3):
        process = job(squares, device, out)
        try:
            process.wait(timeout=random.uniform(0.2, 0.9) * seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert job(squares, device, out).wait(timeout=300) == 0
    assert outcome(out) == wanted


def test_two_workers_find_the_trials_of_one(squares, device, tmp_path, run):
    one, two = (tmp_path / name for name in ("one", "two"))
    assert job(squares, device, one).wait(timeout=300) == 0
    assert job(squares, device, two, workers=2).wait(timeout=300) == 0
    with Study.open(one / "study.db") as a, Study.open(two / "study.db") as b:
        assert a.fingerprint() == b.fingerprint()


def test_settings_are_kept_as_they_were_resolved(run):
    kept = json.loads((run.path / "run.json").read_text())
    assert kept["limits"] == SMALL and kept["recipe"]["epochs"] == 2 and kept["seed"] == 0
    assert run.provenance["versions"]["torch"] and run.provenance["cpu"]


def test_the_steps_alone_train_quantize_compile_and_verify_one_network(squares, tmp_path):
    from nas.progress import Silent
    from nas.steps import compile_file, measure_artifact, quantize_model, train_genes, verify_file

    genes, trained, low, artifact = (tmp_path / name for name in ("g.json", "f.safetensors", "q.safetensors", "m.edge"))
    genes.write_text(json.dumps({"resolution": 96, "stem.width": 8, "stage1.width": 16}))
    train_genes(genes, trained, str(squares), "yolo", None, 2, "cpu", 0, Silent())
    quantize_model(trained, low, str(squares), "w4a4", {}, "local", "noise", 1, "cpu", 0, Silent())
    assert {node.get("wbits") for node in load(low).graph.of("conv2d")} == {4, 8}
    for model in (trained, low):
        compile_file(model, artifact)
        found = verify_file(artifact, str(squares), "val", "1s")
        assert found["bit_exact"] and found["met"] and found["latency_ms"] < 1000
        assert len(measure_artifact(artifact)["layers"]) > 20
    with pytest.raises(ValueError, match="quantized already"):
        quantize_model(low, low, str(squares), "", {}, "local", "noise", 1, "cpu", 0, Silent())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.safetensors", "g.json", "m.edge", "q.safetensors"]
