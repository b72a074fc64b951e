"""`aigw events`: what happened to backends."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aigw_cli import completion
from aigw_cli.commands.options import AsJson
from aigw_cli.failure import ExitCode

if TYPE_CHECKING:
    from aigw_cli.screen import Screen
    from aigw_daemon.control.client import ControlError

Name = Annotated[
    str | None,
    typer.Argument(metavar="BACKEND", help="A backend; default: all.", autocompletion=completion.backends),
]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Keep running and show new entries.")]
Lines = Annotated[int, typer.Option("--lines", "-n", metavar="N", min=0, help="How many of the last events.")]


def events(backend: Name = None, follow: Follow = False, lines: Lines = 50, as_json: AsJson = False) -> ExitCode:
    """Show events of backends: starts, crashes and more."""
    from aigw_cli.screen import Screen
    from aigw_cli.session import daemon
    from aigw_daemon.control.client import DaemonNotRunning, DaemonSuspended, DaemonUnreachable

    screen = Screen(as_json=as_json)
    with daemon() as client:
        try:
            _show(client.events(backend, lines=lines, follow=follow), screen)
        except (DaemonNotRunning, DaemonSuspended, DaemonUnreachable) as reason:
            _show_written(backend, lines, screen, reason)
            if follow:
                raise
            return ExitCode.OK
    if follow:
        from aigw_cli.explain import went_away

        raise went_away()
    return ExitCode.OK


def _show(events: Iterable[dict[str, Any]], screen: "Screen") -> None:
    from aigw_cli.render.events import event_lines

    for event in events:
        if screen.as_json:
            screen.record(event)
        else:
            screen.show(event_lines(event, screen.look))


def _show_written(backend: str | None, count: int, screen: "Screen", reason: "ControlError") -> None:
    from aigw_cli.postmortem import say_so
    from aigw_daemon.control import postmortem
    from aigw_daemon.home import Home

    events = postmortem.events(Home.from_environment(), backend, count)
    say_so(screen, reason)
    _show(events, screen)
