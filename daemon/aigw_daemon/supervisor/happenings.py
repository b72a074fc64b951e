"""What of a backend's life is worth keeping for the operator: pure words for steps through the table of states."""

from collections.abc import Callable
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from aigw_daemon.supervisor.lifecycle import Event
from aigw_daemon.words import State


class Happening(StrEnum):
    """The words of `aigw events`."""

    START = "start"
    READY = "ready"
    CRASH = "crash"
    RESTART = "restart"
    ADOPT = "adopt"
    """A process that an earlier daemon had started was taken up."""
    SWEEP = "sweep"
    """What a leader had left behind was killed."""
    HUNG = "hung"
    LOST = "lost"
    """It answered no probe any more, and sent nothing."""
    START_FAILED = "start failed"
    IDLE_STOP = "idle stop"
    EVICTED = "evicted"
    """It makes way for another backend of its group."""
    DRAIN = "drain"
    STOP = "stop"
    FAILED = "failed"


Tell = Callable[[str, Happening, str | None], None]
"""Takes a backend's name, what happened to it, and a sentence about it; never waits."""


def nobody(_name: str, _word: Happening, _sentence: str | None) -> None:
    """Told nobody: for a supervisor whose events are not kept."""


_BY_EVENT: Final = MappingProxyType(
    {
        Event.EXITED: Happening.CRASH,
        Event.IDLE: Happening.IDLE_STOP,
        Event.EVICTED: Happening.EVICTED,
        Event.HUNG: Happening.HUNG,
        Event.LOST: Happening.LOST,
        Event.START_FAILED: Happening.START_FAILED,
        Event.RETRY: Happening.RESTART,
        Event.AGAIN: Happening.RESTART,
    }
)
_BY_STATE: Final = MappingProxyType(
    {
        State.STARTING: Happening.START,
        State.DRAINING: Happening.DRAIN,
        State.STOPPED: Happening.STOP,
        State.FAILED: Happening.FAILED,
    }
)


def happening(event: Event, before: State, after: State) -> Happening | None:
    """What a step is called; None for one that is not worth keeping, such as a probe that failed once."""
    if after is State.READY:
        return Happening.READY if before is not State.DEGRADED else None
    return _BY_EVENT.get(event) or _BY_STATE.get(after)
