"""`aigw logs`: what a backend, the gateway or the daemon wrote."""

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from aigw_cli import completion
from aigw_cli.commands.options import AsJson
from aigw_cli.failure import ExitCode

if TYPE_CHECKING:
    from aigw_cli.screen import Screen

Of = Annotated[
    str,
    typer.Argument(metavar="BACKEND", help="A backend, 'gateway' or 'daemon'.", autocompletion=completion.logs),
]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Stay, and show what follows.")]
Lines = Annotated[int, typer.Option("--lines", "-n", metavar="N", min=0, help="How many of the last lines.")]


def logs(backend: Of, follow: Follow = False, lines: Lines = 200, as_json: AsJson = False) -> ExitCode:
    """Show the log of a backend, of the gateway or of the daemon."""
    from aigw_cli.explain import went_away
    from aigw_cli.screen import Screen
    from aigw_cli.session import daemon
    from aigw_daemon.control.client import DaemonNotRunning, DaemonSuspended, DaemonUnreachable

    screen = Screen(as_json=as_json)
    with daemon() as client:
        try:
            _show(client.log(backend, lines=lines, follow=follow), screen)
        except (DaemonNotRunning, DaemonSuspended, DaemonUnreachable) as error:
            # Why it doesn't answer stands in its own log, which needs nobody to be read; following it needs somebody.
            if backend != "daemon" or (follow and not isinstance(error, DaemonNotRunning)):
                raise
            _show(_written(lines), screen)
            return ExitCode.OK
    if follow:
        raise went_away()
    return ExitCode.OK


def _show(lines: Iterator[str], screen: "Screen") -> None:
    from rich.text import Text

    from aigw_cli.render.text import clean, drawn_last

    for line in lines:
        if screen.as_json:
            screen.record({"line": line})
        else:
            screen.show([Text(clean(drawn_last(line)), overflow="fold")])


def _written(count: int) -> Iterator[str]:
    """The last lines of the daemon's log, read from its file."""
    from aigw_daemon.control.client import DaemonNotRunning
    from aigw_daemon.home import Home

    try:
        with Home.from_environment().daemon_log.open(encoding="utf-8", errors="replace", newline="\n") as log:
            last = deque(log, maxlen=count)
    except FileNotFoundError:
        raise DaemonNotRunning("aigwd is not running, and never was: there is no log") from None
    for line in last:
        yield line.rstrip("\n")
