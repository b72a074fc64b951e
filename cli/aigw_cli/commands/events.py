"""`aigw events`: what happened to backends."""

from typing import Annotated

import typer

from aigw_cli import completion
from aigw_cli.commands.options import AsJson
from aigw_cli.failure import ExitCode

Name = Annotated[
    str | None,
    typer.Argument(metavar="BACKEND", help="A backend; none means all.", autocompletion=completion.backends),
]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Stay, and show what follows.")]
Lines = Annotated[int, typer.Option("--lines", "-n", metavar="N", min=0, help="How many of the last events.")]


def events(backend: Name = None, follow: Follow = False, lines: Lines = 50, as_json: AsJson = False) -> ExitCode:
    """Show what happened to backends: starts, crashes and more."""
    from aigw_cli.explain import went_away
    from aigw_cli.render.events import event_lines
    from aigw_cli.screen import Screen
    from aigw_cli.session import daemon

    screen = Screen(as_json=as_json)
    with daemon() as client:
        for event in client.events(backend, lines=lines, follow=follow):
            if as_json:
                screen.record(event)
            else:
                screen.show(event_lines(event, screen.look))
    if follow:
        raise went_away()
    return ExitCode.OK
