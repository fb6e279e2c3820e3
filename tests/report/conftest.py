"""Run folders as a search leaves them, made up: nothing is trained, and every number comes from a seeded generator."""

from math import exp
from pathlib import Path

import msgspec
import numpy as np
import pytest

from nas.data.digits import write_digits
from nas.deploy.verify import Constraint, Verification
from nas.job import Finalist, Run, SearchSettings
from nas.study import Study, Trial
from nas.train.settings import EpochRecord, History
from searchspaces.space import Arch
from searchspaces.yolo import YOLO

HOSTILE = "<script>window.hacked=1</script>"
CLASSES = [HOSTILE, "one & two", *"23456789"]
LIMITS = {"latency_ms": 6.0, "size_mb": 2.0}
PROVENANCE = {
    "started": "2026-01-02T03:04:05+00:00", "commit": "1a2b3c4",
    "versions": {"python": "3.11.2", "edgenas": "0.1.0", "torch": "2.13.0+cpu"}, "cpu": "Example CPU @ 2.80GHz", "isa": "avx512_vnni",
    "data": {"name": "digits", "images": {"train": 6, "val": 8}},
    "classes": CLASSES, "device": "local",
}  # fmt: skip


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """Digits with two class names that are markup."""
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder, {"train": 6, "val": 8})
    file = folder / "data.yaml"
    head = file.read_text().partition("names:")[0]
    file.write_text(head + "names:\n" + "".join(f"  {i}: {name!r}\n" for i, name in enumerate(CLASSES)))
    return folder


@pytest.fixture(scope="session")
def finished(tmp_path_factory, data) -> Run:
    """A run that came to its end: two good finalists, one that missed its limit, one passed over before training."""
    run = make_run(tmp_path_factory.mktemp("runs") / f"a & b {HOSTILE.replace('/', '|')}", data)
    with Study.open(run.path / "study.db", writable=True) as study:
        for finalist in _finalists(run.front):
            study.finish_stage(f"finalist:{finalist.trial:05d}", msgspec.to_builtins(finalist))
            if finalist.verified is not None:
                write_histories(run.folder(finalist.trial), finalist.verified.map50)
    return run


@pytest.fixture
def made_run():
    return make_run


def make_run(path: Path, data: Path, *, trials: int = 90, budget: int = 60, limits: dict[str, float] | None = None, seed: int = 3) -> Run:
    """A run whose search spent its budget, in states as a real one's: ok, infeasible and failed trials."""
    limits = LIMITS if limits is None else limits
    settings = SearchSettings(data=str(data), limits=limits, budget=budget, finalists=2, seed=seed)
    path.mkdir(parents=True)
    (path / "run.json").write_bytes(msgspec.json.encode(settings))
    (path / "device.toml").write_text('name = "local"  # <b>measured</b> here\n')
    rng = np.random.default_rng(seed)
    with Study.create(path / "study.db", "yolo", msgspec.to_builtins(settings), PROVENANCE) as study:
        for number in range(trials):
            study.record(_trial(number, YOLO.sample(rng), rng, limits))
    return Run(path, settings)


def _trial(number: int, arch: Arch, rng: np.random.Generator, limits: dict[str, float]) -> Trial:
    """Columns as nas.candidates fills them; slower networks score higher, with noise."""
    if number % 37 == 36:
        return Trial(number, arch, "failed", error=f"ProxyError: score is nan {HOSTILE}", spent=True, seconds=0.3)
    latency = float(rng.uniform(1.2, 6.8))
    size = float(0.25 * latency * rng.uniform(0.6, 1.4))
    cheap = {
        "latency_ms": latency, "latency_low_ms": 0.86 * latency, "latency_high_ms": 1.17 * latency, "ram_kib": 110 * latency**0.8,
        "flash_kib": size * 1e6 / 1024, "size_mb": size, "macs_m": 60 * latency, "params_m": 1.6 * size,
    }  # fmt: skip
    if any(cheap[name] > limit for name, limit in limits.items()):
        return Trial(number, arch, "infeasible", cheap, seconds=0.01)
    score = {"score": float(0.25 + 0.12 * np.log(latency) + rng.normal(0, 0.035)), "quant_noise": float(rng.uniform(6, 24))}
    return Trial(number, arch, "ok", cheap | score, {"score_seconds": 0.2}, spent=True, seconds=0.25)


def _finalists(front: list[Trial]) -> list[Finalist]:
    best, second, third, fourth = front[-1], front[-3], front[-2], front[0]
    return [
        _finalist(best, measured(best, 0.61, 1.06)),
        _finalist(second, measured(second, 0.64, 0.93)),
        _finalist(third, measured(third, 0.58, 1.75), failed="latency_ms 6.523 is above 6"),
        _finalist(fourth, None, failed="latency_ms is 6.3 ms, 0.3 ms (5 %) above the limit of 6 ms"),
    ]


def _finalist(trial: Trial, verified: Verification | None, failed: str = "") -> Finalist:
    return Finalist(trial=trial.number, genes=dict(trial.arch.genes), predicted=dict(trial.columns), verified=verified, failed=failed)


def measured(trial: Trial, map50: float, slowdown: float) -> Verification:
    """As verified on a machine that is `slowdown` times slower than predicted."""
    latency = trial["latency_ms"] * slowdown
    per_class = {name: (0.6 * map50 * (0.7 + 0.06 * k), map50 * (0.7 + 0.06 * k)) for k, name in enumerate(CLASSES)}
    limited = {"latency_ms": latency, "size_mb": trial["size_mb"]}
    return Verification(
        bit_exact=True, checked_images=2, map=0.6 * map50, map50=map50, per_class=per_class, latency_ms=latency,
        latency_q1_ms=0.98 * latency, latency_q3_ms=1.04 * latency, latency_runs=120, throttled=False, predicted_ms=trial["latency_ms"],
        predicted_low_ms=trial["latency_low_ms"], predicted_high_ms=trial["latency_high_ms"], ram_kib=trial["ram_kib"], scratch_kib=12.0,
        size_mb=trial["size_mb"], isa="avx512_vnni", constraints=tuple(Constraint(n, LIMITS[n], v) for n, v in limited.items()),
    )  # fmt: skip


def write_histories(folder: Path, map50: float) -> None:
    """30 float epochs and 10 quantized ones, evaluated every fifth."""
    folder.mkdir(parents=True)
    for stage, epochs, start in (("float", 30, 0.0), ("quantized", 10, 0.9)):
        records = []
        for epoch in range(1, epochs + 1):
            done = start + (1 - start) * epoch / epochs
            seen = {"map50": map50 * (1 - exp(-4 * done)), "map": 0.6 * map50 * (1 - exp(-4 * done))}
            losses = {"box_loss": 4.5 - 2 * done, "class_loss": 3.6 * exp(-2 * done) + 0.8, "dfl_loss": 3.0 - 1.2 * done}
            distill = 0.4 / epoch if stage == "quantized" else 0.0
            scores = seen if epoch % 5 == 0 else {}
            records.append(EpochRecord(epoch=epoch, lr=2e-3 * (1 - done), distill_loss=distill, seconds=2.0, **losses, **scores))
        history = History(epochs=tuple(records), kept_epoch=epochs)
        (folder / f"{stage}.history.json").write_bytes(msgspec.json.encode(history))
