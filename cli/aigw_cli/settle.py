"""When is an `up`, `start`, `restart` or `profile use` over? The decisions, without any waiting.

What is waited for is remembered by what happened, not looked up by state: a backend that was ready and has stopped for
idleness since has done what was asked, and one that somebody else stopped will never be ready.
"""

from collections.abc import Collection, Iterator
from enum import StrEnum

from aigw_daemon.control.schema import BackendStatus, Status
from aigw_daemon.words import State

_DOWN = frozenset({State.STOPPED, State.DRAINING, State.STOPPING})


class Outcome(StrEnum):
    """Where a backend that somebody waits for has come to."""

    WAITING = "waiting"
    READY = "ready"
    """It is, or was until it stopped for idleness or made way: a request starts it again."""
    FAILED = "failed"
    UNREACHABLE = "unreachable"
    """A URL that aigw doesn't run doesn't answer: nothing to wait for, and perhaps nothing that is missed."""
    ENDED = "ended"
    """Somebody else stopped it, or took it out of the profile."""


class Wait:
    """What one command waits for: the gateway and the backends in ``names``. Fed with every status that comes."""

    def __init__(self, names: Collection[str], begun: Status, *, strict: bool = False) -> None:
        """``strict``: an unreachable URL is a failure even where another backend can serve."""
        self.names = names
        self._strict = strict
        self._profile = begun.profile
        self._reached: set[str] = set()
        self.last = begun
        self.take(begun)

    def take(self, status: Status) -> bool:
        """Take news; returns whether nothing of what is waited for can still change by itself soon."""
        self.last = status
        self._reached |= {b.name for b in self._awaited() if outcome(b) is Outcome.READY}
        return status.daemon.stopping or Outcome.WAITING not in {
            gateway_outcome(status),
            *map(self.outcome, self.names),
        }

    def outcome(self, name: str) -> Outcome:
        """Where this backend has come to."""
        backend = next((b for b in self.last.supervised if b.name == name), None)
        if backend is None:
            return Outcome.ENDED
        found = outcome(backend)
        began_again = found is Outcome.WAITING and backend.state != State.BACKOFF
        return Outcome.READY if began_again and name in self._reached else found

    @property
    def failed(self) -> list[BackendStatus]:
        """Those that failed; unreachable URLs are among them with ``strict``, and where nothing else can serve."""
        failed = {Outcome.FAILED}
        if self._strict or not any(can_serve(backend) for backend in self.last.backends):
            failed.add(Outcome.UNREACHABLE)
        return [b for b in self._awaited() if self.outcome(b.name) in failed]

    @property
    def waiting(self) -> list[str]:
        """What is still waited for, the gateway included."""
        gateway = ["gateway"] if gateway_outcome(self.last) is Outcome.WAITING else []
        return [*gateway, *(name for name in self.names if self.outcome(name) is Outcome.WAITING)]

    @property
    def ended(self) -> dict[str, str]:
        """Those that somebody else ended, each with the sentence that says so."""
        if self.last.daemon.stopping:
            return dict.fromkeys(self.names, "everything was stopped meanwhile by 'aigw down' or a signal")
        switched = self.last.profile != self._profile
        why = f"the profile was switched to {self.last.profile} meanwhile" if switched else "it was stopped meanwhile"
        return {name: why for name in self.names if self.outcome(name) is Outcome.ENDED}

    @property
    def succeeded(self) -> bool:
        """Whether everything that was waited for became ready."""
        return gateway_outcome(self.last) is Outcome.READY and not self.failed and not self.ended

    def _awaited(self) -> Iterator[BackendStatus]:
        return (b for b in self.last.supervised if b.name in self.names)


def wanted(status: Status, named: Collection[str]) -> list[str]:
    """The backends to wait for: those named, else all that the daemon wants running."""
    if named:
        return [b.name for b in status.supervised if b.name in named]
    return [b.name for b in status.backends if b.wanted]


def outcome(backend: BackendStatus) -> Outcome:
    """Where a backend stands now. Sleeping counts as ready: it is there and wakes up by itself."""
    if backend.state in _DOWN and not backend.wanted:
        return Outcome.READY if backend.parted else Outcome.ENDED
    match backend.state:
        case State.READY | State.DEGRADED | State.SLEEPING:
            return Outcome.READY
        case State.FAILED:
            return Outcome.FAILED
        case State.UNREACHABLE:
            return Outcome.UNREACHABLE if backend.probed else Outcome.WAITING
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


def can_serve(backend: BackendStatus) -> bool:
    """Whether requests are answered by it, or start it."""
    return outcome(backend) is Outcome.READY or backend.state == State.STOPPED


def began_again(status: Status, names: Collection[str]) -> list[BackendStatus]:
    """After a stop: those of ``names`` (none: all) that somebody else has started again meanwhile."""
    stopped = [b for b in status.supervised if b.name in names] if names else status.backends
    return [b for b in stopped if b.wanted and b.state not in {State.STOPPED, State.FAILED}]
