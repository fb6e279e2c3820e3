"""Where a runner runs: an emulator on this machine, or a device over SSH.  A place takes files, runs the runner and gives files back.

Over SSH it is the system's OpenSSH client with the user's own config, keys and jump hosts.  One connection does the whole run: a tar
archive goes in, the remote shell unpacks it in a folder of its own, runs it, sends an archive back and removes the folder, also when
the connection was lost meanwhile.  Here nothing is written until the whole answer has come.
"""

from __future__ import annotations

import io
import re
import shlex
import shutil
import signal
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from nas.deploy.errors import DeployError, Unreachable
from nas.deploy.runner import PROGRAM, Target, target_named, target_of

REPORT, OUTPUTS = "report.json", "outputs"  # what a run leaves behind
CONNECT_S, ALIVE_S, RUN_S = 10, 5, 900  # to connect; between signs of life, three of which may be missing; for a whole run
MARK = b"EDGENAS-RESULTS\n"  # what a login script prints comes before it
NO_TOOL, NOT_RUNNABLE = 127, 126  # a shell's exit codes
SSH_FAILED = 255
QEMUS = {"qemu-aarch64": "aarch64", "qemu-arm": "armv7", "qemu-x86_64": "x86_64"}
HOW = "local, qemu-aarch64, qemu-arm or ssh://user@host[:port]"

# Run as `sh -c SCRIPT edgenas-run ARGUMENTS`. A lost connection shows as a closed pipe when the answer is written.
SCRIPT = f"""\
d=$(mktemp -d) || exit 1
trap 'cd /; rm -rf "$d"' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 141' PIPE
trap 'exit 143' TERM
cd "$d" && tar xf - && chmod 700 {PROGRAM} || exit 1
./{PROGRAM} "$@" >{REPORT} || exit $?
echo {MARK.decode().strip()} && tar cf - {REPORT} {OUTPUTS}
"""

Files = Mapping[str, bytes]


class Place(Protocol):
    """Somewhere that a runner can run.  `emulated`: what it computes is right, how long it takes says nothing."""

    @property
    def name(self) -> str: ...

    @property
    def emulated(self) -> bool: ...

    def target(self) -> Target:
        """The architecture of its programs."""

    def run(self, files: Files, arguments: Sequence[str]) -> Files:
        """The files REPORT and OUTPUTS of `edgenas-run ARGUMENTS` among `files`, of which PROGRAM is the runner."""


def place_named(name: str, ssh_config: Path | None = None) -> Place:
    """The place that --on names; raises DeployError for another name and for a host that could be taken for an option."""
    if name in QEMUS:
        return Qemu(name)
    if name.startswith("ssh://"):
        return _ssh(name, ssh_config)
    raise DeployError(f"--on {name}: no such place; places: {HOW}")


@dataclass(frozen=True)
class Qemu:
    """User-mode emulation of one program.  The environment variable QEMU_CPU chooses the core: cortex-a53, cortex-a72, max."""

    name: str
    emulated: bool = True

    def target(self) -> Target:
        return target_named(QEMUS[self.name])

    def emulator(self) -> str:
        found = shutil.which(f"{self.name}-static") or shutil.which(self.name)
        if found is None:
            raise DeployError(f"{self.name} is not installed (Debian, Ubuntu: apt-get install qemu-user-static)")
        return found

    def run(self, files: Files, arguments: Sequence[str]) -> Files:
        emulator = self.emulator()
        with tempfile.TemporaryDirectory(prefix="edgenas-") as folder:
            for name, content in files.items():
                Path(folder, name).write_bytes(content)
            Path(folder, PROGRAM).chmod(0o700)
            command = [emulator, f"./{PROGRAM}", *arguments]
            try:
                done = subprocess.run(command, cwd=folder, capture_output=True, timeout=RUN_S, check=False)
            except subprocess.TimeoutExpired:
                raise DeployError(f"{self.name}: the run was not done after {RUN_S} s; emulation is slow, try a smaller input") from None
            if done.returncode != 0:
                raise DeployError(f"{self.name}: {_why(done.returncode, done.stderr)}")
            return {REPORT: done.stdout, OUTPUTS: Path(folder, OUTPUTS).read_bytes()}


@dataclass(frozen=True)
class Ssh:
    """A device that the system's OpenSSH client reaches.  `config` is an ssh_config file instead of the user's own."""

    destination: str  # user@host or host
    port: int | None = None
    config: Path | None = None
    emulated: bool = False

    @property
    def name(self) -> str:
        return f"ssh://{self.destination}" + (f":{self.port}" if self.port else "")

    def target(self) -> Target:
        said = self._shell("uname -m").decode(errors="replace").split()
        return target_of(said[-1] if said else "nameless", self.name)

    def run(self, files: Files, arguments: Sequence[str]) -> Files:
        answer = self._shell(SCRIPT, arguments, packed(files))
        _, mark, archive = answer.partition(MARK)
        if not mark:
            raise Unreachable(f"{self.name}: the connection was lost during the run; nothing was kept, run the command again")
        try:
            return unpacked(archive)
        except (tarfile.TarError, EOFError, KeyError, AttributeError):
            raise Unreachable(f"{self.name}: the connection was lost while results came back; run the command again") from None

    def command(self, remote: str) -> list[str]:
        """The client's argument list; nothing of it passes a local shell."""
        client = shutil.which("ssh")
        if client is None:
            raise DeployError("the OpenSSH client (ssh) is not installed (Debian, Ubuntu: apt-get install openssh-client)")
        options = {
            "BatchMode": "yes",  # asks nothing: no password, no new host key
            "ConnectTimeout": CONNECT_S,
            "ServerAliveInterval": ALIVE_S,
            "ServerAliveCountMax": 3,
            "ClearAllForwardings": "yes",
        }
        config = ["-F", str(self.config.resolve())] if self.config else []
        port = ["-p", str(self.port)] if self.port else []
        return [client, *config, *port, "-T", *(f"-o{key}={value}" for key, value in options.items()), "--", self.destination, remote]

    def _shell(self, script: str, arguments: Sequence[str] = (), send: bytes = b"") -> bytes:
        """stdout of a script under the device's sh; the user's login shell there only starts it."""
        command = self.command(shlex.join(["exec", "sh", "-c", script, PROGRAM, *arguments]))
        try:
            done = subprocess.run(command, input=send, capture_output=True, timeout=RUN_S, check=False)
        except subprocess.TimeoutExpired:
            raise Unreachable(f"{self.name}: no answer after {RUN_S} s; run the command again") from None
        if done.returncode == SSH_FAILED:
            raise Unreachable(f"{self.name}: {_why_not(done.stderr.decode(errors='replace'))}")
        if done.returncode != 0:
            raise DeployError(f"{self.name}: {_why(done.returncode, done.stderr)}")
        return done.stdout


def packed(files: Files) -> bytes:
    """A tar archive that the oldest tar can read."""
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o600
            archive.addfile(member, io.BytesIO(content))
    return held.getvalue()


def unpacked(archive: bytes) -> Files:
    """The results in an archive, in memory: what else a device may send is not looked at."""
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as found:
        return {name: found.extractfile(name).read() for name in (REPORT, OUTPUTS)}  # type: ignore[union-attr]


def _ssh(name: str, config: Path | None) -> Ssh:
    found = re.fullmatch(r"ssh://(?:(?P<user>[^@]*)@)?(?P<host>\[[0-9A-Fa-f:.]+\]|[^:@]*)(?::(?P<port>\d*))?", name.rstrip("/"))
    user, host, port = (found["user"], found["host"].strip("[]"), found["port"]) if found else (None, "", None)
    plain, rule = r"[A-Za-z0-9_][A-Za-z0-9_.-]*", "letters, digits, '.', '_' and '-', not beginning with '-'"
    if not (re.fullmatch(plain, host) or re.fullmatch(r"[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*", host)):
        raise DeployError(f"--on {name}: want ssh://user@host[:port], the host a name of {rule}")
    if user is not None and not re.fullmatch(plain, user):
        raise DeployError(f"--on {name}: the user '{user}' is no name of {rule}")
    if port is not None and not (port and 1 <= int(port) <= 65535):
        raise DeployError(f"--on {name}: the port is no number in 1..65535")
    if config is not None and not config.is_file():
        raise DeployError(f"--ssh-config {config}: no such file")
    return Ssh(f"{user}@{host}" if user else host, int(port) if port else None, config)


def _why_not(said: str) -> str:
    """What to do about what the client says when it gives up."""
    last = said.strip().splitlines()[-1].strip() if said.strip() else "the client said nothing"
    advice = {
        "IDENTIFICATION HAS CHANGED": "the host's key is another one than before; if the device was set up anew, remove the old key "
        "with ssh-keygen -R HOST",
        "Host key verification failed": "the host's key is not known; connect once with ssh and compare it, or put "
        "'StrictHostKeyChecking accept-new' for this host into your ssh config",
        "Permission denied": "the host refuses your key; install it with ssh-copy-id (passwords are never asked for)",
        "Could not resolve": "the host's name is not known",
        "Connection refused": "nothing listens there; is sshd running, is the port right?",
        "timed out": "the host does not answer; is it on, is the network right?",
        "No route to host": "the host does not answer; is it on, is the network right?",
        "Bad configuration": "the ssh config is wrong",
    }
    for sign, meaning in advice.items():
        if sign in said:
            return f"{meaning} ({last})"
    return f"the connection was lost; nothing was kept, run the command again ({last})"


def _why(code: int, stderr: bytes) -> str:
    """Why a run failed that did begin."""
    said = " / ".join(stderr.decode(errors="replace").strip().splitlines()[-3:])
    signal_number = code - 128 if code > 128 else -code
    if code == NO_TOOL:
        return f"a tool is missing there; sh, mktemp, tar and chmod are needed ({said})"
    if code == NOT_RUNNABLE or "Exec format error" in said:
        return f"the runner cannot be started there: another architecture, or its temporary folder forbids programs ({said})"
    if 0 < signal_number < 65:
        meaning = "; the device may have too little memory" if signal_number == signal.SIGKILL else ""
        return f"the runner was ended by signal {signal_number}{meaning} {said}".strip()
    return said or f"the runner failed with exit code {code}"
