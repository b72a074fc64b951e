"""`aigw up`: start the daemon if there is none, get what the profile lacks, start its backends, wait for ready."""

from typing import TYPE_CHECKING, Annotated

import typer

from aigw_cli.commands.options import AsJson, Backends, ProfileName
from aigw_cli.failure import CommandError, ExitCode

if TYPE_CHECKING:
    from aigw_cli.screen import Screen
    from aigw_daemon.control.client import ControlClient
    from aigw_daemon.control.schema import Status, UpRequest
    from aigw_daemon.home import Home

Strict = Annotated[bool, typer.Option("--strict", help="Exit 1 also if a URL that aigw doesn't run is unreachable.")]
Foreground = Annotated[bool, typer.Option("--foreground", help="Run in the foreground; Ctrl-C stops everything.")]


def up(
    backends: Backends = None,
    *,
    profile: ProfileName = None,
    strict: Strict = False,
    foreground: Foreground = False,
    as_json: AsJson = False,
) -> ExitCode:
    """Start every backend in the profile and wait until it is ready."""
    from aigw_cli.paths import absolute_profile
    from aigw_cli.screen import Screen
    from aigw_cli.session import daemon
    from aigw_cli.waiting import follow_to_ready
    from aigw_daemon.control.launch import ensure_daemon, is_running
    from aigw_daemon.control.schema import UpRequest
    from aigw_daemon.control.survivors import served
    from aigw_daemon.home import Home

    names, place = backends or [], absolute_profile(profile)
    home, request = Home.from_environment(), UpRequest(backends=names, profile=place)
    if foreground:
        _stay(home, request)
    screen = Screen(as_json=as_json)
    if not is_running(home):
        _check(home, request)
    # What a dead daemon served goes on under the new one, whatever becomes of this request.
    for_this = not served(home)
    brought = ensure_daemon(home)
    with daemon() as client:
        status = _started(client, screen, request, brought=brought and for_this)
        return follow_to_ready(client, screen, status, names, strict=strict or bool(names))


def _started(client: "ControlClient", screen: "Screen", request: "UpRequest", *, brought: bool) -> "Status":
    """Ask for the start; models that are missing are fetched first, once.

    A daemon that was ``brought`` along for this alone and is told no leaves again: what failed leaves nothing behind.
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


def _check(home: "Home", request: "UpRequest") -> None:
    """Refuse before a daemon is started what it would refuse."""
    from aigw_daemon.control.choice import check_request
    from aigw_daemon.control.survivors import active_profile

    check_request(home, active_profile(home), request)


def _stay(home: "Home", request: "UpRequest") -> None:
    from aigw_daemon.control.launch import exec_foreground, is_running

    if request.backends:
        raise CommandError(
            "--foreground starts all that the profile starts, not single backends",
            code="usage",
            hint="leave the names out, or leave --foreground out",
            exit_code=ExitCode.USAGE,
        )
    if is_running(home):
        raise CommandError(
            "a daemon is running already, in the background",
            code="already_running",
            hint="'aigw down' stops it; without --foreground, 'aigw up' uses it",
        )
    _check(home, request)
    exec_foreground(request.profile)
