"""Arguments and options that several commands share."""

from typing import Annotated

import typer

from aigw_cli import completion

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON; one object per line where it streams.")]

Backends = Annotated[
    list[str] | None,
    typer.Argument(metavar="BACKEND", help="Backend names; default: all.", autocompletion=completion.backends),
]

Now = Annotated[bool, typer.Option("--now", help="Don't wait for requests in flight.")]

ProfileName = Annotated[
    str | None,
    typer.Option(
        "--profile", "-p", metavar="PROFILE", help="A profile's name or file.", autocompletion=completion.profiles
    ),
]
