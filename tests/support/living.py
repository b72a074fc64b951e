"""An aigw whose daemon a test starts, asks and kills itself, without a command line in between."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil

from aigw_daemon.control.client import ControlClient
from aigw_daemon.control.launch import is_listening
from aigw_daemon.control.schema import Status, UpRequest
from aigw_daemon.home import Home
from aigw_daemon.words import State
from tests.support.aigw import Aigw
from tests.support.wait import eventually_now


def fast_profile(port: int, upstream: int) -> str:
    """One backend that somebody else runs, and that answers at once."""
    return textwrap.dedent(f"""
        version: 1
        gateway: {{port: {port}}}
        backends:
          fast: {{engine: openai, url: "http://127.0.0.1:{upstream}/v1", models: [fast]}}
    """)


NEWER = "import aigw_daemon.version as of; of.AIGW_VERSION = '99.0'; from aigw_daemon.main import main; main()"
"""The same daemon under another version: its predecessor's worker is one that it must replace."""


class Living:
    """The daemon is a child of the test, so its exit code is known and nothing of it is left."""

    def __init__(self, aigw: Aigw) -> None:
        self.aigw = aigw
        self.home = Home.from_environment(aigw.env)
        self.daemon: subprocess.Popen[bytes] | None = None

    def start(self, *arguments: str, newer: bool = False) -> None:
        """Start a daemon and wait until it can be asked."""
        self.daemon = self.popen(*arguments, newer=newer)
        eventually_now(lambda: is_listening(self.home), what="the control socket", seconds=20)

    def popen(self, *arguments: str, newer: bool = False) -> subprocess.Popen[bytes]:
        """An aigwd process, as it comes."""
        program = ["-c", NEWER] if newer else ["-m", "aigw_daemon.main"]
        return subprocess.Popen(
            [sys.executable, *program, *arguments],
            env=self.aigw.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def up(self, profile: Path, *, ready: bool = True) -> Status:
        """Serve it, and wait until gateway and backends are ready."""
        with self.control() as control:
            control.up(UpRequest(profile=str(profile)))
        return self.ready() if ready else self.status()

    def ready(self, seconds: float = 30.0) -> Status:
        """Wait until gateway and backends are."""

        def found() -> Status | None:
            status = self.status()
            states = {status.gateway.state, *(backend.state for backend in status.backends)}
            return status if states == {State.READY} else None

        status = eventually_now(found, seconds=seconds, what="gateway and backends being ready")
        assert status is not None
        return status

    def restart(self) -> None:
        """Have the daemon replace its program in place, and wait until the new one can be asked."""
        # By the socket's file: between a look and a question the old program may have gone.
        before = self.home.control_socket.stat().st_ctime_ns
        with self.control() as control:
            control.daemon_restart()
        eventually_now(lambda: self._has_new_socket(before), seconds=20, what="the new program")

    def _has_new_socket(self, before: int) -> bool:
        try:
            return self.home.control_socket.stat().st_ctime_ns != before and is_listening(self.home)
        except FileNotFoundError:
            return False

    def control(self) -> ControlClient:
        """A connection to the daemon."""
        return ControlClient(self.home)

    def status(self) -> Status:
        """Everything at a glance."""
        with self.control() as control:
            return control.status()

    def kill(self, number: signal.Signals = signal.SIGKILL) -> int:
        """Signal the daemon, and return its exit code once it is gone."""
        daemon = self.daemon
        assert daemon is not None
        daemon.send_signal(number)
        return self.ended()

    def ended(self, seconds: float = 40.0) -> int:
        """The daemon's exit code, once it is gone."""
        daemon = self.daemon
        assert daemon is not None
        _, _ = daemon.communicate(timeout=seconds)
        return daemon.returncode

    @property
    def worker(self) -> int:
        """The PID of the worker that serves."""
        pid = self.status().gateway.pid
        assert pid is not None
        return pid

    def workers(self) -> list[int]:
        """All gateway workers of this home."""
        return [process.pid for process in self.aigw.processes("gateway")]

    def end(self) -> None:
        """Whatever a failed test left: nothing of it stays."""
        if self.daemon is not None and self.daemon.poll() is None:
            self.kill()
        elif self.daemon is not None:
            self.daemon.communicate()


def is_gone(pid: int) -> bool:
    """Whether there is no such process any more; a zombie counts as gone."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Signal a process of the test's own aigw."""
    os.kill(pid, number)
