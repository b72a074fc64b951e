"""`aigw cache`: what the cache did, what it holds, and forgetting it."""

from typing import Annotated

import typer

from aigw_cli import completion
from aigw_cli.commands.options import AsJson
from aigw_cli.examples import EXAMPLES
from aigw_cli.failure import ExitCode
from aigw_cli.program import Command, examples

app = typer.Typer(rich_markup_mode=None, help="Inspect and clear the response cache.")

Model = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", metavar="MODEL", help="Only answers of this model.", autocompletion=completion.models
    ),
]
OlderThan = Annotated[
    str | None, typer.Option("--older-than", metavar="AGE", help="Only answers older than this, such as 30s or 10m.")
]
Key = Annotated[str, typer.Argument(metavar="KEY", help="Value of the header x-aigw-cache-key, or a unique prefix.")]


@app.callback()
def cache_commands() -> None:
    """Inspect and clear the response cache."""


@app.command("stats", cls=Command, epilog=examples(*EXAMPLES["cache stats"]))
def stats(as_json: AsJson = False) -> ExitCode:
    """Show cache statistics and the state of its Redis."""
    import time

    from aigw_cli.render.cache import stats_lines
    from aigw_cli.screen import Screen
    from aigw_cli.session import daemon

    screen = Screen(as_json=as_json)
    with daemon() as client:
        told = client.cache_stats()
    if as_json:
        screen.document(told)
    else:
        screen.show(stats_lines(told, screen.look, time.time()))
    return ExitCode.OK


@app.command("clear", cls=Command, epilog=examples(*EXAMPLES["cache clear"]))
def clear(model: Model = None, older_than: OlderThan = None, as_json: AsJson = False) -> ExitCode:
    """Clear the response cache: everything, or by model and age."""
    from aigw_cli.render.cache import cleared_line
    from aigw_cli.screen import Screen
    from aigw_cli.session import daemon
    from aigw_daemon.control.cache_schema import CacheClear

    screen = Screen(as_json=as_json)
    request = CacheClear(model=model, older_than=_age(older_than))
    with daemon() as client, screen.busy("forgetting"):
        told = client.cache_clear(request)
    if as_json:
        screen.document(told)
    else:
        screen.show([cleared_line(told, request)])
    return ExitCode.OK


@app.command("show", cls=Command, epilog=examples(*EXAMPLES["cache show"]))
def show(key: Key, as_json: AsJson = False) -> ExitCode:
    """Show one cached response: its origin, age and text."""
    from aigw_cli.render.cache import answer_lines
    from aigw_cli.screen import Screen
    from aigw_cli.session import daemon

    screen = Screen(as_json=as_json)
    with daemon() as client:
        told = client.cache_show(key)
    if as_json:
        screen.document(told)
    else:
        screen.show(answer_lines(told, screen.look))
    return ExitCode.OK


def _age(text: str | None) -> float | None:
    from pydantic_core import PydanticCustomError

    from aigw_daemon.profile.scalars import parse_duration

    if text is None:
        return None
    try:
        return parse_duration(text)
    except PydanticCustomError:
        raise typer.BadParameter(f"'--older-than' takes an age such as 30s, 10m or 1h30m, not {text!r}") from None
