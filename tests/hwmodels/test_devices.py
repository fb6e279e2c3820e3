"""The contract of every device file, and what is refused."""

import msgspec
import numpy as np
import pytest

from hwmodels import Device, DeviceError, OperatorTable, Workload, devices, load, workload
from hwmodels.device import FOLDER, add, known
from hwmodels.energy import energy_mj
from hwmodels.limits import priced
from hwmodels.roofline import latency_ms
from searchspaces import YOLO, Builder
from searchspaces.quantizers import quantized
from searchspaces.rewrite import deployed
from searchspaces.yolo import PRECISIONS, with_precisions

FILES = sorted(FOLDER.glob("*.toml"))


def net(precisions, seed=0, device=None):
    space = with_precisions(YOLO, precisions) if device is None else priced(YOLO, device)
    return workload(deployed(quantized(space.build(space.sample(np.random.default_rng(seed)), 4))))


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_every_device_file_loads_has_sources_and_prices_its_precisions(path):
    device = Device.load(path)
    assert device.name == path.stem
    assert set(device.precisions) <= {*PRECISIONS, "fp32"}
    assert all(len(source) > 10 for source in device.sources.values())
    for precision in device.precisions:
        estimate = device.predict(net([precision], device=device if device.networks else None))
        assert 0 < estimate.low_ms <= estimate.mean_ms <= estimate.high_ms < 1e6
    assert device.arena_kib <= device.ram_kib


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_a_device_file_survives_being_written_again(path, tmp_path):
    device = Device.load(path)
    device.save(tmp_path / "again.toml")
    assert Device.load(tmp_path / "again.toml") == device


def test_an_unknown_device_lists_the_known_ones():
    with pytest.raises(DeviceError, match=r"no device 'esp9'; devices: .*stm32h743-edgenas"):
        load("esp9")
    assert load("stm32h743-edgenas") == devices()["stm32h743-edgenas"]


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("slack ", "slakc ", "slakc"),
        ("clock_ghz  = 0.48", "clock_ghz  = -0.48", "clock_ghz=-0.48 is not a positive number"),
        ("clock_ghz  = 0.48", 'clock_ghz  = "fast"', "Expected `float`"),
        ("w8a8 = 2.0, ", "", "precision w8a8 has no rate; rates: w4a8, w2a8"),
        ("dram_gb_s      =", "dram           =", "dram_gb_s has no source"),
        ("slack      = 4.0", "slack      = 0.5", "slack=0.5 is below 1"),
        ("[sources]", "[sources", "device file"),
    ],
)
def test_a_broken_device_file_is_refused_with_its_name_and_the_reason(before, after, says, tmp_path):
    text = (FOLDER / "stm32h743-edgenas.toml").read_text()
    assert before in text
    (tmp_path / "broken.toml").write_text(text.replace(before, after, 1))
    with pytest.raises(DeviceError, match="broken.toml") as fault:
        load(tmp_path / "broken.toml")
    assert says in str(fault.value)


def test_a_device_file_that_is_missing_says_so():
    with pytest.raises(DeviceError, match="nowhere.toml"):
        load("nowhere.toml")


def test_the_roofline_is_the_slower_of_arithmetic_and_memory():
    rates = {"clock_ghz": 1.0, "dram_gb_s": 1.0, "macs_per_cycle": {"w8a8": 2.0}}
    device = Device(name="toy", board="toy", runtime="toy", precisions=("w8a8",), **rates)
    g = Builder()
    with g.precision(8, 8):
        graph = deployed(quantized(g.graph(g.conv2d(g.activation(g.conv2d(g.input(4, 10, 10), 8, 3, bias=True), "relu"), 4, 1, bias=True))))
    image, conv, _ = workload(graph).ops
    assert latency_ms(conv, device) == pytest.approx(8 * 100 * 36 / 2e6)
    assert latency_ms(image, device) == pytest.approx(image.bytes_moved / 1e6)


def test_a_precision_or_operator_without_a_rate_is_refused_by_name():
    device = load("stm32h743-edgenas")
    with pytest.raises(DeviceError, match=r"stm32h743-edgenas has no rate for w2a2 \(layer '.*'\); rates: w8a8, w4a8, w2a8"):
        device.predict(net(["w2a2"]))
    g = Builder()
    attention = g.add_node("softmax", g.input(4, 4, 4), axis=0)
    with pytest.raises(DeviceError, match="no rate for the operator softmax"):
        device.predict(workload(g.graph(attention)))


def test_a_fitted_device_refuses_what_was_never_measured():
    device = Device(name="local", board="b", runtime="r", precisions=("w8a8",), operators=OperatorTable({"input codes bytes": 1e-6}, 1.1))
    assert device.is_local and device.is_measured
    with pytest.raises(DeviceError, match=r"'stem.conv2d' \(conv2d.k3s2 w8a8\) was never measured .*; measured: no conv2d at all"):
        device.predict(net(["w8a8"]))
    assert device.predict(Workload(net(["w8a8"]).ops[:1])).mean_ms > 0


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGENAS_DEVICES", str(tmp_path / "own"))
    return tmp_path / "own"


def copy(name, path, **changes):
    text = (FOLDER / f"{name}.toml").read_text()
    for before, after in changes.items():
        assert before in text
        text = text.replace(before, after)
    path.write_text(text)
    return path


def test_an_added_device_is_known_by_its_name(own, tmp_path):
    path = copy("stm32h743-edgenas", tmp_path / "mine.toml", **{"stm32h743-edgenas": "my-board"})
    assert add(path) == own / "my-board.toml"
    assert load("my-board").name == "my-board" and "my-board" in known() and "my-board" not in devices()
    with pytest.raises(DeviceError, match="exists already"):
        add(path)
    add(path, replace=True)


@pytest.mark.parametrize(
    ("name", "says"),
    [("stm32h743-edgenas", "ships with the toolkit"), ("local", "cannot be used"), ("../up", "cannot be used"), ("", "cannot be used")],
)
def test_a_device_that_would_take_a_name_it_must_not_have_is_refused(name, says, own, tmp_path):
    path = copy("stm32h743-edgenas", tmp_path / "mine.toml", **{'"stm32h743-edgenas"': f'"{name}"'})
    with pytest.raises(DeviceError, match=says):
        add(path)
    assert not own.exists()


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("weight = 1.0", "weight = nan", "not finite"),
        ('"log macs" =', '"log moon" =', "'log moon' is no amount and no trait"),
        ("apart = ", "apart = -", "must be above 0"),
        ("points = [\n[", "points = [\n[0.1, ", "do not match"),
        ("[[networks.laws]]", "[[networks.lows]]", "lows"),
    ],
)
def test_a_broken_fitted_device_is_refused_with_the_reason(before, after, says, tmp_path):
    path = copy("raspi4-tflite-int8", tmp_path / "broken.toml", **{before: after})
    with pytest.raises(DeviceError, match="broken.toml") as fault:
        load(path)
    assert says in str(fault.value)


FITTED = [name for name, device in devices().items() if device.networks]


@pytest.mark.parametrize("name", FITTED)
def test_a_fitted_device_tells_how_wrong_it_is_and_where_it_is_from(name):
    device = devices()[name]
    assert {"mape", "within_10", "coverage_90", "networks"} <= device.errors.keys() and device.errors["networks"] > 500
    assert "arXiv:2307.13901; Apache-2.0" in device.sources["networks"] and device.sources["errors"]
    assert (FOLDER / f"{name}.toml").stat().st_size < 60_000
    assert len(str(device.facts())) < 3000 and "silu" in device.facts()["networks"]["kinds"]
    with pytest.raises(DeviceError, match=f"{name} prices .*, and the network has w4a4"):
        device.predict(net(["w4a4"]))


def test_energy_is_what_multiplications_and_bytes_take_and_is_never_guessed():
    board = load("stm32h743-edgenas")
    work = net(board.precisions)
    with pytest.raises(DeviceError, match="pj_per_mac"):
        energy_mj(work, board)
    used = {op.precision for op in work.ops if op.macs}
    metered = msgspec.structs.replace(board, pj_per_mac=dict.fromkeys(used, 2.0), pj_per_byte=3.0)
    assert energy_mj(work, metered) == pytest.approx(1e-9 * (2 * work.macs + 3 * sum(op.bytes_moved for op in work.ops)))
    with pytest.raises(DeviceError, match="has no energy for"):
        energy_mj(work, msgspec.structs.replace(metered, pj_per_mac={"w3a3": 1.0}))
