"""The command line of `aigw`, assembled from commands/; it imports nothing that `aigw --help` can do without."""

from collections.abc import Callable
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
from aigw_cli.examples import EXAMPLES
from aigw_cli.failure import ExitCode
from aigw_cli.program import Command, Group, examples

app = typer.Typer(
    name="aigw",
    cls=Group,
    # Plain help: Rich's takes three times as long to import as all the rest.
    rich_markup_mode=None,
    # main.py answers for errors.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=f"""{examples("aigw up", "aigw status", "aigw why coder", "aigw COMMAND --help")}

Environment:
  AIGW_HOME  Folder for the state, logs, models, profiles and sockets; without it
             the XDG folders are used.""",
)

Version = Annotated[
    bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and exit.")
]


@app.callback()
def aigw(version: Version = False) -> None:
    """Run local LLM engines and serve them behind one OpenAI-compatible endpoint."""


PANELS: dict[str, dict[str, Callable[..., ExitCode]]] = {
    "Running": {"up": up, "down": down, "start": start, "stop": stop, "restart": restart},
    "Looking": {
        "status": status,
        "health": health,
        "why": why,
        "events": events,
        "logs": logs,
        "tail": tail,
        "test-routing": route,
    },
}

for panel, commands in PANELS.items():
    for name, command in commands.items():
        app.command(name, cls=Command, rich_help_panel=panel, epilog=examples(*EXAMPLES[name]))(command)
app.command("pull", cls=Command, rich_help_panel="Models, profiles, cache", epilog=examples(*EXAMPLES["pull"]))(pull)
app.add_typer(profile.app, name="profile", cls=Group, rich_help_panel="Models, profiles, cache")
app.add_typer(cache.app, name="cache", cls=Group, rich_help_panel="Models, profiles, cache")
app.add_typer(daemon.app, name="daemon", cls=Group, rich_help_panel="Daemon")
