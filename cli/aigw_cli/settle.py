"""When is an `up`, `start` or `restart` over? The decisions, without any waiting: pure functions of a status."""

from collections.abc import Collection
from enum import StrEnum

from aigw_daemon.control.schema import BackendStatus, Status
from aigw_daemon.words import State


class Outcome(StrEnum):
    """Where a backend that somebody waits for has come to."""

    WAITING = "waiting"
    READY = "ready"
    FAILED = "failed"


def wanted(status: Status, named: Collection[str]) -> list[str]:
    """The backends to wait for: those named, else all that the daemon wants running."""
    if named:
        return [b.name for b in status.supervised if b.name in named]
    return [b.name for b in status.backends if b.wanted]


def outcome(backend: BackendStatus) -> Outcome:
    """Sleeping counts as ready: the backend is there and wakes up by itself."""
    match backend.state:
        case State.READY | State.DEGRADED | State.SLEEPING:
            return Outcome.READY
        case State.FAILED:
            return Outcome.FAILED
        case State.UNREACHABLE:
            return Outcome.FAILED if backend.probed else Outcome.WAITING
        case _:
            return Outcome.WAITING


def gateway_outcome(status: Status) -> Outcome:
    """The gateway is waited for like a backend, and until it routes on the states that the status shows."""
    match status.gateway.state:
        case State.READY:
            return Outcome.READY if status.gateway.current else Outcome.WAITING
        case State.FAILED:
            return Outcome.FAILED
        case _:
            return Outcome.WAITING


def settled(status: Status, names: Collection[str]) -> bool:
    """Whether nothing that somebody waits for can still change by itself soon."""
    outcomes = [gateway_outcome(status), *(outcome(b) for b in status.supervised if b.name in names)]
    return Outcome.WAITING not in outcomes


def failures(status: Status, names: Collection[str]) -> list[BackendStatus]:
    """Those of the awaited backends that failed."""
    return [b for b in status.supervised if b.name in names and outcome(b) is Outcome.FAILED]


def succeeded(status: Status, names: Collection[str]) -> bool:
    """Whether everything awaited is ready."""
    return gateway_outcome(status) is Outcome.READY and not failures(status, names)
