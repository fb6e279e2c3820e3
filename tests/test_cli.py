"""A user's mistake is one clear line and an exit code, never a traceback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def edgenas(*arguments, **kwargs):
    command = [sys.executable, "-c", "from nas.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False, **kwargs)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["search", "--out", "{tmp}/r", "--max-latency", "6"], "6ms"),
        (["search", "--out", "{tmp}/r", "--max-latency", "6MB"], "ms"),
        (["search", "--out", "{tmp}/r", "--device", "toaster"], "toaster"),
        (["search", "--out", "{tmp}/r", "--space", "resnet"], "spaces: yolo"),
        (["search", "--out", "{tmp}/r", "--strategy", "prayer"], "nsga2"),
        (["search", "--out", "{tmp}/r", "--proxy", "zen"], "nwot"),
        (["search", "--out", "{tmp}/r", "--budget", "0"], "budget"),
        (["search", "--out", "{tmp}/r", "--halving", "3"], "more candidates than --finalists 3"),
        (["search", "--out", "{tmp}/r", "--objectives", "latency,beauty"], "'beauty' to optimize"),
        (["search", "--out", "{tmp}/r", "--objectives", "energy,score", "--device", "raspi4-tflite-int8"], "pj_per_mac"),
        (["search", "--out", "{tmp}/r", "--data", "{tmp}/nothing"], "nothing"),
        (["search", "--out", "{tmp}/r", "--colour", "blue"], "--colour"),
        (["resume", "{tmp}/nothing"], "no run"),
        (["report", "{tmp}/nothing"], "no run"),
        (["predict", "{tmp}/none.edge", "{tmp}"], "none.edge"),
        (["verify", "{tmp}/text.edge"], "text.edge"),
        (["compile", "{tmp}/text.edge", "--out", "{tmp}/x.edge"], "text.edge"),
        (["train", "{tmp}/text.edge", "--out", "{tmp}/x.safetensors"], "not JSON"),
        (["train", "{tmp}/none.safetensors", "--out", "{tmp}/x.safetensors"], "no model"),
        (["activations", "{tmp}/none.safetensors", "--out", "{tmp}/x.safetensors", "--target-latency", "4MB"], "ms"),
        (["devices", "show", "toaster"], "toaster"),
        (["data", "check", "{tmp}/nothing"], "nothing"),
        (["study", "generalization", "--out", "{tmp}/r", "--bits", "fp,3"], "bit-widths: fp, 8, 4, 2, 1"),
        (["study", "generalization", "--out", "{tmp}/r", "--seeds", "1"], "2 or more"),
        (["study", "generalization", "--out", "{tmp}/r", "--size", "100"], "resolution=100"),
        (["frobnicate"], "frobnicate"),
    ],
)
def test_bad_input_is_named_with_what_would_work(arguments, says, tmp_path):
    (tmp_path / "text.edge").write_text("this is no artifact")
    done = edgenas(*(a.format(tmp=tmp_path) for a in arguments))
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.strip().splitlines()) <= 3


def test_a_gene_outside_the_space_names_its_options(tmp_path):
    (tmp_path / "genes.json").write_text(json.dumps({"resolution": 97}))
    done = edgenas("train", tmp_path / "genes.json", "--out", tmp_path / "m.safetensors")
    assert done.returncode == 2 and "resolution=97" in done.stderr and "96, 128" in done.stderr


def test_doctor_tells_where_everything_comes_from():
    found = json.loads(edgenas("doctor", "--json").stdout)
    assert found["engine"]["conv2d"][-1] == "reference"
    assert {row["package"] for row in found["packages"]} == {"nas", "searchspaces", "proxies", "predictors", "hwmodels"}


def test_a_lower_instruction_set_can_be_asked_for_and_a_strange_one_is_refused():
    low = edgenas("doctor", "--json", env={**os.environ, "EDGENAS_ISA": "portable"})
    assert json.loads(low.stdout)["engine"]["conv2d"] == ["reference"]
    strange = edgenas("doctor", env={**os.environ, "EDGENAS_ISA": "mmx"})
    assert strange.returncode == 2 and "portable" in strange.stderr and "Traceback" not in strange.stderr


def test_lists_print_tables_and_json():
    assert "nwot" in edgenas("proxies", "list").stdout
    rows = json.loads(edgenas("devices", "list", "--json").stdout)
    assert rows[0]["device"] == "local" and len(rows) > 3
