"""Successive halving: who goes on, that nothing is trained twice, and that a finalist is the network it would have been without it."""

import shutil

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nas
import nas.halving
import nas.job
from nas.finalist import Recipe, train_float
from nas.halving import ETA, Start, epochs_trained, ladder
from nas.job import JobError, Run
from nas.model import load
from nas.study import Study
from searchspaces import SPACES, YOLO, Arch, Space
from searchspaces.yolo import STAGES, WIDTHS

RECIPE = Recipe(epochs=4, accelerator="cpu")
NARROW = {"resolution": [96], "stem.width": [8], **{f"stage{s}.width": WIDTHS[s][:2] for s in STAGES}, "head.cls": [32], "head.box": [32]}


class Cut(BaseException):
    """As a kill is: nothing may catch it."""


def start(squares, device, out, **settings):
    chosen = {"space": "narrow", "strategy": "random", "budget": 6, "finalists": 1, "halving": 3, "recipe": RECIPE, **settings}
    return nas.search(squares, device=str(device), out=out, **chosen)


@pytest.fixture(scope="module", autouse=True)
def narrow():
    """The joint space held to small networks, so that a whole job takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SPACES, "narrow", Space("narrow", YOLO.limited(NARROW).choices, YOLO.build))
        yield


@pytest.fixture(scope="module")
def run(squares, device, tmp_path_factory):
    return start(squares, device, tmp_path_factory.mktemp("halving") / "r")


def outcome(run):
    with Study.open(run.path / "study.db") as study:
        trials = study.fingerprint()
    models = [load(run.folder(f.trial) / "quantized.safetensors").weights.arrays() for f in run.finalists]
    arrays = [{name: array.tobytes() for name, array in model.items()} for model in models]
    return trials, run.standings, run.promotions, [(f.trial, f.verified.map) for f in run.finalists], arrays, epochs_trained(run)


@given(st.integers(2, 200), st.integers(1, 20))
def test_a_ladder_drops_two_thirds_at_a_time_until_the_finalists_remain(entrants, finalists):
    rungs = ladder(entrants, finalists)
    if entrants <= finalists:
        assert not rungs
        return
    sizes = [rung.candidates for rung in rungs] + [finalists]
    assert sizes[0] == entrants
    assert all(below > above == max(finalists, -(-below // ETA)) for below, above in zip(sizes, sizes[1:]))
    assert [rung.share for rung in rungs] == pytest.approx([ETA**-k for k in range(len(rungs), 0, -1)])


def test_who_is_expected_to_end_best_becomes_the_finalist(run):
    assert [(s.rung, s.entry) for s in run.standings] == [(1, 0), (1, 1), (1, 2)]
    assert {(s.epochs, s.quantized) for s in run.standings} == {(1, 1)}
    assert all(0 <= s.map <= s.map50 <= 1 for s in run.standings)
    (promotion,), (finalist,) = run.promotions, run.finalists
    assert finalist.met and finalist.trial == promotion.order[0]
    assert set(promotion.order) == set(promotion.expected) == {s.trial for s in run.standings}
    assert all(low <= mean <= high for mean, low, high in promotion.expected.values())


def test_the_first_half_starts_from_random_weights_and_the_others_from_the_nearest_of_it(run):
    first, second, third = run.standings
    assert first.start == second.start == Start() and first.behind == second.behind == first.done
    assert third.start.donor in (first.trial, second.trial) and 0 < third.start.share <= 1
    assert third.behind == pytest.approx(third.done * (1 + third.start.share))


def test_every_epoch_is_counted_once(run):
    assert epochs_trained(run) == {"float": 1 + 1 + 3, "quantized": 3 * 1 + 1}


def test_a_candidate_that_goes_on_from_a_rung_ends_with_the_weights_of_one_trained_at_once(run, tmp_path):
    genes = next(trial for trial in run.trials if trial.number == run.standings[0].trial).arch.genes
    graph = YOLO.build(Arch("yolo", genes), len(run.data.classes))
    settings = RECIPE.for_float(int(genes["resolution"]), run.data, quantized=True)
    shutil.copytree(run.folder(run.standings[0].trial) / "float", tmp_path / "rung")
    ends = [train_float(graph, run.data, settings, tmp_path / name, lambda stage, record: None)[0] for name in ("rung", "whole")]
    climbed, whole = ({name: array.tobytes() for name, array in model.weights.arrays().items()} for model in ends)
    assert climbed == whole


def test_a_job_that_is_cut_off_after_every_other_file_ends_as_if_it_never_was(run, squares, device, tmp_path, monkeypatch):
    out, left = tmp_path / "r", [0]
    real_save, real_finish = nas.train.checkpoint.save, Study.finish_stage

    def counted(real):
        def call(*arguments):
            real(*arguments)
            left[0] -= 1
            if not left[0]:
                raise Cut

        return call

    monkeypatch.setattr(nas.train.checkpoint, "save", counted(real_save))
    monkeypatch.setattr(Study, "finish_stage", counted(real_finish))
    cuts, ended = 0, False
    while not ended:
        left[0] = 2
        try:
            nas.resume(out) if (out / "run.json").exists() else start(squares, device, out)
            ended = True
        except Cut:
            cuts += 1
    assert cuts > 2
    assert outcome(Run.open(out)) == outcome(run)


def test_a_candidate_that_does_not_fit_when_measured_is_passed_over_and_another_one_enters(run, squares, device, tmp_path, monkeypatch):
    unfit = {s.trial for s in run.standings[:2]}
    real = nas.job._passed_over

    def passed_over(run, study, trial, progress):
        if trial.number not in unfit:
            return real(run, study, trial, progress)
        return nas.job._noted(study, nas.job.Finalist(trial=trial.number, genes={}, predicted={}, failed="too slow"))

    def never(*arguments):
        raise Cut

    monkeypatch.setattr(nas.job, "_passed_over", passed_over)
    monkeypatch.setattr(nas.job, "_finalist", never)
    with pytest.raises(Cut):
        start(squares, device, tmp_path / "r", recipe=msgspec.structs.replace(RECIPE, epochs=2))
    other = Run.open(tmp_path / "r")
    assert unfit.isdisjoint(s.trial for s in other.standings) and len(other.standings) == 3
    assert {f.trial for f in other.finalists} == unfit


def test_a_halving_that_drops_nobody_is_refused(squares, device, tmp_path):
    with pytest.raises(JobError, match="--halving 2: more candidates than --finalists 2"):
        start(squares, device, tmp_path / "r", finalists=2, halving=2)
