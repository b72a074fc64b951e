"""`aigw why`: one sentence about a backend, the log lines that show it, and the next step."""

from typing import Annotated

import typer

from aigw_cli import completion
from aigw_cli.commands.options import AsJson
from aigw_cli.failure import ExitCode

Name = Annotated[str, typer.Argument(metavar="BACKEND", help="A backend.", autocompletion=completion.backends)]


def why(backend: Name, as_json: AsJson = False) -> ExitCode:
    """Explain a backend's state and suggest the next step."""
    from aigw_cli.render.why import why_lines
    from aigw_cli.screen import Screen
    from aigw_cli.session import daemon

    screen = Screen(as_json=as_json)
    with daemon() as client:
        told = client.why(backend)
    if as_json:
        screen.document(told)
    else:
        screen.show(why_lines(told, screen.look))
    return ExitCode.OK
