"""The study: equal starts, measures of the net as it runs, and the same figures whether or not it was cut off."""

import msgspec
import numpy as np
import pytest
import torch

from nas.data import load as load_data
from nas.data.digits import write_digits
from nas.generalization import GeneralizationError, StudySettings, genes_of, measures, run, trainings
from nas.generalization.measures import LOSSES, Probe, as_it_runs, spread
from nas.generalization.trainings import net_of
from nas.progress import Silent
from nas.train import mean_loss

EPOCHS = 2


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder, {"train": 6, "val": 4})
    return StudySettings(data=str(folder), bits=("fp", "4"), seeds=2, epochs=EPOCHS, accelerator="cpu", genes=genes_of(None, 96))


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Few draws: what is compared is that they are the same, not that they are good."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"IMAGES": 4, "VECTORS": 2, "PAIRS": 2, "DRAWS": 1, "THEORY_BITS": (8, 2)}.items():
            patch.setattr(measures, name, value)
        yield


@pytest.fixture(scope="module")
def whole(settings, tmp_path_factory):
    """A study that was not cut off, and what it said before it began."""
    said = []
    progress = Silent()
    progress.say = said.append
    return run(settings, tmp_path_factory.mktemp("whole"), progress), said


class CutOff(Silent):
    """Progress that ends the process, as far as the study can tell, after so many epochs."""

    def __init__(self, after):
        self.left = after

    def advance(self, steps, note=""):
        self.left -= steps
        if self.left <= 0:
            raise KeyboardInterrupt


def test_a_study_that_is_cut_off_goes_on_to_the_same_figures_and_trains_nothing_twice(settings, whole, tmp_path, monkeypatch):
    trained = 0

    def counted(model, *arguments, **kwargs):
        nonlocal trained
        trained += 1
        return mean_loss(model, *arguments, **kwargs)

    monkeypatch.setattr(trainings, "mean_loss", counted)
    for after in (1, 2):  # within the first training, and before its model is kept
        with pytest.raises(KeyboardInterrupt):
            run(settings, tmp_path, CutOff(after))
    flatness = measures.flatness
    monkeypatch.setattr(trainings, "flatness", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # between a model and its figures
        run(settings, tmp_path)
    monkeypatch.setattr(trainings, "flatness", flatness)
    again = run(settings, tmp_path)
    assert again.cells == whole[0].cells
    assert trained == 2 * EPOCHS * len(again.cells)  # both splits after every epoch
    before = trained
    more = run(msgspec.structs.replace(settings, bits=("4", "fp")), tmp_path)
    assert trained == before and more.of("4") == again.of("4")
    with pytest.raises(GeneralizationError, match="epochs=2, not 3"):
        run(msgspec.structs.replace(settings, epochs=3), tmp_path)


def test_what_a_study_says_of_a_training_is_what_it_measured(whole):
    study, said = whole
    assert len(said) == 1 and said[0].startswith("4 of 4 trainings to do, 2 epochs each: about")
    for cell in study.cells:
        figures = cell.figures
        assert [point.epoch for point in cell.curve] == [1, 2]
        assert figures["gap"] == cell.curve[-1].val_loss - cell.curve[-1].train_loss
        assert figures["overfit"] >= 0
        assert all(np.isfinite(value) for value in figures.values())
    plain, quantized = study.of("fp")[0], study.of("4")[0]
    assert {row.bits for row in plain.noise} == {8, 2} and {row.bits for row in quantized.noise} == {8, 4}
    assert [(rise.loss, rise.bits) for rise in plain.rises] == [(loss, bits) for loss in LOSSES for bits in (8, 2)]


def test_all_bit_widths_of_a_seed_start_from_the_same_weights_and_seeds_differ(settings):
    dataset = load_data(settings.data)
    plain, narrow, other = (net_of(settings, dataset, *which)[1].weights() for which in (("fp", 0), ("4", 0), ("fp", 1)))
    for name, array in plain.arrays().items():
        np.testing.assert_array_equal(narrow.arrays()[name], array)
    assert any(not np.array_equal(other.arrays()[name], array) for name, array in plain.arrays().items())


def test_the_net_as_it_runs_computes_what_the_fake_quantized_one_does_and_its_loss_is_the_trainings(settings):
    dataset = load_data(settings.data)
    net = net_of(settings, dataset, "4", 0)[1].eval()
    folded = as_it_runs(net)
    with torch.no_grad():
        images = torch.rand(2, 3, 96, 96)
        differences = [(ours - theirs).abs().mean() / theirs.std() for ours, theirs in zip(folded(images), net(images))]
    assert max(differences) < 0.02  # a code may fall to its neighbour's side, since sums are taken in another order
    assert not [name for name in folded.state_dict() if "running_mean" in name]
    net = net_of(settings, dataset, "fp", 0)[1].eval()
    probe = Probe(as_it_runs(net), dataset, 96)
    whole = mean_loss(net, spread(dataset.train, measures.IMAGES), 96, 10, batch=measures.BATCH)
    assert float(probe.loss(probe.weights).detach()) == pytest.approx(whole, rel=1e-3)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [({"bits": ("fp", "3")}, "no bit-width '3'; bit-widths: fp, 8, 4, 2, 1"), ({"bits": ("8", "4")}, "want fp"),
     ({"bits": ("fp", "4", "4")}, "each once"), ({"seeds": 1}, "2 or more")],
)  # fmt: skip
def test_a_study_that_could_say_nothing_is_refused(wrong, says):
    with pytest.raises(GeneralizationError, match=says):
        StudySettings(**wrong)


def test_spread_takes_from_everywhere():
    assert list(spread(range(10), 5)) == [0, 2, 4, 6, 8] and spread([1, 2], 5) == [1, 2]
