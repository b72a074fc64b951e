"""Starts the daemon in the background, or runs it once to clean up: what a CLI does when no daemon answers.

The new daemon tells through a pipe that it is ready, or why it can't be: one JSON line, ``{"ready": true}`` or
``{"error": {…Problem…}}``. A pipe that closes without a line means that it died, and then its log says why.
"""

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aigw_daemon.control.codec import converted
from aigw_daemon.control.schema import Problem
from aigw_daemon.control.wire import ControlError, DaemonNotRunning, dial
from aigw_daemon.home import PRIVATE_FILE, Home

DAEMON = (sys.executable, "-P", "-m", "aigw_daemon.main")
"""The same interpreter as ours: the daemon of this installation, whatever PATH says. ``-P`` keeps Python from importing
what happens to lie in the folder where `aigw` is typed."""

READY_TIMEOUT = 30.0
"""Seconds a daemon may take to say that it is ready; it says so before any engine is."""

HOLDER_SECONDS = 1.0
"""How long another daemon that holds the lock may take to answer before we try for it again."""

LOG_LINES = 15

_MARKS = frozenset({"AIGW_INSTANCE", "AIGW_BACKEND"})


class LaunchError(Exception):
    """The daemon did not start, or did not do what it was run for; ``problem`` says why."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


@dataclass(frozen=True)
class _Told:
    """The daemon's line on the ready pipe, as far as it came."""

    line: bytes
    timed_out: bool


def ensure_daemon(home: Home, *, command: Sequence[str] = DAEMON, timeout: float = READY_TIMEOUT) -> bool:
    """Return once a daemon answers on ``home``'s control socket, starting one when there is none; whether that was so.

    Two callers at once are fine: one daemon gets the lock, and both find it. ``timeout`` is in seconds. Raises
    LaunchError with the daemon's own problem, or with the end of its log when it died without a word, HomeError when
    the folders can't be used, and DaemonSuspended or DaemonUnreachable for a daemon that runs and can't answer.
    """
    deadline = time.monotonic() + timeout
    while not is_running(home):
        home.prepare()
        log_start = _size(home.daemon_log)
        told = _launch(home, command, timeout)
        problem = _problem(told, home.daemon_log, log_start, timeout)
        if problem is None:
            return True
        if problem.code != "already_running" or time.monotonic() > deadline:
            raise LaunchError(problem)
        # Who holds the lock is starting, as we just were, or ending: then the next try gets it.
        _wait_listening(home, HOLDER_SECONDS)
    return False


def stop_all(*, command: Sequence[str] = DAEMON) -> str:
    """Stop whatever is ours without a running daemon; answer what ``aigwd --stop-all`` said about it.

    Raises LaunchError when something could not be stopped.
    """
    done = subprocess.run([*command, "--stop-all"], capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().split("\n")[-LOG_LINES:]
        raise LaunchError(Problem(code="stop_failed", message="aigwd --stop-all failed", details=lines))
    return done.stdout.strip()


def exec_foreground(profile: str | None, *, command: Sequence[str] = DAEMON) -> None:
    """Become the daemon, attached to this terminal and serving at once: Ctrl-C stops everything. Doesn't return."""
    argv = [*command, "--foreground", "--up", *(["--profile", profile] if profile else [])]
    os.execv(argv[0], argv)  # noqa: S606  # no shell is wanted: an argv list (rule S8)


def is_running(home: Home) -> bool:
    """Whether a daemon accepts connections. Raises DaemonUnreachable, and DaemonSuspended where that is why not."""
    try:
        dial(home).close()
    except DaemonNotRunning:
        return False
    return True


def is_listening(home: Home) -> bool:
    """Whether a daemon accepts connections now."""
    try:
        return is_running(home)
    except ControlError:
        return False


def _launch(home: Home, command: Sequence[str], timeout: float) -> _Told:
    reader, writer = os.pipe()
    try:
        try:
            process = _spawn(home, command, writer)
        finally:
            os.close(writer)
        told = _read_line(reader, timeout)
    finally:
        os.close(reader)
    # A daemon outlives us on purpose; Popen's finalizer would warn about it unless it believes that it is done.
    if process.poll() is None:
        process.returncode = 0
    return told


def _spawn(home: Home, command: Sequence[str], ready_fd: int) -> subprocess.Popen[bytes]:
    argv = [*command, "--ready-fd", str(ready_fd)]
    try:
        log = os.open(home.daemon_log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
    except OSError as error:
        message = f"cannot write {home.daemon_log}: {error.strerror}"
        hint = "aigwd keeps its log there: make it writable, or move it away"
        raise LaunchError(Problem(code="spawn_failed", message=message, hint=hint)) from error
    try:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(ready_fd,),
            start_new_session=True,
            # A daemon must not keep the folder busy in which somebody happened to type `aigw up`.
            cwd="/",
            env=_environment(),
        )
    except OSError as error:
        raise LaunchError(
            Problem(
                code="spawn_failed",
                message=f"cannot start aigwd with {argv[0]}: {error.strerror}",
                hint="reinstall aigw: its Python is gone, or the machine is out of processes or memory",
            )
        ) from error
    finally:
        os.close(log)


def _environment() -> dict[str, str]:
    """Ours, with a relative AIGW_HOME made absolute: the daemon runs in another folder.

    Without the marks by which an aigw recognises what it started: a daemon belongs to nobody.
    """
    env = {name: value for name, value in os.environ.items() if name not in _MARKS}
    if env.get("AIGW_HOME"):
        env["AIGW_HOME"] = os.path.realpath(os.path.expanduser(env["AIGW_HOME"]))  # noqa: PTH111  # as Home does
    return env


def _read_line(reader: int, timeout: float) -> _Told:
    deadline = time.monotonic() + timeout
    line = b""
    while b"\n" not in line:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([reader], [], [], left)[0]:
            return _Told(line, timed_out=True)
        piece = os.read(reader, 65536)
        if not piece:
            break
        line += piece
    return _Told(line.split(b"\n", 1)[0], timed_out=False)


def _problem(told: _Told, log: Path, log_start: int, timeout: float) -> Problem | None:
    """What the line on the pipe means; None when the daemon is ready."""
    if told.timed_out:
        return _died(f"aigwd did not say that it is ready within {timeout:g} s", log, log_start)
    try:
        answer = json.loads(told.line)
        if answer.get("ready") is True:
            return None
        return converted(answer["error"], Problem)
    except (ValueError, KeyError, AttributeError):
        return _died("aigwd ended before it was ready", log, log_start)


def _died(message: str, log: Path, log_start: int) -> Problem:
    return Problem(
        code="daemon_died",
        message=message,
        details=_lines_since(log, log_start),
        hint="'aigw logs daemon' shows the whole log",
    )


def _wait_listening(home: Home, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not is_listening(home) and time.monotonic() < deadline:
        time.sleep(0.05)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _lines_since(path: Path, start: int) -> list[str]:
    try:
        with path.open("rb") as file:
            file.seek(start)
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return text.removesuffix("\n").split("\n")[-LOG_LINES:] if text else []
