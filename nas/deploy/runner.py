"""edgenas-run for a device: cross compiled from the engine's sources, once, and kept.

Kept under EDGENAS_CACHE (else ~/.cache/edgenas): runners/edgenas-run-TARGET-DIGEST, where the digest is that of the sources and
the compiler, and build/, whose objects make the next build short. This machine's own runner lies beside the engine since both were built.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from nas.deploy.errors import DeployError
from nas.locks import alone
from nas.model import write_whole
from nas.progress import Progress, Silent
from nas.runtime import executor

PROGRAM = "edgenas-run"
_ZIG_FLAGS = """\
for flag do
    shift
    case $flag in
        -march=armv8.2-a+dotprod) flag=-mcpu=generic+v8_2a+dotprod ;;
        -mfpu=neon-vfpv4) flag=-mcpu=generic+v7a+neon+vfp4 ;;
        -mfloat-abi=hard) continue ;;
    esac
    set -- "$@" "$flag"
done
"""
TAIL = 30  # lines of a failed build that are shown


@dataclass(frozen=True)
class Target:
    """An architecture that artifacts run on.  Debian names the packages; zig stands for the PyPI package ziglang."""

    name: str
    machines: tuple[str, ...]  # what `uname -m` says there
    elf_machine: int  # e_machine of its programs
    compiler: str
    package: str
    zig: str


TARGETS = {
    target.name: target
    for target in (
        Target("x86_64", ("x86_64", "amd64"), 62, "x86_64-linux-gnu-g++", "g++-x86-64-linux-gnu", "x86_64-linux-musl"),
        Target("aarch64", ("aarch64", "arm64"), 183, "aarch64-linux-gnu-g++", "g++-aarch64-linux-gnu", "aarch64-linux-musl"),
        Target("armv7", ("armv7l", "armv8l"), 40, "arm-linux-gnueabihf-g++", "g++-arm-linux-gnueabihf", "arm-linux-musleabihf"),
    )
}


@dataclass(frozen=True)
class Toolchain:
    """A C++ compiler for a target: what CMake is told, and what it calls itself."""

    name: str
    settings: tuple[str, ...]
    version: str


def target_named(name: str) -> Target:
    if name not in TARGETS:
        raise DeployError(f"no target '{name}'; targets: {', '.join(TARGETS)}")
    return TARGETS[name]


def target_of(machine: str, whose: str) -> Target:
    """The target of a machine by what its `uname -m` says."""
    for target in TARGETS.values():
        if machine in target.machines:
            return target
    raise DeployError(f"{whose} is a '{machine}' machine; the engine runs on {', '.join(TARGETS)}")


def runner_for(target: Target, progress: Progress | None = None) -> Path:
    """A runner of this engine for the target, built where none is kept."""
    beside = Path(executor.engine().__file__).parent / PROGRAM
    if is_host(target) and beside.exists():
        return beside
    return build(target, progress=progress)


def build(target: Target, program: str = PROGRAM, progress: Progress | None = None) -> Path:
    """One program of csrc/CMakeLists.txt for the target; raises DeployError saying which tool is missing and what installs it."""
    source, tools = sources(), toolchain(target)
    kept = cache() / "runners" / f"{program}-{target.name}-{_digest(source, tools)}"
    if kept.exists():
        return kept
    (progress or Silent()).say(f"building {program} for {target.name} with {tools.name}, once; this takes a minute")
    folder = cache() / "build" / f"{target.name}-{tools.name}-{hashlib.sha256(bytes(source)).hexdigest()[:8]}"
    with alone(folder / ".lock"):
        configure = ["-S", str(source), "-B", str(folder), *tools.settings, "-DEDGENAS_PYTHON=OFF", "-DEDGENAS_RUNNER=ON"]
        if not is_host(target):
            configure += ["-DCMAKE_SYSTEM_NAME=Linux", f"-DCMAKE_SYSTEM_PROCESSOR={target.name}"]
        if shutil.which("ninja", path=_paths()):
            configure += ["-G", "Ninja"]
        _cmake(configure)
        _cmake(["--build", str(folder), "--target", program, "-j", str(os.cpu_count() or 1)])
        write_whole(kept, (folder / program).read_bytes())
    kept.chmod(0o755)
    return kept


def sources() -> Path:
    """The engine's sources: of the checkout that this runs from, else the copy in the installed package."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package.parent / "csrc", package / "runtime" / "csrc"):
        if (folder / "CMakeLists.txt").exists() and (folder / "runner").is_dir():
            return folder
    raise DeployError("the engine's sources (csrc) are neither in a checkout nor in the installed package; install edgenas from a checkout")


def toolchain(target: Target) -> Toolchain:
    """This machine's own compiler for its own architecture, else Debian's cross compiler, else ziglang."""
    for command in ("c++",) * is_host(target) + (target.compiler,):
        if path := shutil.which(command):
            return Toolchain(command, (f"-DCMAKE_CXX_COMPILER={path}",), _version([path, "--version"]))
    if importlib.util.find_spec("ziglang") is not None:
        return _zig(target)
    raise DeployError(
        f"no C++ compiler for {target.name}: install {'g++' if is_host(target) else target.package} (Debian, Ubuntu: apt-get install), "
        "or, without root: pip install ziglang"
    )


def is_host(target: Target) -> bool:
    return sys.platform == "linux" and platform.machine() in target.machines


def check_architecture(program: bytes, target: Target, whose: str) -> None:
    """Raises DeployError where a program is for another architecture: the kernel there would only say 'Exec format error'."""
    if program[:4] != b"\x7fELF" or len(program) < 20:
        raise DeployError(f"the runner for {whose} is no ELF program; `edgenas compile --target {target.name}` makes one")
    machine = int.from_bytes(program[18:20], "little")
    if machine != target.elf_machine:
        found = next((t.name for t in TARGETS.values() if t.elf_machine == machine), f"ELF machine {machine}")
        raise DeployError(
            f"the runner is a program for {found}, {whose} is {target.name} and would refuse it (Exec format error); "
            f"`edgenas compile --target {target.name}` makes the right one"
        )


def cache() -> Path:
    return Path(os.environ.get("EDGENAS_CACHE") or Path.home() / ".cache" / "edgenas")


def _zig(target: Target) -> Toolchain:
    """CMake takes one program for each tool, so each gets a small script; that of the compiler says gcc's flags in zig's words."""
    folder = cache() / "zig" / target.name
    python = shlex.quote(sys.executable)
    for tool, words in {"c++": ["c++", "-target", target.zig], "ar": ["ar"], "ranlib": ["ranlib"]}.items():
        translated = _ZIG_FLAGS if tool == "c++" else ""
        write_whole(folder / tool, f'#!/bin/sh\n{translated}exec {python} -m ziglang {shlex.join(words)} "$@"\n'.encode())
        (folder / tool).chmod(0o755)
    tools = {"CXX_COMPILER": "c++", "AR": "ar", "RANLIB": "ranlib"}
    settings = tuple(f"-DCMAKE_{variable}={folder / tool}" for variable, tool in tools.items())
    return Toolchain("ziglang", settings, _version([sys.executable, "-m", "ziglang", "version"]))


def _version(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def _digest(source: Path, tools: Toolchain) -> str:
    mark = hashlib.sha256(f"{tools.name}\n{tools.version}".encode())
    for path in sorted(source.rglob("*")):
        if path.is_file() and path.suffix in (".cpp", ".h", ".py", ".txt", ".cmake"):
            mark.update(str(path.relative_to(source)).encode() + b"\0" + path.read_bytes() + b"\0")
    return mark.hexdigest()[:16]


def _cmake(arguments: list[str]) -> None:
    path = shutil.which("cmake", path=_paths())
    if path is None:
        raise DeployError("building a runner needs CMake: pip install cmake ninja")
    done = subprocess.run([path, *arguments], capture_output=True, text=True, check=False, env={**os.environ, "PATH": _paths()})
    if done.returncode != 0:
        last = "\n".join((done.stdout + done.stderr).strip().splitlines()[-TAIL:])
        raise DeployError(f"the runner could not be built: {shlex.join(['cmake', *arguments])}\n{last}")


def _paths() -> str:
    """PATH, the environment of this Python first: cmake and ninja are often installed by pip there."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
