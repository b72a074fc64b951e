"""Logs and events without a daemon: read from the files that it left."""

from collections import deque
from pathlib import Path
from typing import Any

import msgspec

from aigw_daemon.control.client import ControlError, DaemonNotRunning, Refused
from aigw_daemon.control.schema import Problem
from aigw_daemon.history.events import kept_events
from aigw_daemon.home import Home

DAEMON = "daemon"
"""The name under which `aigw logs` shows the daemon's own log."""


def log_lines(home: Home, name: str, count: int) -> list[str]:
    """The last ``count`` lines of a log, by the name of its backend, ``gateway`` or ``daemon``. Raises ControlError."""
    logs = _logs(home)
    if name not in logs:
        raise _unknown(f"there is no log of {name!r}", list(logs))
    try:
        with logs[name].open("rb") as file:
            # A binary file has lines that end at line feeds alone.
            last = deque(file, maxlen=count)
    except OSError as error:
        message = f"cannot read {logs[name]}: {error.strerror}"
        raise Refused(Problem(code="unreadable", message=message, hint="check its owner and mode")) from error
    return [line.rstrip(b"\r\n").decode(errors="replace") for line in last]


def events(home: Home, backend: str | None, count: int) -> list[dict[str, Any]]:
    """The last ``count`` events, of one backend or of all, oldest first. Raises ControlError."""
    kept = kept_events(home.events_file)
    names = sorted({event.backend for event in kept})
    if not names or (backend is not None and backend not in names):
        raise _unknown(f"there are no events of {backend!r}", names)
    found = [msgspec.to_builtins(event) for event in kept if backend in {None, event.backend}]
    return found[-count:] if count else []


def _logs(home: Home) -> dict[str, Path]:
    found = {path.stem: path for path in sorted(home.logs.glob("*.log")) if path != home.daemon_log}
    return {**found, **({DAEMON: home.daemon_log} if home.daemon_log.exists() else {})}


def _unknown(message: str, choices: list[str]) -> ControlError:
    if not choices:
        return DaemonNotRunning("aigwd is not running, and has left nothing to read")
    hint = f"choose from: {', '.join(choices)}"
    return Refused(Problem(code="unknown_backend", message=message, hint=hint, details=choices))
