"""The engine under AddressSanitizer and UBSan, its threads under ThreadSanitizer, and a short run of the fuzzer.

Builds once into build/, reused by later runs.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nas.runtime import Metadata, read, write
from nas.runtime.sample import Sampler

ROOT = Path(__file__).resolve().parents[2]
CORPUS = ROOT / "csrc" / "fuzz" / "corpus"
pytestmark = pytest.mark.compiler


def build(target, sanitizer="address"):
    """Configures and builds one target, with clang++ where it is (it has libFuzzer), else g++; skips where a tool is missing."""
    compiler = "clang++" if target == "edgenas_fuzz" or shutil.which("clang++") else "g++"
    cmake = shutil.which("cmake", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if cmake is None or shutil.which(compiler) is None:
        pytest.skip(f"needs cmake and {compiler}; on Debian: apt-get install cmake g++ clang libclang-rt-14-dev")
    out = ROOT / "build" / f"sanitize-{sanitizer}-{compiler}"
    fuzz = "clang" in compiler and sanitizer == "address"
    options = ["-DEDGENAS_PYTHON=OFF", f"-DEDGENAS_SANITIZE={sanitizer}", f"-DEDGENAS_FUZZ={'ON' if fuzz else 'OFF'}"]
    configure = [cmake, "-S", ROOT / "csrc", "-B", out, f"-DCMAKE_CXX_COMPILER={compiler}", *options]
    for command in (configure, [cmake, "--build", out, "--target", target, "-j", str(os.cpu_count() or 1)]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.fail(f"{' '.join(map(str, command))}\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return out / target


def plans():
    """Odd sizes over all convolution precisions, so that a kernel that reads or writes past a tensor is seen."""
    for seed, (c, h, w) in enumerate(((1, 1, 1), (3, 7, 5), (17, 9, 13), (33, 4, 21))):
        s = Sampler(np.random.default_rng(seed))
        outputs = []
        for wbits, abits in ((8, 8), (4, 4), (2, 2), (1, 1)):
            x = s.input((c, h, w), abits)
            a = s.conv2d(x, 5, 3, 1, wbits=wbits, bits=2, epilogue="threshold")
            b = s.conv2d(a, 9, 1, 1, wbits=wbits, bits=abits)
            outputs += [s.conv2d(b, 6, 3, 2, wbits=wbits, epilogue="float"), s.conv_transpose2d(b, 3, wbits), s.linear(b, 3, wbits)]
            outputs += [s.maxpool(s.concat(b, s.slice(b, 1, 8)), 5), s.upsample(s.add(b, b, abits))]
            outputs.append(s.mul(b, s.global_avgpool(b, abits), abits))
        f = s.conv2d(s.dequantize(0), 10, 3, 2, activation="silu")
        yield s.plan([*outputs, s.softmax(s.matmul(f, f, transpose_b=True), 2), s.layernorm(f, 0)], Metadata())


def test_every_kernel_and_the_parser_run_clean_under_the_sanitizers(tmp_path):
    replay = build("edgenas_replay")
    files = sorted(CORPUS.glob("*.edge"))
    for number, plan in enumerate(plans()):
        files.append(tmp_path / f"{number}.edge")
        files[-1].write_bytes(write(plan))
    done = subprocess.run([replay, "400", *files], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


def test_threads_that_share_every_step_run_clean_under_the_thread_sanitizer(tmp_path):
    replay = build("edgenas_replay", "thread")
    files = []
    for number, plan in enumerate(plans()):
        files.append(tmp_path / f"{number}.edge")
        files[-1].write_bytes(write(plan))
    done = subprocess.run([replay, "0", *files], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_fuzzer_finds_nothing_in_a_few_seconds(tmp_path):
    fuzz = build("edgenas_fuzz")
    found = tmp_path / "found"
    found.mkdir()
    command = [fuzz, "-max_total_time=5", "-max_len=8192", "-seed=1", f"-artifact_prefix={tmp_path}/", found, CORPUS]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*.edge")), ids=lambda p: p.name)
def test_every_corpus_file_is_still_a_valid_artifact(path):
    assert write(read(path.read_bytes())) == path.read_bytes()
