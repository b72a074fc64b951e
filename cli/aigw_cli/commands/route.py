"""`aigw test-routing`: the router's own decision for a model name; no model is called."""

from enum import StrEnum
from typing import Annotated

import typer

from aigw_cli import completion
from aigw_cli.commands.options import AsJson
from aigw_cli.failure import CommandError, ExitCode


class Endpoint(StrEnum):
    """What can be asked of a model."""

    CHAT = "chat/completions"
    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"
    RERANK = "rerank"


NEEDS = ("vision", "tools")

Model = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="The model name in the request.", autocompletion=completion.models),
]
AssumeDown = Annotated[
    list[str] | None,
    typer.Option(
        metavar="BACKEND", help="Assume that this backend is down; repeatable.", autocompletion=completion.backends
    ),
]
Needs = Annotated[str, typer.Option(metavar="NEEDS", help=f"Capabilities needed: {' or '.join(NEEDS)}, or both.")]
Explain = Annotated[bool, typer.Option("--explain", help="Show skipped candidates, reasons and limits, too.")]


def route(
    model: Model,
    *,
    endpoint: Annotated[Endpoint, typer.Option(help="Endpoint of the request.")] = Endpoint.CHAT,
    needs: Needs = "",
    assume_down: AssumeDown = None,
    explain: Explain = False,
    as_json: AsJson = False,
) -> ExitCode:
    """Show where a request would go, without calling any model."""
    from aigw_cli.render.routing import routing_lines
    from aigw_cli.screen import Screen
    from aigw_cli.session import daemon
    from aigw_daemon.control.schema import RouteRequest

    request = RouteRequest(model=model, endpoint=endpoint.value, needs=_needs(needs), assume_down=assume_down or [])
    screen = Screen(as_json=as_json)
    with daemon() as client:
        answer = client.route(request)
    if as_json:
        screen.document(answer)
    elif answer.matched is not None:
        screen.show(routing_lines(answer, screen.look, explain=explain))
    if answer.matched is None:
        return _unknown(model, answer.nearest, as_json=as_json)
    return ExitCode.OK if any(candidate.kept for candidate in answer.candidates) else ExitCode.FAILED


def _needs(said: str) -> list[str]:
    words = [word.strip() for word in said.split(",") if word.strip()]
    if unknown := [word for word in words if word not in NEEDS]:
        raise typer.BadParameter(f"unknown need {unknown[0]!r}: choose from {', '.join(NEEDS)}", param_hint="--needs")
    return words


def _unknown(model: str, nearest: list[str], *, as_json: bool) -> ExitCode:
    """The answer itself says it in JSON; a person gets the sentence, with the names that are near."""
    if as_json:
        return ExitCode.UNKNOWN_NAME
    meant = f"did you mean {', '.join(nearest)}? " if nearest else ""
    raise CommandError(
        f"no route, backend or pattern knows the model {model!r}",
        code="unknown_model",
        hint=f"{meant}'aigw status --models' lists every name",
        exit_code=ExitCode.UNKNOWN_NAME,
    )
