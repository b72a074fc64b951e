"""`aigw logs`: what a backend, the gateway or the daemon wrote."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from aigw_cli import completion
from aigw_cli.commands.options import AsJson
from aigw_cli.failure import ExitCode

if TYPE_CHECKING:
    from aigw_cli.screen import Screen
    from aigw_daemon.control.client import ControlError

Of = Annotated[
    str,
    typer.Argument(metavar="BACKEND", help="A backend, 'gateway' or 'daemon'.", autocompletion=completion.logs),
]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Keep running and show new entries.")]
Lines = Annotated[int, typer.Option("--lines", "-n", metavar="N", min=0, help="How many of the last lines.")]


def logs(backend: Of, follow: Follow = False, lines: Lines = 200, as_json: AsJson = False) -> ExitCode:
    """Show the log of a backend, of the gateway or of the daemon."""
    from aigw_cli.screen import Screen
    from aigw_cli.session import daemon
    from aigw_daemon.control.client import DaemonNotRunning, DaemonSuspended, DaemonUnreachable

    screen = Screen(as_json=as_json)
    with daemon() as client:
        try:
            _show(client.log(backend, lines=lines, follow=follow), screen)
        except (DaemonNotRunning, DaemonSuspended, DaemonUnreachable) as reason:
            # What was written needs nobody to be read; following it needs somebody.
            _show_written(backend, lines, screen, reason)
            if follow:
                raise
            return ExitCode.OK
    if follow:
        from aigw_cli.explain import went_away

        raise went_away()
    return ExitCode.OK


def _show(lines: Iterable[str], screen: "Screen") -> None:
    from rich.text import Text

    from aigw_cli.render.text import clean, drawn_last

    for line in lines:
        if screen.as_json:
            screen.record({"line": line})
        else:
            screen.show([Text(clean(drawn_last(line)), overflow="fold")])


def _show_written(name: str, count: int, screen: "Screen", reason: "ControlError") -> None:
    """Print the log from its file; the daemon's own may say why it doesn't answer."""
    from aigw_cli.postmortem import say_so
    from aigw_daemon.control.postmortem import DAEMON, log_lines
    from aigw_daemon.home import Home

    lines = log_lines(Home.from_environment(), name, count)
    if name != DAEMON:
        say_so(screen, reason)
    _show(lines, screen)
