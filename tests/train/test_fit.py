"""Training: it learns, it resumes to the same bits after kill -9, and it says what is wrong."""

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from nas.data import AugmentSettings, Loader, read_image
from nas.train import (
    Detections,
    LossSettings,
    Targets,
    TrainError,
    TrainSettings,
    coco_map,
    detection_loss,
    evaluate,
    fit,
    mean_loss,
    param_groups,
    pick_device,
    predict,
    set_head_prior,
)
from nas.train.fit import CHECKPOINT

STILL = AugmentSettings(mosaic=0.0, scale=0.0, translate=0.0, flip_horizontal=0.0)
SHORT = TrainSettings(size=64, epochs=3, batch=4, accelerator="cpu", precision="fp32", warmup_epochs=1, val_every=1)

RUN = """
import importlib.util, os, signal, sys
from pathlib import Path
import torch
spec = importlib.util.spec_from_file_location("helpers", sys.argv[1])
helpers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(helpers)
import msgspec, nas.train

torch.set_num_threads(1)
torch.manual_seed(0)
model, calls = helpers.TinyDetector(), 0

def count(module, *_):
    global calls
    calls += module.training
    if calls == 6:
        os.kill(os.getpid(), signal.SIGKILL)

model.register_forward_pre_hook(count)
settings = msgspec.json.decode(sys.argv[3], type=nas.train.TrainSettings)
folder = Path(sys.argv[2])
nas.train.fit(model, helpers.draw_digits(folder), settings, out=folder, on_epoch=lambda record: print(record.epoch, end=" ", flush=True))
"""


def test_fit_overfits_eight_pictures_within_seconds(digits, tiny):
    model = tiny()
    set_head_prior(model, 2, 64)
    settings = msgspec.structs.replace(SHORT, epochs=120, batch=8, lr=0.01, val_every=60, weight_decay=0.0, augment=STILL)
    history = fit(model, digits, settings)
    metrics = coco_map(digits.val, predict(model, digits.val, 64, 2), digits.classes)
    assert metrics.map50 > 0.9 and set(metrics.per_class) == {"two", "seven"}
    assert history.kept.map50 == pytest.approx(metrics.map50, abs=1e-6)
    assert history.epochs[-1].box_loss < history.epochs[0].box_loss / 2


def test_fit_killed_in_the_middle_and_called_again_ends_with_the_same_bits(digits, tiny, tmp_path):
    settings = TrainSettings(size=64, epochs=4, batch=4, accelerator="cpu", warmup_epochs=1, val_every=2, patience=4)
    arguments = [str(Path(__file__).with_name("conftest.py")), str(tmp_path), msgspec.json.encode(settings).decode()]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", RUN, *arguments], cwd=root, timeout=120, check=False, stdout=subprocess.PIPE, text=True)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "1 2 ")  # in the second of the two steps of epoch 3

    resumed, whole, epochs = tiny(), tiny(), []
    history = fit(resumed, digits, settings, out=tmp_path, on_epoch=lambda record: epochs.append(record.epoch))
    unbroken = fit(whole, digits, settings)
    assert epochs == [3, 4]
    assert all(torch.equal(a, b) for a, b in zip(resumed.state_dict().values(), whole.state_dict().values()))
    timeless = [[msgspec.structs.replace(record, seconds=0, cpu_seconds=0) for record in run.epochs] for run in (history, unbroken)]
    assert timeless[0] == timeless[1]


def test_a_step_takes_more_images_where_there_are_more_and_as_many_as_are_set():
    assert [TrainSettings().batch_of(images) for images in (1, 205, 512, 513, 1024, 1025, 100_000)] == [4, 4, 4, 8, 8, 16, 16]
    assert TrainSettings(batch=32).batch_of(205) == 32
    with pytest.raises(TrainError, match="batch=-1: expected at least 0"):
        TrainSettings(batch=-1)


def test_a_training_that_stops_in_the_middle_of_its_schedule_goes_on_to_the_same_bits(digits, tiny, tmp_path):
    whole, parts = tiny(), tiny()
    fit(whole, digits, SHORT)
    assert len(fit(parts, digits, SHORT, out=tmp_path, until=2).epochs) == 2
    parts = tiny()
    assert [record.epoch for record in fit(parts, digits, SHORT, out=tmp_path).epochs] == [1, 2, 3]
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), parts.state_dict().values(), strict=True))


def test_a_finished_run_returns_its_history_and_weights_without_training(digits, tiny, tmp_path):
    first, second = tiny(), tiny()
    history = fit(first, digits, SHORT, out=tmp_path / "run")
    seen = []
    again = fit(second, digits, SHORT, out=tmp_path / "run", on_epoch=seen.append)
    assert again == history and seen == []
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values()))


def test_what_is_measured_after_each_epoch_is_that_of_the_moving_average_and_stays_in_the_history(digits, tiny, tmp_path):
    def measure(model):
        assert not model.training
        return {"loss": mean_loss(model, digits.train, 64, 2, accelerator="cpu")}

    model = tiny()
    history = fit(model, digits, SHORT, out=tmp_path / "run", measure=measure)
    assert [list(record.figures) for record in history.epochs] == [["loss"]] * SHORT.epochs
    assert history.epochs[-1].figures["loss"] == pytest.approx(mean_loss(model, digits.train, 64, 2, accelerator="cpu"))
    assert fit(tiny(), digits, SHORT, out=tmp_path / "run", measure=lambda _: 1 / 0) == history


def test_the_mean_loss_is_the_trainings_on_images_as_they_are(digits, tiny):
    model = tiny().eval()
    (batch,) = Loader(digits.train, 64, len(digits.train), None).epoch(0)
    targets = Targets(*(torch.from_numpy(x) for x in (batch.boxes, batch.labels, batch.image_index)))
    with torch.no_grad():
        whole = detection_loss(model(torch.from_numpy(batch.images).float() / 255), targets, 2).total
    assert mean_loss(model, digits.train, 64, 2, batch=8, accelerator="cpu") == pytest.approx(float(whole), rel=1e-4)


def test_a_checkpoint_is_one_readable_file_and_nothing_is_left_beside_it(digits, tiny, tmp_path):
    fit(tiny(), digits, SHORT, out=tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == [CHECKPOINT]
    raw = (tmp_path / "run" / CHECKPOINT).read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    assert len(json.loads(header["__metadata__"]["state"])["history"]["epochs"]) == 3


def test_a_checkpoint_of_other_settings_or_another_model_or_cut_short_is_refused(digits, tiny, tmp_path):
    fit(tiny(), digits, SHORT, out=tmp_path)
    with pytest.raises(TrainError, match=r"started with lr=0.003, not 0.5"):
        fit(tiny(), digits, msgspec.structs.replace(SHORT, lr=0.5), out=tmp_path)
    wider = type(tiny())(width=8)
    with pytest.raises(TrainError, match="another model"):
        fit(wider, digits, SHORT, out=tmp_path)
    path = tmp_path / CHECKPOINT
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(TrainError, match="not a readable checkpoint"):
        fit(tiny(), digits, SHORT, out=tmp_path)


def test_a_full_disk_is_a_clear_error_and_the_last_checkpoint_stays(digits, tiny, tmp_path):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_disk(_):
        resource.setrlimit(resource.RLIMIT_FSIZE, (9000, before[1]))

    try:
        with pytest.raises(TrainError, match="checkpoint cannot be written"):
            fit(tiny(), digits, SHORT, out=tmp_path / "run", on_epoch=fill_disk)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in (tmp_path / "run").iterdir()] == [CHECKPOINT]
    assert len(fit(tiny(), digits, SHORT, out=tmp_path / "run").epochs) == 3


def test_a_loss_that_is_not_finite_stops_with_the_step_and_a_way_out(digits, tiny):
    model = tiny()
    with torch.no_grad():
        model.heads[0].weight.fill_(float("nan"))
    with pytest.raises(TrainError, match=r"epoch 1, step 1: the loss is not finite .* lower lr"):
        fit(model, digits, SHORT)


def test_an_empty_training_split_and_an_absent_accelerator_are_refused(digits, tiny):
    with pytest.raises(TrainError, match="'drawn' has no training images; its splits: train 0, val 8"):
        fit(tiny(), replace(digits, splits={"train": (), "val": digits.val}), SHORT)
    if not torch.cuda.is_available():
        with pytest.raises(TrainError, match="'cuda' is not available .* available: "):
            pick_device("cuda")


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [("size", 100, "multiple of 32"), ("epochs", 0, "least 1"), ("lr", 0.0, "above 0"), ("precision", "fp8", "fp8"), ("typo", 1, "typo")],
)
def test_settings_that_cannot_work_are_refused_by_name(field, value, says):
    with pytest.raises(ValueError, match=says):
        msgspec.json.decode(json.dumps({field: value}), type=TrainSettings)


def test_training_images_without_any_box_do_not_break_the_training(digits, tiny):
    empty = tuple(replace(s, boxes_xyxy=s.boxes_xyxy[:0], labels=s.labels[:0], crowd=s.crowd[:0]) for s in digits.train)
    history = fit(tiny(), replace(digits, splits={"train": empty, "val": empty}), SHORT)
    assert history.epochs[-1].box_loss == 0 and history.epochs[-1].map is None


def test_bf16_training_stays_near_float32(digits, tiny):
    exact, rough = (fit(tiny(), digits, msgspec.structs.replace(SHORT, precision=p, augment=STILL)) for p in ("fp32", "bf16"))
    assert rough.epochs[-1].class_loss == pytest.approx(exact.epochs[-1].class_loss, rel=0.1)


def test_patience_stops_the_run_and_keeps_the_best_epoch(digits, tiny):
    settings = msgspec.structs.replace(SHORT, epochs=20, lr=1e-7, patience=2)
    history = fit(tiny(), digits, settings)
    assert history.stopped_early and len(history.epochs) == history.kept_epoch + 2 and history.kept.epoch == history.kept_epoch


def test_a_teacher_pulls_the_student_towards_its_maps(digits, tiny):
    torch.manual_seed(1)
    teacher = type(tiny())()
    alone = LossSettings(box_gain=0.0, class_gain=0.0, dfl_gain=0.0)
    history = fit(tiny(), digits, msgspec.structs.replace(SHORT, epochs=12, lr=0.01, loss=alone), teacher=teacher)
    assert 0 < history.epochs[-1].distill_loss < history.epochs[0].distill_loss / 2


def test_quantizer_steps_norms_and_biases_are_not_decayed(tiny):
    model = tiny()
    model.register_parameter("log_scale", torch.nn.Parameter(torch.ones(4, 4)))
    model.register_parameter("frozen", torch.nn.Parameter(torch.ones(4, 4), requires_grad=False))
    weights, plain, steps = param_groups(model, 0.1, step_lr_scale=0.5)
    assert weights["weight_decay"] == 0.1 and plain["weight_decay"] == steps["weight_decay"] == 0
    assert all(p.ndim == 4 for p in weights["params"]) and all(p.ndim == 1 for p in plain["params"])
    assert steps["params"] == [model.log_scale] and steps["lr_scale"] == 0.5


def test_set_head_prior_starts_with_rare_objects_in_boxes_of_two_cells(tiny):
    model = tiny().eval()
    set_head_prior(model, 2, 64)
    maps = model(torch.zeros(1, 3, 64, 64))
    assert torch.sigmoid(maps[0][:, 64:]).mean().item() == pytest.approx(5 / 2 / 64, rel=0.5)
    side = (maps[0][0, :16, 0, 0].softmax(0) * torch.arange(16)).sum()
    assert 0.7 < side < 1.4
    model.heads[1].bias = None
    with pytest.raises(TrainError, match="box channels at stride 16 do not end in a convolution with a bias"):
        set_head_prior(model, 2, 64)


def test_evaluate_scores_any_executor_on_the_images_as_they_are(digits):
    answers = {read_image(s).tobytes(): Detections(s.boxes_xyxy, np.ones(len(s.labels)), s.labels) for s in digits.val}
    assert evaluate(lambda image: answers[image.tobytes()], digits.val, digits.classes).map == pytest.approx(1.0)
