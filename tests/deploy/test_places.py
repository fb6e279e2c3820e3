"""Where a runner runs: places by name, what is refused before anything starts, and the emulators against the reference."""

import shutil

import numpy as np
import pytest

from nas.cli import _explain
from nas.cli.common import UNREACHABLE
from nas.deploy import runner as runners
from nas.deploy.elsewhere import run_there, split
from nas.deploy.errors import DeployError, Unreachable
from nas.deploy.places import Ssh, packed, place_named, unpacked
from nas.deploy.runner import TARGETS, build, check_architecture, target_named, target_of
from nas.deploy.verify import agree
from nas.on_device import measure_on, verify_on
from nas.runtime import Metadata, reference, write
from nas.runtime.sample import Sampler


def needs(emulator):
    if shutil.which(f"{emulator}-static") is None and shutil.which(emulator) is None:
        pytest.skip(f"needs {emulator}; on Debian: apt-get install qemu-user-static")


def every_operator():
    """Odd sizes, all precisions, every epilogue, integer and float operators, and outputs of codes and floats."""
    s = Sampler(np.random.default_rng(5))
    outputs = []
    for wbits, abits in ((8, 8), (4, 4), (2, 2), (1, 1)):
        x = s.input((3, 9, 7), abits)
        a = s.conv2d(x, 17, 3, 1, wbits=wbits, bits=2, epilogue="threshold")
        b = s.conv2d(a, 9, 1, 1, wbits=wbits, bits=abits, epilogue="table")
        outputs += [s.conv2d(b, 6, 3, 2, wbits=wbits, epilogue="float"), s.linear(b, 3, wbits), s.conv_transpose2d(b, 3, wbits)]
        outputs += [s.maxpool(s.concat(b, s.slice(b, 1, 8)), 5), s.upsample(s.add(b, b, abits)), s.mul(b, b, abits)]
    return s, s.plan(outputs, Metadata())


@pytest.mark.compiler
@pytest.mark.parametrize("emulator", ["qemu-aarch64", "qemu-arm"])
def test_every_operator_gives_the_same_bits_on_arm(emulator, runner):
    needs(emulator)
    s, plan = every_operator()
    inputs = [s.values(), s.values(highest=True)]
    place = place_named(emulator)
    there = run_there(place, write(plan), inputs, runner=runner(place.target().name))
    assert there.report.latency is None
    for tensors, maps in zip(inputs, there.outputs, strict=True):
        assert agree(plan, reference.run(plan, tensors), maps)


@pytest.mark.compiler
def test_a_detector_is_verified_in_an_emulator_without_a_word_on_time(detector_file, pictures, runner):
    needs("qemu-aarch64")
    place = place_named("qemu-aarch64")
    found = verify_on(place, detector_file, pictures, limits={"size_mb": 1.0}, runner=runner("aarch64"))
    assert found.met and found.bit_exact and found.checked_images == 3 and found.target == "aarch64"
    assert found.latency_ms is None and found.peak_rss_kib is None and found.ram_kib > 1
    with pytest.raises(DeployError, match="says nothing"):
        verify_on(place, detector_file, pictures, limits={"latency_ms": 5.0})
    with pytest.raises(DeployError, match="says nothing"):
        measure_on(place, detector_file)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("pi", "ssh://user@host"),
        ("ssh://", "want ssh://user@host"),
        ("ssh://-oProxyCommand=reboot", "not beginning with '-'"),
        ("ssh://pi@-Fevil", "not beginning with '-'"),
        ("ssh://-l@host", "user '-l'"),
        ("ssh://pi@host;reboot", "letters, digits"),
        ("ssh://p i@host", "user 'p i'"),
        ("ssh://pi@host:0", "1..65535"),
        ("ssh://pi@host:", "1..65535"),
        ("ssh://pi@host:22/tmp", "want ssh://user@host"),
    ],
)
def test_a_place_that_could_be_taken_for_something_else_is_refused(name, says):
    with pytest.raises(DeployError, match="--on") as refused:
        place_named(name)
    assert says in str(refused.value)


def test_a_place_over_ssh_is_one_argument_list():
    place = place_named("ssh://pi@[fe80::1]:2222")
    assert place == Ssh("pi@fe80::1", 2222)
    command = place.command("uname -m")
    assert command[-3:] == ["--", "pi@fe80::1", "uname -m"] and "-oBatchMode=yes" in command
    assert place_named("ssh://board").command("true")[-2] == "board"


def test_a_runner_for_another_architecture_is_named_before_it_is_sent():
    arm = b"\x7fELF" + bytes(14) + (40).to_bytes(2, "little")
    check_architecture(arm, target_named("armv7"), "qemu-arm")
    with pytest.raises(DeployError, match=r"for armv7, pi is aarch64.*Exec format error.*--target aarch64"):
        check_architecture(arm, target_named("aarch64"), "pi")
    with pytest.raises(DeployError, match="no ELF program"):
        check_architecture(b"#!/bin/sh\n" * 9, target_named("aarch64"), "pi")


def test_targets_go_by_what_uname_says():
    assert [target_of(m, "x").name for m in ("x86_64", "arm64", "armv7l", "armv8l")] == ["x86_64", "aarch64", "armv7", "armv7"]
    with pytest.raises(DeployError, match="riscv64"):
        target_of("riscv64", "board")
    with pytest.raises(DeployError, match="aarch64, armv7"):
        target_named("arm64")


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_a_missing_compiler_is_named_with_what_installs_it(target, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGENAS_CACHE", str(tmp_path))
    monkeypatch.setattr(runners.shutil, "which", lambda *a, **k: None)
    monkeypatch.setattr(runners.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DeployError, match=r"apt-get install.*pip install ziglang") as missing:
        build(target)
    assert ("g++" if runners.is_host(target) else target.package) in str(missing.value)


def test_results_that_are_not_whole_are_refused():
    plan = every_operator()[1]
    with pytest.raises(DeployError, match="7 bytes of outputs came back"):
        split(plan, b"1234567", 1)
    whole = packed({"report.json": b"{}", "outputs": b"123"})
    assert unpacked(whole) == {"report.json": b"{}", "outputs": b"123"}


def test_a_report_of_another_kind_of_runner_is_refused(detector_file, tmp_path):
    class Stranger:
        name, emulated = "board", False

        def target(self):
            return target_named("armv7")

        def run(self, files, arguments):
            return {"report.json": b"hello", "outputs": b""}

    program = tmp_path / "runner"
    program.write_bytes(b"\x7fELF" + bytes(14) + (40).to_bytes(2, "little"))
    with pytest.raises(DeployError, match="board: the runner printed no report of ours"):
        run_there(Stranger(), detector_file.read_bytes(), [], runner=program)
    with pytest.raises(DeployError, match="nowhere"):
        run_there(Stranger(), detector_file.read_bytes(), [], runner=tmp_path / "nowhere")


def test_what_cannot_be_reached_has_an_exit_code_of_its_own(capsys):
    assert _explain(Unreachable("pi: no answer")) == UNREACHABLE
    assert capsys.readouterr().err == "edgenas: pi: no answer\n"
