"""`aigw daemon restart`: replace the daemon's program in place, as after an upgrade."""

import time
from typing import TYPE_CHECKING

import typer

from aigw_cli.commands.options import AsJson
from aigw_cli.examples import EXAMPLES
from aigw_cli.failure import CommandError, ExitCode
from aigw_cli.program import Command, examples

if TYPE_CHECKING:
    from aigw_daemon.control.client import ControlClient
    from aigw_daemon.control.schema import DaemonStatus

BACK_TIMEOUT = 30.0
"""Seconds the new program may take to answer."""

app = typer.Typer(rich_markup_mode=None, help="Manage the daemon.")


@app.callback()
def daemon_commands() -> None:
    """Manage the daemon."""


@app.command("restart", cls=Command, epilog=examples(*EXAMPLES["daemon restart"]))
def restart(as_json: AsJson = False) -> ExitCode:
    """Replace the daemon's program in place; engines and gateway go on."""
    from aigw_cli.render.text import clean
    from aigw_cli.screen import Screen
    from aigw_cli.session import daemon

    screen = Screen(as_json=as_json)
    with daemon() as client:
        client.status()
        asked = time.monotonic()
        client.daemon_restart()
        with screen.busy("restarting aigwd"):
            fresh = _back(client, asked)
    if as_json:
        screen.document(fresh)
    else:
        said = f"aigwd {clean(fresh.version)} took over (PID {fresh.pid}); engines and gateway kept running"
        screen.show([said])
    return ExitCode.OK


def _back(client: "ControlClient", asked: float) -> "DaemonStatus":
    """Wait for a daemon that is younger than the request to restart it."""
    from aigw_daemon.control.client import ControlError, DaemonSuspended

    while time.monotonic() - asked < BACK_TIMEOUT:
        try:
            found = client.status().daemon
        except DaemonSuspended:
            raise
        except ControlError:
            found = None  # between the old program and the new one nobody answers
        if found is not None and found.uptime_s <= time.monotonic() - asked:
            return found
        time.sleep(0.05)
    raise CommandError(
        f"aigwd did not answer within {BACK_TIMEOUT:g} s of its restart",
        hint="'aigw logs daemon' shows why; 'aigw up' starts it again and finds its engines",
    )
