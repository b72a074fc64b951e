"""`aigw status`: everything at a glance, once or live."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from aigw_cli.commands.options import AsJson
from aigw_cli.failure import ExitCode

if TYPE_CHECKING:
    from aigw_cli.screen import Screen
    from aigw_daemon.control.client import ControlClient

REDIAL = 0.3
"""Seconds between two looks for a daemon that went away."""

Watch = Annotated[bool, typer.Option("--watch", "-w", help="Keep running and show every change.")]


Models = Annotated[bool, typer.Option("--models", "-m", help="List every model name that clients can ask for.")]


def status(watch: Watch = False, models: Models = False, as_json: AsJson = False) -> ExitCode:
    """Show the daemon, the gateway and every backend."""
    from aigw_cli.render.status import status_lines
    from aigw_cli.screen import Screen
    from aigw_cli.session import daemon
    from aigw_daemon.version import AIGW_VERSION

    if watch and models:
        raise typer.BadParameter("choose one of --watch and --models")
    screen = Screen(as_json=as_json)
    with daemon() as client:
        if watch:
            from aigw_cli.explain import went_away

            _follow(client, screen)
            raise went_away()
        if models:
            _list_names(client, screen)
        elif as_json:
            screen.document(client.status())
        else:
            screen.show(status_lines(client.status(), screen.look, AIGW_VERSION))
    return ExitCode.OK


def _list_names(client: "ControlClient", screen: "Screen") -> None:
    from aigw_cli.render.names import name_lines

    names = client.names()
    if screen.as_json:
        screen.document(names)
    else:
        screen.show(name_lines(names, screen.look))


def _follow(client: "ControlClient", screen: "Screen") -> None:
    from aigw_cli.render.status import status_lines
    from aigw_daemon.version import AIGW_VERSION

    if screen.as_json:
        for status in client.watch():
            screen.record(status)
    elif screen.interactive:
        _draw(client, screen)
    else:
        for status in client.watch():
            screen.show([*status_lines(status, screen.look, AIGW_VERSION), ""])


def _draw(client: "ControlClient", screen: "Screen") -> None:
    """A view that outlives the daemon: one that is killed, restarted or replaced is what an operator watches for.

    Ends with Ctrl-C only, or with DaemonNotRunning where there was no daemon to begin with.
    """
    from aigw_cli.render.status import gone_lines, status_lines
    from aigw_daemon.control.client import ConnectionLost, DaemonNotRunning
    from aigw_daemon.version import AIGW_VERSION

    last = client.status()
    with screen.live(full=True) as draw:
        while True:
            try:
                for last in client.watch():
                    draw(status_lines(last, screen.look, AIGW_VERSION))
            except (ConnectionLost, DaemonNotRunning):
                pass  # told below, as a stream that ended is
            draw(gone_lines(last, screen.look, AIGW_VERSION))
            time.sleep(REDIAL)
