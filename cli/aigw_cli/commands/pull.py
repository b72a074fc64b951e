"""`aigw pull`: fetch a model, by its name in the profile or from a source."""

from typing import Annotated

import typer

from aigw_cli.commands.options import AsJson, ProfileName
from aigw_cli.failure import ExitCode

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="A model of the profile, or pypi:…, https://…, file:… or a path.")
]
Sha256 = Annotated[str | None, typer.Option("--sha256", metavar="HEX", help="The checksum that the file must have.")]
Name = Annotated[str | None, typer.Option("--name", metavar="NAME", help="Keep it under this name.")]


def pull(
    model: Model, sha256: Sha256 = None, name: Name = None, profile: ProfileName = None, as_json: AsJson = False
) -> ExitCode:
    """Fetch a model; what was cut off goes on where it stopped."""
    from aigw_cli.paths import absolute_profile, absolute_source
    from aigw_cli.pulling import pull as fetch
    from aigw_cli.screen import Screen
    from aigw_cli.session import daemon
    from aigw_daemon.control.launch import ensure_daemon
    from aigw_daemon.control.schema import PullRequest
    from aigw_daemon.home import Home

    place = absolute_profile(profile)
    request = PullRequest(model=absolute_source(model), sha256=sha256, name=name, profile=place)
    ensure_daemon(Home.from_environment())
    with daemon() as client:
        fetch(client, Screen(as_json=as_json), request)
    return ExitCode.OK
