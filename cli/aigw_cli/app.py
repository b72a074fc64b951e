"""The command line of `aigw`, assembled from commands/; it imports nothing that `aigw --help` can do without."""

from typing import Annotated

import typer

from aigw_cli.commands import cache, daemon, profile
from aigw_cli.commands.down import down
from aigw_cli.commands.events import events
from aigw_cli.commands.health import health
from aigw_cli.commands.logs import logs
from aigw_cli.commands.pull import pull
from aigw_cli.commands.restart import restart
from aigw_cli.commands.route import route
from aigw_cli.commands.start import start
from aigw_cli.commands.status import status
from aigw_cli.commands.stop import stop
from aigw_cli.commands.tail import tail
from aigw_cli.commands.up import up
from aigw_cli.commands.version import print_version
from aigw_cli.commands.why import why

app = typer.Typer(
    name="aigw",
    # Plain help: Rich's takes three times as long to import as all the rest.
    rich_markup_mode=None,
    # main.py answers for errors.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Version = Annotated[
    bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version, and exit.")
]


@app.callback()
def aigw(version: Version = False) -> None:
    """Runs local LLM engines, and serves them all behind one OpenAI-compatible endpoint."""


for command in (up, down, status, health, start, stop, restart, why, events, logs, tail, pull):
    app.command()(command)
app.command("test-routing")(route)
app.add_typer(profile.app, name="profile")
app.add_typer(cache.app, name="cache")
app.add_typer(daemon.app, name="daemon")
