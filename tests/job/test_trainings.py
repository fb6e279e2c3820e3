"""A training that starts from another model or learns from one, and one that goes down to its bits step by step."""

import json
from dataclasses import replace

import numpy as np
import pytest

import nas.finalist
from nas.data import load as load_data
from nas.finalist import Recipe, train_quantized
from nas.model import load
from nas.progress import Silent
from nas.quant import QatSettings, at_precision
from nas.quant.precisions import free_layers
from nas.steps import StepError, train_genes
from searchspaces.module import to_torch
from searchspaces.quantizers import quantized

SMALL = {"resolution": 96, "stem.width": 8, "stage1.width": 16, "head.box": 32, "head.cls": 32}


@pytest.fixture(scope="module")
def trained(squares, tmp_path_factory):
    """Trains a net of the small genes and others, and returns the model file and what was said."""
    folder = tmp_path_factory.mktemp("models")

    def train(name, genes=(), **options):
        (folder / "genes.json").write_text(json.dumps({**SMALL, **dict(genes)}))
        start, epochs, data = options.pop("start", None), options.pop("epochs", 1), options.pop("data", str(squares))
        out = folder / f"{name}.safetensors"
        return out, train_genes(folder / "genes.json", out, data, "yolo", start, epochs, "cpu", 0, Silent(), **options)

    return train


def test_a_wider_net_starts_from_a_narrower_one_and_learns_from_a_larger_one(trained):
    narrow, _ = trained("narrow")
    wide, said = trained("wide", {"stage2.width": 48, "stage1.depth": 2}, start=narrow)
    share, _, rest = said["start"].partition("%")
    assert 50 < int(share) < 100 and rest == f" of the weights from the layers of {narrow}"
    alone, taught = (load(trained(name, **options)[0]).weights.arrays() for name, options in (("a", {}), ("b", {"teacher": wide})))
    assert any(not np.array_equal(array, taught[name]) for name, array in alone.items())


def test_a_teacher_that_does_not_fit_is_refused_with_both_forms(trained):
    larger, _ = trained("larger", {"resolution": 128})
    with pytest.raises(ValueError, match=r"gives maps at strides 8, 16, 32 with 16 bins from images of 128x128; this net .* of 96x96"):
        trained("student", teacher=larger)
    with pytest.raises(ValueError, match="knows the classes square, disc; the data has"):
        trained("student", {"resolution": 128}, teacher=larger, data="digits")


def test_an_interrupted_training_goes_on_with_the_files_it_was_started_with_alone(trained, monkeypatch):
    narrow, _ = trained("narrow")
    step = nas.finalist.fit

    def cut(*arguments, **options):
        step(*arguments, **{**options, "until": 1})
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(nas.finalist, "fit", cut)
        with pytest.raises(KeyboardInterrupt):
            trained("cut", epochs=2, teacher=narrow)
    for other in ({}, {"teacher": narrow, "start": narrow}):
        with pytest.raises(StepError, match="training that had (a teacher|no start): start it as before"):
            trained("cut", epochs=2, **other)
    out, _ = trained("cut", epochs=2, teacher=narrow)
    whole, _ = trained("whole", epochs=2, teacher=narrow)
    assert all(np.array_equal(array, load(whole).weights.arrays()[name]) for name, array in load(out).weights.arrays().items())
    assert not list(out.parent.glob(".cut*"))


def test_a_ladder_ends_at_the_bits_asked_for_and_counts_its_epochs_through(trained, squares, tmp_path):
    dataset, start = load_data(squares), load(trained("start")[0])
    start = replace(start, graph=at_precision(start.graph, "w2a2"))
    recipe = Recipe(epochs=3, qat_share=1.0, accelerator="cpu", qat=QatSettings(ladder=(8, 4), norm_batches=1))
    trained_epochs = []

    def train():
        settings = recipe.for_qat(96, dataset)
        return train_quantized(start, dataset, settings, recipe.qat, tmp_path / "qat", lambda stage, record: trained_epochs.append(stage))

    model, history = train()
    assert [record.epoch for record in history.epochs] == [1, 2, 3] and history.kept_epoch == 3
    net = to_torch(quantized(model.graph), model.weights)
    for node in free_layers(model.graph):
        layer = net.layers[node.name.replace(".", "/")]
        codes = (layer.quantizer(layer.weight) / layer.quantizer.log_scale.exp().view(-1, 1, 1, 1)).detach().numpy().round()
        assert node["wbits"] == node["abits"] == 2 and set(np.unique(codes)) <= {-2, -1, 0, 1}
    again, same = train()  # nothing is trained twice
    assert same == history and trained_epochs == ["quantized"] * 3
    assert all(np.array_equal(array, again.weights.arrays()[name]) for name, array in model.weights.arrays().items())
