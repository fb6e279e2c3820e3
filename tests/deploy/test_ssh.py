"""A device over SSH: an OpenSSH server of the tests' own on loopback, with keys that live as long as the test."""

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nas.deploy.elsewhere import run_there
from nas.deploy.errors import DeployError, Unreachable
from nas.deploy.places import PROGRAM, Ssh
from nas.on_device import measure_on, verify_on

SERVER = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
SetEnv TMPDIR={folder}/device
"""
CLIENT = """
Host *
  IdentityFile {folder}/{key}
  IdentitiesOnly yes
  IdentityAgent none
  UserKnownHostsFile {folder}/{known}
  GlobalKnownHostsFile none
  StrictHostKeyChecking {policy}
"""


class Server:
    """sshd in the foreground; `place` reaches it, `device` is where its runs have their folders."""

    def __init__(self, folder):
        self.folder, self.device = folder, folder / "device"
        self.device.mkdir()
        for key in ("host_key", "user_key", "other_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        (folder / "sshd_config").write_text(SERVER.format(port=self.port, folder=folder))
        self.place = self.reached_by("client")
        self.log = (folder / "log").open("w")
        self.process = subprocess.Popen([sshd(), "-D", "-e", "-f", folder / "sshd_config"], stderr=self.log)

    def reached_by(self, name, key="user_key", known="known_hosts", policy="accept-new"):
        """The place through an ssh_config of its own."""
        config = self.folder / name
        config.write_text(CLIENT.format(folder=self.folder, key=key, known=known, policy=policy))
        return Ssh("127.0.0.1", self.port, config)

    def wait(self):
        for _ in range(100):
            with socket.socket() as door:
                if door.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        pytest.skip(f"sshd does not start here: {(self.folder / 'log').read_text()[-300:]}")

    def cut(self):
        """Kill the server's end of every connection, as a device does that is unplugged."""
        for status in Path("/proc").glob("[0-9]*/stat"):
            try:
                if int(status.read_text().rsplit(")", 1)[1].split()[1]) == self.process.pid:
                    os.kill(int(status.parent.name), signal.SIGKILL)
            except (OSError, ProcessLookupError):
                continue

    def stop(self):
        self.process.terminate()
        self.process.wait(10)
        self.log.close()


def sshd():
    return shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    if sshd() is None or shutil.which("ssh") is None or not Path("/proc/self/stat").exists():
        pytest.skip("needs OpenSSH's server and client; on Debian: apt-get install openssh-server openssh-client")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where sshd gives up its rights; the system's service makes it at its start
    running = Server(tmp_path_factory.mktemp("sshd"))
    running.wait()
    yield running
    running.stop()


def left_behind(server):
    """What is in the device's temporary folder, once runs had time to clean up."""
    for _ in range(100):
        if not any(server.device.iterdir()):
            break
        time.sleep(0.1)
    return list(server.device.iterdir())


@pytest.mark.compiler
def test_a_detector_is_verified_and_timed_over_ssh_and_nothing_stays_there(server, detector_file, pictures, runner):
    place = server.place
    found = verify_on(place, detector_file, pictures, limits={"latency_ms": 1e4, "size_mb": 1.0}, runner=runner())
    assert found.met and found.bit_exact and not found.emulated and found.on == f"ssh://127.0.0.1:{server.port}"
    assert found.latency_q1_ms <= found.latency_ms <= found.latency_q3_ms and found.latency_runs >= 1
    assert found.peak_rss_kib > found.ram_kib
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nas.on_device.TIMED_S", 0.1)
        layers = measure_on(place, detector_file, threads=2, runner=runner())["layers"]
    assert {row["op"] for row in layers} >= {"conv2d", "concat", "upsample"}
    assert not left_behind(server)


@pytest.mark.compiler
def test_a_connection_that_is_cut_is_told_and_the_next_run_goes_well(server, detector_file, runner):
    image = [[np.zeros((3, 96, 96), np.uint8)]]
    file, caught = detector_file.read_bytes(), []

    def run():
        try:
            run_there(server.place, file, image, seconds=2.0, runner=runner())
        except Unreachable as fault:
            caught.append(str(fault))

    thread = threading.Thread(target=run)
    thread.start()
    for _ in range(200):
        if list(server.device.glob("*/report.json")):
            break
        time.sleep(0.02)
    server.cut()
    thread.join(30)
    assert len(caught) == 1 and "connection was lost" in caught[0] and "run the command again" in caught[0]
    assert not left_behind(server)
    assert len(run_there(server.place, file, image, runner=runner()).outputs) == 1


def test_what_keeps_a_connection_from_being_made_is_told_apart(server):
    def refusal(place):
        with pytest.raises(Unreachable) as fault:
            place.target()
        return str(fault.value)

    assert "is the port right" in refusal(replace(server.place, port=1))
    assert "refuses your key" in refusal(server.reached_by("stranger", key="other_key"))
    assert "accept-new" in refusal(server.reached_by("careful", known="nobody", policy="yes"))
    (server.folder / "changed").write_text(f"[127.0.0.1]:{server.port} {(server.folder / 'other_key.pub').read_text()}")
    assert "another one than before" in refusal(server.reached_by("warned", known="changed"))
    assert "name is not known" in refusal(replace(server.place, destination="no-such-host.invalid"))


def test_a_host_is_trusted_at_first_sight_where_the_config_says_so(server):
    place = server.reached_by("trusting", known="learned")
    assert place.target().name
    assert place == server.reached_by("trusting", known="learned", policy="yes") and place.target().name


def test_a_program_that_the_device_cannot_start_is_told_plainly(server):
    broken = b"\x7fELF" + bytes(60)
    with pytest.raises(DeployError, match="another architecture.*Exec format error"):
        server.place.run({PROGRAM: broken}, ["x"])
    assert not left_behind(server)


def test_a_missing_ssh_client_is_named(monkeypatch):
    monkeypatch.setattr("nas.deploy.places.shutil.which", lambda name: None)
    with pytest.raises(DeployError, match="openssh-client"):
        Ssh("pi").target()
