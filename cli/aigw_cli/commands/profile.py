"""`aigw profile`: which profiles there are, which one is active, whether a file is right."""

from typing import TYPE_CHECKING, Annotated

import typer

from aigw_cli import completion
from aigw_cli.commands.options import AsJson
from aigw_cli.examples import EXAMPLES
from aigw_cli.failure import CommandError, ExitCode
from aigw_cli.program import Command, examples

if TYPE_CHECKING:
    from pathlib import Path

    from aigw_cli.screen import Screen
    from aigw_daemon.control.schema import ProfileInfo, Status

app = typer.Typer(rich_markup_mode=None, help="Profiles: what runs, and how requests are routed.")

Which = Annotated[
    str, typer.Argument(metavar="PROFILE", help="A profile's name or file.", autocompletion=completion.profiles)
]


@app.callback()
def profile_commands() -> None:
    """Profiles: what runs, and how requests are routed."""


@app.command("list", cls=Command, epilog=examples(*EXAMPLES["profile list"]))
def list_profiles(as_json: AsJson = False) -> ExitCode:
    """List your own and the shipped profiles."""
    from aigw_cli.render.profiles import profile_lines
    from aigw_cli.screen import Screen

    screen = Screen(as_json=as_json)
    profiles = _profiles()
    if as_json:
        screen.document(profiles)
    else:
        screen.show(profile_lines(profiles, screen.look))
    return ExitCode.OK


@app.command("use", cls=Command, epilog=examples(*EXAMPLES["profile use"]))
def use(profile: Which, as_json: AsJson = False) -> ExitCode:
    """Switch to a profile."""
    from aigw_cli.paths import absolute_profile
    from aigw_cli.screen import Screen
    from aigw_cli.session import daemon
    from aigw_cli.waiting import follow_to_ready
    from aigw_daemon.control.client import DaemonNotRunning
    from aigw_daemon.words import State

    screen, place = Screen(as_json=as_json), absolute_profile(profile) or profile
    with daemon() as client:
        try:
            with screen.busy("switching"):
                status = client.use_profile(place)
        except DaemonNotRunning:
            return _keep_choice(place, screen)
        if status.gateway.state != State.STOPPED:
            return follow_to_ready(client, screen, status, [])
    return _chosen(screen, status)


def _keep_choice(place: str, screen: "Screen") -> ExitCode:
    from aigw_daemon.control.unattended import choose_profile
    from aigw_daemon.home import Home

    choose_profile(Home.from_environment(), place)
    return _chosen(screen, None)


def _chosen(screen: "Screen", status: "Status | None") -> ExitCode:
    from aigw_daemon.control.codec import plain

    if screen.as_json:
        screen.record({"event": "result", "ok": True, "failed": [], "status": plain(status)})
    else:
        screen.show(["the profile is chosen: 'aigw up' starts it"])
    return ExitCode.OK


@app.command("validate", cls=Command, epilog=examples(*EXAMPLES["profile validate"]))
def validate(profile: Which, as_json: AsJson = False) -> ExitCode:
    """Check a profile's file and report all errors."""
    from aigw_cli.render.text import clean, counted
    from aigw_cli.screen import Screen
    from aigw_daemon.profile.load import load

    path = _find(profile)
    loaded = load(path)
    screen = Screen(as_json=as_json)
    if as_json:
        screen.document({"name": loaded.name, "path": str(path), "problems": []})
    else:
        held = f"{counted(len(loaded.backends), 'backend')}, {counted(len(loaded.routes), 'route')}"
        screen.show([f"{clean(str(path))} is valid: {held}"])
    return ExitCode.OK


@app.command("show", cls=Command, epilog=examples(*EXAMPLES["profile show"]))
def show(profile: Which, as_json: AsJson = False) -> ExitCode:
    """Print a profile's file."""
    from rich.text import Text

    from aigw_cli.render.text import clean, lines_of
    from aigw_cli.screen import Screen

    path = _find(profile)
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise CommandError(
            f"cannot read {path}: {error.strerror}", hint="check the path and its permissions"
        ) from error
    screen = Screen(as_json=as_json)
    if as_json:
        screen.document({"name": path.stem, "path": str(path), "text": text})
    else:
        screen.show(Text(clean(line), overflow="fold") for line in [f"# {path}", *lines_of(text)])
    return ExitCode.OK


def _profiles() -> "list[ProfileInfo]":
    """What the daemon says; without one, what lies in the folders (which of them is active, only a daemon knows)."""
    from aigw_cli.session import daemon
    from aigw_daemon.control.client import DaemonNotRunning
    from aigw_daemon.control.schema import ProfileInfo
    from aigw_daemon.home import Home
    from aigw_daemon.profile.find import listing

    with daemon() as client:
        try:
            return client.profiles()
        except DaemonNotRunning:
            found = listing(Home.from_environment())
    return [
        ProfileInfo(name=name, path=str(path), description=about)
        if isinstance(about, str)
        else ProfileInfo(name=name, path=str(path), problems=[str(problem) for problem in about])
        for name, path, about in found
    ]


def _find(profile: str) -> "Path":
    from aigw_daemon.home import Home
    from aigw_daemon.profile.errors import ProfileError
    from aigw_daemon.profile.find import find

    try:
        return find(profile, Home.from_environment())
    except ProfileError as error:
        raise CommandError(
            str(error),
            code="unknown_profile",
            hint="'aigw profile list' shows them",
            exit_code=ExitCode.UNKNOWN_NAME,
        ) from error
