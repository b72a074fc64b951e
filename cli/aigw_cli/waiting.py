"""Waits until backends are ready or failed, and shows their way there: a live view, plain lines, or NDJSON."""

import time
from collections.abc import Collection, Iterator
from itertools import chain

from rich.text import Text

from aigw_cli.explain import went_away
from aigw_cli.failure import CommandError, ExitCode, Interrupted
from aigw_cli.render.text import clean
from aigw_cli.render.up import change_line, interrupted_lines, progress_lines, summary
from aigw_cli.screen import Screen
from aigw_cli.settle import Wait, wanted
from aigw_daemon.control.client import ControlClient
from aigw_daemon.control.codec import plain
from aigw_daemon.control.schema import BackendStatus, Status
from aigw_daemon.words import State

_GOING = frozenset({State.DRAINING, State.STOPPING})
_REMINDER = 15.0
"""Seconds after which a plain log says again what is being waited for."""


Names = Collection[str] | None
"""Which backends are shown; None means all."""


def follow_to_ready(
    client: ControlClient, screen: Screen, begun: Status, named: Collection[str], *, strict: bool = False
) -> ExitCode:
    """Watch until each backend of ``named`` (none: all that are wanted), and the gateway, is ready or can't be.

    ``begun`` is the daemon's answer to the request; ``strict`` as in `Wait`. Prints the way there and the summary.
    Answers FAILED when one failed or was ended by somebody else. Raises Interrupted on Ctrl-C: the daemon goes on
    without us.
    """
    began, wait = time.monotonic(), Wait(wanted(begun, named), begun, strict=strict)
    try:
        over = _followed(_until_over(client.watch(), wait), screen, wait.names) is not None
    except KeyboardInterrupt:
        raise _interrupted(screen, wait) from None
    if not over or not wait.take(wait.last):
        raise went_away()
    if wait.last.daemon.stopping:
        message = "everything is being stopped: 'aigw down' was run meanwhile, or aigwd was told to end"
        raise CommandError(message, code="stopping", hint="'aigw up' starts it again once that is over")
    return _finish(wait, screen, time.monotonic() - began)


def _interrupted(screen: Screen, wait: Wait) -> Interrupted:
    """Leave the last state on the screen, and say what goes on."""
    if screen.interactive and not screen.as_json:
        screen.show(interrupted_lines(wait.last, wait.names, screen.look))
    going = ", ".join(clean(name) for name in wait.waiting)
    said = f"still starting in the background: {going}" if going else "everything goes on in the background"
    hint = "'aigw status --watch' shows the progress; 'aigw down' stops everything"
    return Interrupted(f"interrupted; {said}", hint=hint)


def _finish(wait: Wait, screen: Screen, seconds: float) -> ExitCode:
    if screen.as_json:
        failed, ended = [backend.name for backend in wait.failed], list(wait.ended)
        result = {"ok": wait.succeeded, "failed": failed, "ended": ended, "status": plain(wait.last)}
        screen.record({"event": "result"} | result)
    else:
        if not screen.interactive:
            screen.show([Text()])
        screen.show(summary(wait, seconds, screen.look))
    return ExitCode.OK if wait.succeeded else ExitCode.FAILED


def show_changes(statuses: Iterator[Status], screen: Screen) -> None:
    """Show how `down` goes, to the end of these statuses: that a backend was ready before is no news."""
    if screen.interactive and not screen.as_json:
        _as_view(statuses, screen, None)
        return
    seen: dict[str, str] = {}
    if (first := next(statuses, None)) is not None:
        seen = {b.name: _step(b) for b in first.supervised if b.state not in _GOING}
        statuses = chain([first], statuses)
    if screen.as_json:
        _as_records(statuses, screen, None, seen)
    else:
        _as_lines(statuses, screen, None, seen)


def _followed(statuses: Iterator[Status], screen: Screen, names: Names) -> Status | None:
    if screen.as_json:
        return _as_records(statuses, screen, names, {})
    return _as_view(statuses, screen, names) if screen.interactive else _as_lines(statuses, screen, names, {})


def _until_over(statuses: Iterator[Status], wait: Wait) -> Iterator[Status]:
    for status in statuses:
        over = wait.take(status)
        yield status
        if over:
            return


def _as_view(statuses: Iterator[Status], screen: Screen, names: Names) -> Status | None:
    last: Status | None = None
    with screen.live() as draw:
        for last in statuses:
            draw(progress_lines(last, _shown(last, names), screen.look))
    return last


def _as_lines(statuses: Iterator[Status], screen: Screen, names: Names, seen: dict[str, str]) -> Status | None:
    last: Status | None = None
    told = time.monotonic()
    for last in statuses:
        overdue = time.monotonic() - told > _REMINDER
        changed = _shown_backends(last, names) if overdue else _changes(last, names, seen)
        if changed:
            told = time.monotonic()
            screen.show(change_line(backend) for backend in changed)
    return last


def _as_records(statuses: Iterator[Status], screen: Screen, names: Names, seen: dict[str, str]) -> Status | None:
    told: dict[str, str] = {}
    last: Status | None = None
    for last in statuses:
        for backend in _changes(last, names, seen):
            screen.record({"event": "state", "backend": backend.name, "state": backend.state, "why": backend.why})
        for backend in _shown_backends(last, names):
            if backend.progress and told.get(backend.name) != backend.progress:
                told[backend.name] = backend.progress
                screen.record(_progress_of(backend))
    return last


def _progress_of(backend: BackendStatus) -> dict[str, object]:
    """How far a start is, for a program; ``since_s``: seconds since it began."""
    return {
        "event": "progress",
        "backend": backend.name,
        "progress": backend.progress,
        "since_s": round(backend.since_s, 1),
    }


def _changes(status: Status, names: Names, seen: dict[str, str]) -> list[BackendStatus]:
    """The shown backends whose step isn't what ``seen`` holds, which then holds it."""
    changed = [b for b in _shown_backends(status, names) if seen.get(b.name) != _step(b)]
    seen.update({backend.name: _step(backend) for backend in changed})
    return changed


def _step(backend: BackendStatus) -> str:
    """Its state; of a stop that takes long also what it waits for."""
    return f"stopping {backend.why}" if backend.state == State.STOPPING else str(backend.state)


def _shown_backends(status: Status, names: Names) -> list[BackendStatus]:
    return [backend for backend in status.supervised if names is None or backend.name in names]


def _shown(status: Status, names: Names) -> list[str]:
    return [backend.name for backend in _shown_backends(status, names)]
