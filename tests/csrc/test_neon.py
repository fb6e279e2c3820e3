"""The NEON kernels, cross compiled and run under QEMU: exact on every CPU, and each CPU runs the kernels that it has instructions for.

Emulation shows that results are right, never how fast they come. The programs are built once and kept (nas/deploy/runner.py).
"""

import os
import shutil
import subprocess

import pytest

from nas.deploy import runner
from nas.deploy.errors import DeployError

pytestmark = pytest.mark.compiler

PORTABLE = {"reference"}
NEON = PORTABLE | {"neon", "w2a2_neon", "w1a1_neon"}
DOTPROD = NEON | {"neon_dotprod"}
CPUS = [
    ("aarch64", "max", DOTPROD),
    ("aarch64", "cortex-a76", DOTPROD),
    ("aarch64", "cortex-a72", NEON),
    ("aarch64", "cortex-a53", NEON),
    ("armv7", "max", NEON),
    ("armv7", "cortex-a15", NEON),
    ("armv7", "cortex-a9", PORTABLE),  # has NEON, but no fused multiply-add
]


def emulator(target):
    name = {"aarch64": "qemu-aarch64", "armv7": "qemu-arm"}[target]
    found = shutil.which(f"{name}-static") or shutil.which(name)
    if found is None:
        pytest.skip(f"needs {name}; on Debian: apt-get install qemu-user-static")
    return found


@pytest.fixture(scope="module", params=["aarch64", "armv7"])
def target(request):
    """An architecture and the program edgenas_bench_kernels for it."""
    emulator(request.param)
    try:
        return request.param, runner.build(runner.target_named(request.param), "edgenas_bench_kernels")
    except DeployError as error:
        if "no C++ compiler" in str(error):
            pytest.skip(str(error))
        raise


def run(target, program, cpu, *arguments, isa=""):
    command = [emulator(target), "-cpu", cpu, program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env={**os.environ, "EDGENAS_ISA": isa})


def exact_variants(done, table):
    """The rows of one table that ran, from lines as `conv2d  neon  60 problems exact`."""
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return {line.split()[1] for line in done.stdout.splitlines() if line.split()[0] == table}


def test_kernels_are_exact_on_every_arm_cpu_and_the_ones_it_lacks_instructions_for_are_left_out(target):
    for number, (architecture, cpu, variants) in enumerate(CPUS):
        if architecture != target[0]:
            continue
        done = run(*target, cpu, "--check", "60", str(number))
        assert exact_variants(done, "conv2d") == variants, cpu
        assert exact_variants(done, "conv2d_f32") == variants & {"neon", "reference"}, cpu


def test_the_environment_lowers_the_instruction_set_on_arm_and_an_unknown_one_is_refused(target):
    best = DOTPROD if target[0] == "aarch64" else NEON
    for isa, variants in {"portable": PORTABLE, "avx2": PORTABLE, "neon": NEON, "neon_dotprod": best}.items():
        assert exact_variants(run(*target, "max", "--check", "30", isa=isa), "conv2d") == variants, isa
    refused = run(*target, "max", "--check", "1", isa="sve")
    assert refused.returncode != 0
    assert "neon_dotprod" in refused.stderr
