"""The life of a backend: states, events and the one table of transitions. Pure: no clock, no process, no asyncio.

Two rules. Everything that decides where a backend may go next is in this file. And this file knows nothing of how: the
backend's task carries out what belongs to the state that it has come to.

``python -m aigw_daemon.supervisor.lifecycle`` prints the table as a page with diagrams: `docs/states.md`.
"""

import sys
from collections.abc import Iterator, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from aigw_daemon.words import State


class Event(StrEnum):
    """What can happen to a backend."""

    START = "start"
    """It is wanted: by the operator, the profile or a request."""
    STOP = "stop"
    """It is not wanted any more."""
    RESTART = "restart"
    """It is to be replaced by a fresh one."""
    READY = "ready"
    """It answers, with the model that it should serve, by a process of ours (rules A1, A16)."""
    FAILING = "failing"
    """A liveness probe has failed."""
    LOST = "lost"
    """Liveness probes keep failing, and nothing else comes from it either (rule A3)."""
    IDLE = "idle"
    """Nobody has asked for it for as long as the profile allows."""
    EVICTED = "evicted"
    """Another backend of its group is wanted."""
    HUNG = "hung"
    """Requests wait on it and nothing of it moves."""
    DRAINED = "drained"
    """Its requests have finished, or their time is up, or somebody is in a hurry."""
    EXITED = "exited"
    """Its process has ended without being asked to."""
    START_FAILED = "start failed"
    """It runs, but will not become ready: too late (rule A2), or with another model."""
    GONE = "gone"
    """Nothing of it runs, and nothing should (rule A7)."""
    AGAIN = "again"
    """Nothing of it runs, and a start was asked for meanwhile (rule A24)."""
    RETRY_LATER = "retry later"
    """Nothing of it runs; it failed in a way that may pass (rules A4, A23, A26)."""
    GIVE_UP = "give up"
    """It failed for good or once too often, or something of it is left after SIGKILL (rules A5, A6, A7)."""
    RETRY = "retry"
    """The wait is over, or what was missing has changed."""
    BUG = "bug"
    """Our own code failed."""


class Life(StrEnum):
    """Two kinds of life: aigw runs the process, or somebody else does."""

    MANAGED = "managed"
    ATTACHED = "attached"


class IllegalEvent(Exception):
    """An event came in a state where it has no meaning: a bug of ours. The state is unchanged."""

    def __init__(self, state: State, event: Event) -> None:
        super().__init__(f"a backend that is {state} cannot take the event {event!s}")
        self.state = state
        self.event = event


IGNORE: Final = None
"""The event is expected here and changes nothing: requests are idempotent (rule A25), and news may come too late."""

Row = Mapping[Event, State | None]
Table = Mapping[State, Row]

_S, _E = State, Event

MANAGED: Final[Table] = MappingProxyType(
    {
        _S.STOPPED: {_E.START: _S.STARTING, _E.RESTART: _S.STARTING, _E.STOP: IGNORE, _E.BUG: _S.FAILED},
        _S.STARTING: {
            _E.START: IGNORE,
            _E.READY: _S.READY,
            _E.STOP: _S.STOPPING,
            _E.RESTART: _S.STOPPING,
            _E.EXITED: _S.STOPPING,
            _E.START_FAILED: _S.STOPPING,
            _E.RETRY_LATER: _S.BACKOFF,
            _E.GIVE_UP: _S.FAILED,
            _E.BUG: _S.FAILED,
        },
        _S.READY: {
            _E.START: IGNORE,
            _E.FAILING: _S.DEGRADED,
            _E.IDLE: _S.DRAINING,
            _E.EVICTED: _S.DRAINING,
            _E.HUNG: _S.STOPPING,
            _E.STOP: _S.DRAINING,
            _E.RESTART: _S.DRAINING,
            _E.EXITED: _S.STOPPING,
            _E.BUG: _S.FAILED,
        },
        _S.DEGRADED: {
            _E.START: IGNORE,
            _E.FAILING: IGNORE,
            _E.READY: _S.READY,
            _E.LOST: _S.STOPPING,
            _E.IDLE: _S.DRAINING,
            _E.EVICTED: _S.DRAINING,
            _E.HUNG: _S.STOPPING,
            _E.STOP: _S.DRAINING,
            _E.RESTART: _S.DRAINING,
            _E.EXITED: _S.STOPPING,
            _E.BUG: _S.FAILED,
        },
        _S.DRAINING: {
            _E.START: IGNORE,
            _E.STOP: IGNORE,
            _E.RESTART: IGNORE,
            _E.DRAINED: _S.STOPPING,
            _E.EXITED: _S.STOPPING,
            _E.BUG: _S.FAILED,
        },
        _S.STOPPING: {
            _E.START: IGNORE,
            _E.STOP: IGNORE,
            _E.RESTART: IGNORE,
            _E.EXITED: IGNORE,
            _E.GONE: _S.STOPPED,
            _E.AGAIN: _S.STARTING,
            _E.RETRY_LATER: _S.BACKOFF,
            _E.GIVE_UP: _S.FAILED,
            _E.BUG: _S.FAILED,
        },
        _S.BACKOFF: {
            _E.START: _S.STARTING,
            _E.RESTART: _S.STARTING,
            _E.RETRY: _S.STARTING,
            _E.STOP: _S.STOPPED,
            _E.BUG: _S.FAILED,
        },
        _S.FAILED: {
            _E.START: _S.STARTING,
            _E.RESTART: _S.STARTING,
            _E.RETRY: _S.STARTING,
            # By way of stopping: what could not be killed before may be there still.
            _E.STOP: _S.STOPPING,
            _E.EXITED: IGNORE,
            _E.BUG: IGNORE,
        },
    }
)
"""aigw runs the process. An exit leads to stopping first: what the leader left behind is swept (rule A8)."""

ATTACHED: Final[Table] = MappingProxyType(
    {
        _S.STOPPED: {_E.START: _S.UNREACHABLE, _E.RESTART: _S.UNREACHABLE, _E.STOP: IGNORE, _E.BUG: _S.FAILED},
        _S.UNREACHABLE: {
            _E.START: IGNORE,
            _E.RESTART: IGNORE,
            _E.FAILING: IGNORE,
            _E.LOST: IGNORE,
            _E.READY: _S.READY,
            _E.STOP: _S.STOPPED,
            _E.GIVE_UP: _S.FAILED,
            _E.BUG: _S.FAILED,
        },
        _S.READY: {
            _E.START: IGNORE,
            _E.RESTART: IGNORE,
            _E.READY: IGNORE,
            _E.FAILING: _S.DEGRADED,
            _E.STOP: _S.STOPPED,
            _E.BUG: _S.FAILED,
        },
        _S.DEGRADED: {
            _E.START: IGNORE,
            _E.RESTART: IGNORE,
            _E.READY: _S.READY,
            _E.FAILING: IGNORE,
            _E.LOST: _S.UNREACHABLE,
            _E.STOP: _S.STOPPED,
            _E.BUG: _S.FAILED,
        },
        _S.FAILED: {
            _E.START: _S.UNREACHABLE,
            _E.RESTART: _S.UNREACHABLE,
            _E.STOP: _S.STOPPED,
            _E.BUG: IGNORE,
        },
    }
)
"""Somebody else runs it: it is probed and routed to, never started or stopped."""

TRANSITIONS: Final[Mapping[Life, Table]] = MappingProxyType({Life.MANAGED: MANAGED, Life.ATTACHED: ATTACHED})


def next_state(life: Life, state: State, event: Event) -> State | None:
    """Where the event leads; None when it changes nothing. Raises IllegalEvent when it has no meaning there."""
    row = TRANSITIONS[life].get(state, {})
    if event not in row:
        raise IllegalEvent(state, event)
    return row[event]


def after_end(*, wanted: bool, again: bool, failed: bool, hopeless: bool) -> Event:
    """What follows once nothing of a backend runs any more.

    ``again``: a start or restart was asked for meanwhile; ``failed``: it ended by itself or never became ready, an
    exit with code 0 included (rule A26); ``hopeless``: trying again now would end the same way.
    """
    if not wanted:
        return Event.GONE
    if again or not failed:
        return Event.AGAIN
    return Event.GIVE_UP if hopeless else Event.RETRY_LATER


TITLES: Final = {
    Life.MANAGED: "A backend that aigw runs",
    Life.ATTACHED: "A backend that somebody else runs",
}

INTRODUCTION: Final = """\
# The states of a backend

Generated from the transition table by `python -m aigw_daemon.supervisor.lifecycle`; a test holds it current.
Events that a state ignores are left out; so is `bug`, which leads from every state to `failed`.
"""


def page() -> str:
    """`docs/states.md`: one diagram per life."""
    parts = [INTRODUCTION]
    for life, table in TRANSITIONS.items():
        diagram = "\n".join(f"    {line}" for line in _edges(table))
        parts.append(f"## {TITLES[life]}\n\n```mermaid\nstateDiagram-v2\n    [*] --> stopped\n{diagram}\n```\n")
    return "\n".join(parts)


def _edges(table: Table) -> Iterator[str]:
    for state, row in table.items():
        labels: dict[State, list[str]] = {}
        for event, target in row.items():
            if target is not IGNORE and event is not Event.BUG:
                labels.setdefault(target, []).append(event)
        yield from (f"{state} --> {target}: {', '.join(events)}" for target, events in labels.items())


if __name__ == "__main__":
    sys.stdout.write(page())
