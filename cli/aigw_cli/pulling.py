"""Fetches a model and shows how far it is: a bar in a terminal, a line per tenth elsewhere, NDJSON on demand."""

import shlex
from collections.abc import Iterable, Iterator

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from aigw_cli.explain import from_problem
from aigw_cli.failure import CommandError, Interrupted
from aigw_cli.render.pull import done_line, step
from aigw_cli.render.text import clean
from aigw_cli.screen import Screen
from aigw_daemon.control.client import ControlClient
from aigw_daemon.control.codec import plain
from aigw_daemon.control.schema import PullEvent, PullRequest

_WIDE = 70


def pull(client: ControlClient, screen: Screen, request: PullRequest, *, event: str | None = None) -> None:
    """Fetch ``request``'s model. ``event`` marks the NDJSON lines among those of others.

    Raises CommandError when it failed, Interrupted on Ctrl-C (which cancels the pull).
    """
    # Ollama keeps what it has of every pull.
    steps = _Steps(client.pull(request), resumable=request.backend is not None)
    try:
        last = _shown(steps, screen, event)
    except KeyboardInterrupt:
        hint = "to resume:" if steps.resumable else "to start from the beginning:"
        raise Interrupted("interrupted: the pull is cancelled", hint=hint, command=command_line(request)) from None
    if last is None or last.phase not in {"done", "failed"}:
        raise CommandError(f"the pull of {clean(request.model)} was cut off", hint="'aigw logs daemon' may say why")
    if last.error is not None:
        raise from_problem(last.error)
    if last.phase == "failed":
        raise CommandError(last.message or f"the pull of {clean(request.model)} failed")
    if not screen.as_json:
        screen.show([done_line(last)])


class _Steps:
    """The events of a pull, and whether one that stopped after the last of them could be resumed."""

    def __init__(self, events: Iterator[PullEvent], *, resumable: bool) -> None:
        self._events = events
        self.resumable = resumable

    def __iter__(self) -> Iterator[PullEvent]:
        for event in self._events:
            self.resumable = event.resumable
            yield event


def command_line(request: PullRequest) -> str:
    """The command that asks for the same again, to be pasted into a shell."""
    options = {
        "--sha256": request.sha256,
        "--name": request.name,
        "--profile": request.profile,
        "--backend": request.backend,
    }
    words = [word for name, value in options.items() if value is not None for word in (name, value)]
    insecure = ["--insecure"] if request.insecure else []
    return shlex.join(["aigw", "pull", *(clean(word) for word in (request.model, *words)), *insecure])


def _shown(events: Iterable[PullEvent], screen: Screen, mark: str | None) -> PullEvent | None:
    if screen.as_json:
        return _as_records(events, screen, mark)
    return _as_bar(events, screen) if screen.interactive else _as_lines(events, screen)


def _as_records(events: Iterable[PullEvent], screen: Screen, mark: str | None) -> PullEvent | None:
    last: PullEvent | None = None
    for last in events:
        screen.record(({"event": mark} if mark else {}) | plain(last))
    return last


def _as_lines(events: Iterable[PullEvent], screen: Screen) -> PullEvent | None:
    last: PullEvent | None = None
    said: str | None = None
    for last in events:
        line = step(last)
        if line is not None and line != said:
            screen.show([line])
            said = line
    return last


def _as_bar(events: Iterable[PullEvent], screen: Screen) -> PullEvent | None:
    last: PullEvent | None = None
    with _bar(screen) as progress:
        task = progress.add_task("", total=None)
        for last in events:
            _advance(progress, task, last)
    return last


def _bar(screen: Screen) -> Progress:
    rate = [TransferSpeedColumn()] if screen.look.width >= _WIDE else []
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None, complete_style="cyan", finished_style="green", pulse_style="cyan"),
        DownloadColumn(),
        *rate,
        TimeRemainingColumn(compact=True),
        console=screen.console,
        transient=True,
        expand=True,
    )


def _advance(progress: Progress, task: TaskID, event: PullEvent) -> None:
    what = clean(event.model) if event.phase == "downloading" else f"{clean(event.model)} {event.phase}"
    progress.update(task, description=what, completed=event.done_bytes, total=event.total_bytes)
