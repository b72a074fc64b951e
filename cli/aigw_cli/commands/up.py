"""`aigw up`: start the daemon if there is none, get what the profile lacks, start its backends, wait for ready."""

from typing import TYPE_CHECKING, Annotated

import typer

from aigw_cli.commands.options import AsJson, Backends, ProfileName
from aigw_cli.failure import CommandError, ExitCode

if TYPE_CHECKING:
    from aigw_cli.screen import Screen
    from aigw_daemon.control.client import ControlClient
    from aigw_daemon.control.schema import Status, UpRequest

Foreground = Annotated[bool, typer.Option("--foreground", help="Stay on this terminal; Ctrl-C stops everything.")]


def up(
    backends: Backends = None, profile: ProfileName = None, foreground: Foreground = False, as_json: AsJson = False
) -> ExitCode:
    """Start all that the profile declares, and wait for ready."""
    from aigw_cli.paths import absolute_profile
    from aigw_cli.screen import Screen
    from aigw_cli.session import daemon
    from aigw_cli.settle import wanted
    from aigw_cli.waiting import follow_to_ready
    from aigw_daemon.control.launch import ensure_daemon
    from aigw_daemon.control.schema import UpRequest
    from aigw_daemon.home import Home

    names, place = backends or [], absolute_profile(profile)
    if foreground:
        _stay(names, place)
    screen = Screen(as_json=as_json)
    brought = ensure_daemon(Home.from_environment())
    with daemon() as client:
        status = _started(client, screen, UpRequest(backends=names, profile=place), brought=brought)
        return follow_to_ready(client, screen, wanted(status, names))


def _started(client: "ControlClient", screen: "Screen", request: "UpRequest", *, brought: bool) -> "Status":
    """Ask for the start; models that are missing are fetched first, once.

    A daemon that was ``brought`` along for this and is told no leaves again: what failed leaves nothing behind.
    """
    from aigw_daemon.control.client import Refused

    try:
        return _with_models(client, screen, request)
    except Refused:
        if brought:
            for _ in client.down():
                pass
        raise


def _with_models(client: "ControlClient", screen: "Screen", request: "UpRequest") -> "Status":
    from aigw_cli.pulling import pull
    from aigw_daemon.control.client import Refused
    from aigw_daemon.control.schema import PullRequest

    try:
        return client.up(request)
    except Refused as refused:
        if refused.problem.code != "models_missing":
            raise
        missing = refused.problem.details
    for model in missing:
        pull(client, screen, PullRequest(model=model, profile=request.profile), event="pull")
    return client.up(request)


def _stay(names: list[str], profile: str | None) -> None:
    from aigw_daemon.control.launch import exec_foreground, is_listening
    from aigw_daemon.home import Home

    if names:
        raise CommandError(
            "--foreground starts all that the profile starts, not single backends",
            code="usage",
            hint="leave the names out, or leave --foreground out",
            exit_code=ExitCode.USAGE,
        )
    if is_listening(Home.from_environment()):
        raise CommandError(
            "a daemon is running already, in the background",
            code="already_running",
            hint="'aigw down' stops it; without --foreground, 'aigw up' uses it",
        )
    exec_foreground(profile)
