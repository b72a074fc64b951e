"""`aigw down`: stop everything that is ours, whether the daemon lives or not."""

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from aigw_cli.commands.options import AsJson
from aigw_cli.failure import CommandError, ExitCode, Interrupted

if TYPE_CHECKING:
    from aigw_cli.screen import Screen
    from aigw_daemon.control.client import ControlClient

GONE_TIMEOUT = 15.0
"""Seconds the daemon may take to end once its last backend has."""


Force = Annotated[
    bool,
    typer.Option("--force", help="Kill a daemon that doesn't answer, then stop everything that it started."),
]


def down(force: Force = False, as_json: AsJson = False) -> ExitCode:
    """Stop every backend, the gateway and the daemon."""
    from aigw_cli.screen import Screen

    screen = Screen(as_json=as_json)
    try:
        said = _forced(screen) if force else _asked(screen)
    except KeyboardInterrupt:
        hint = "'aigw status' shows the progress"
        raise Interrupted("interrupted; the stop continues in the background", hint=hint) from None
    if as_json:
        screen.record({"event": "result", "ok": True, "message": said})
    else:
        screen.show([said])
    return ExitCode.OK


def _asked(screen: "Screen") -> str:
    from aigw_cli.session import daemon
    from aigw_daemon.control.client import DaemonNotRunning
    from aigw_daemon.control.launch import stop_all

    with daemon() as client:
        try:
            _stop(client, screen)
        except DaemonNotRunning:
            return stop_all() or "aigwd was not running; no process of it is left"
    return "everything is stopped"


def _forced(screen: "Screen") -> str:
    """Kill the daemon, whatever it does just now, and stop by its state file and cookie what it leaves."""
    from aigw_daemon.control.launch import stop_all
    from aigw_daemon.control.presence import kill
    from aigw_daemon.home import Home

    with screen.busy("stopping by force"):
        killed = kill(Home.from_environment())
        said = stop_all()
    return "; ".join(part for part in (f"killed aigwd (PID {killed})" if killed else "", said) if part)


def _stop(client: "ControlClient", screen: "Screen") -> None:
    """Show the way down until the stream ends, which a daemon that is gone ends as well; then make sure it is gone."""
    from aigw_cli.waiting import show_changes
    from aigw_daemon.control.client import ConnectionLost
    from aigw_daemon.control.presence import holder
    from aigw_daemon.home import Home

    # Whether a lost connection was its end, or a fault, is what is asked next.
    with suppress(ConnectionLost):
        show_changes(client.down(), screen)
    home, deadline = Home.from_environment(), time.monotonic() + GONE_TIMEOUT
    while (pid := holder(home)) is not None:
        if time.monotonic() > deadline:
            raise CommandError(
                f"aigwd (PID {pid}) stopped its backends but was still there {GONE_TIMEOUT:g} s later",
                hint="'aigw logs daemon' may say what it waits for; 'aigw down --force' ends it",
            )
        time.sleep(0.05)
