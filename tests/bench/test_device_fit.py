import json

import msgspec
import numpy as np
import pytest

from hwmodels import Device, workload
from nas.device_fit import FitSettings, fit_table, to_measure
from searchspaces import YOLO, yolobench
from searchspaces.rewrite import deployed
from searchspaces.tables import TableError
from searchspaces.yolo import with_precisions

SETTINGS = FitSettings(name="bench-toy-fp32", board="a test bench", runtime="made up", source="made up for a test", classes=20)
NAMES = ["yolo8n_160", "yolo8s_160", "yolo5n_192", "yolo3n_224", "yolo7n_160", "yolo6s-d33w25_256"]


def ms_of(graph):
    return 0.5 + workload(graph).macs * 1e-8


def table(path, rows, column="ms"):
    path.write_text("\n".join([f"model_name,{column}", *(f"{name},{value}" for name, value in rows)]) + "\n")
    return path


def test_a_table_of_names_and_files_becomes_a_device_file(tmp_path):
    space = with_precisions(YOLO, ["fp32"]).limited({c.name: ["silu", "relu"] for c in YOLO.choices if c.name.endswith(".act")})
    rows = [(name, ms_of(yolobench.build(name, 20, deploy=True))) for name in NAMES]
    rng = np.random.default_rng(0)
    for i in range(6):
        arch = space.sample(rng)
        text = json.dumps({"space": "yolo", "genes": dict(arch.genes)}) if i % 2 else deployed(space.build(arch, 20)).to_json()
        (tmp_path / f"net{i}.json").write_text(text)
        rows.append((f"net{i}.json", ms_of(deployed(space.build(arch, 20)))))
    device = fit_table(table(tmp_path / "t.csv", rows, "time"), msgspec.structs.replace(SETTINGS, column="time"))
    assert device.errors["networks"] == 12 and device.precisions == ("fp32",) and device.networks.relatives
    device.save(tmp_path / "toy.toml")
    read = Device.load(tmp_path / "toy.toml")
    asked = yolobench.build("yolo8n_320", 20, deploy=True)
    estimate = read.predict(workload(deployed(asked)))
    assert estimate.mean_ms == pytest.approx(ms_of(asked), rel=0.3) and estimate.low_ms < estimate.mean_ms < estimate.high_ms
    seconds = fit_table(tmp_path / "t.csv", msgspec.structs.replace(SETTINGS, column="time", unit="s"))
    assert seconds.predict(workload(deployed(asked))).mean_ms == pytest.approx(1000 * estimate.mean_ms, rel=1e-2)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([("yolo9n_160", 1)], r"t.csv:2: column 'model_name': 'yolo9n_160' is no YOLOBench model"),
        ([("yolo8n_160", 1), ("yolo8n_192", "nan")], r"t.csv:3: column 'ms': nan is not a positive number"),
        ([("nothing.json", 1)], r"t.csv:2: column 'model_name': .*nothing.json: No such file"),
        ([("broken.json", 1)], r"t.csv:2: column 'model_name': .*broken.json is no JSON"),
        ([("empty.json", 1)], r"t.csv:2: column 'model_name': this is not an edgenas graph"),
        ([("space.json", 1)], r"t.csv:2: column 'model_name': space.json: no space 'moon'"),
        ([("codes.json", 1)], "networks of w8a8 cannot make a device of fp32"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(rows, says, tmp_path):
    arch = with_precisions(YOLO, ["w8a8"]).sample(np.random.default_rng(0))
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "empty.json").write_text("[]")
    (tmp_path / "space.json").write_text('{"space": "moon", "genes": {}}')
    (tmp_path / "codes.json").write_text(json.dumps({"space": "yolo", "genes": dict(arch.genes)}))
    with pytest.raises(TableError, match=says):
        fit_table(table(tmp_path / "t.csv", rows), SETTINGS)


def test_a_wrong_unit_or_column_is_refused(tmp_path):
    path = table(tmp_path / "t.csv", [("yolo8n_160", 1)])
    with pytest.raises(TableError, match="no unit 'h' of time; units: us, ms, s"):
        fit_table(path, msgspec.structs.replace(SETTINGS, unit="h"))
    with pytest.raises(TableError, match="no column 'latency'; columns: model_name, ms"):
        fit_table(path, msgspec.structs.replace(SETTINGS, column="latency"))


def test_what_to_measure_next_is_new_and_of_the_benchmark():
    first = to_measure(3)
    more = to_measure(2, measured=first, device="raspi4-ort-fp32")
    assert set(first) | set(more) <= set(yolobench.names()) and not set(first) & set(more) and len(set(first)) == 3
    with pytest.raises(ValueError, match="no YOLOBench model"):
        to_measure(1, measured=["yolo99"])
