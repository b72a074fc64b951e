"""`aigw test-routing`: the router's own decision for a model name; no model is called."""

from typing import Annotated

import typer

from aigw_cli import completion
from aigw_cli.commands.options import AsJson
from aigw_cli.failure import CommandError, ExitCode

Model = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="The name that a client would ask for.", autocompletion=completion.models),
]
AssumeDown = Annotated[
    list[str] | None,
    typer.Option(
        metavar="BACKEND", help="As if this backend were down; repeatable.", autocompletion=completion.backends
    ),
]
Explain = Annotated[bool, typer.Option("--explain", help="Show what was skipped as well, and every reason.")]


def route(model: Model, assume_down: AssumeDown = None, explain: Explain = False, as_json: AsJson = False) -> ExitCode:
    """Show where a request would go, without calling any model."""
    from aigw_cli.render.routing import routing_lines
    from aigw_cli.screen import Screen
    from aigw_cli.session import daemon
    from aigw_daemon.control.schema import RouteRequest

    screen = Screen(as_json=as_json)
    with daemon() as client:
        answer = client.route(RouteRequest(model=model, assume_down=assume_down or []))
    if as_json:
        screen.document(answer)
    elif answer.matched is not None:
        screen.show(routing_lines(answer, screen.look, explain=explain))
    if answer.matched is None:
        return _unknown(model, answer.nearest, as_json=as_json)
    return ExitCode.OK if any(candidate.kept for candidate in answer.candidates) else ExitCode.FAILED


def _unknown(model: str, nearest: list[str], *, as_json: bool) -> ExitCode:
    """The answer itself says it in JSON; a person gets the sentence, with the names that are near."""
    if as_json:
        return ExitCode.UNKNOWN_NAME
    raise CommandError(
        f"no route, backend or pattern knows the model {model!r}",
        code="unknown_model",
        hint=f"did you mean {', '.join(nearest)}?" if nearest else "'aigw status' lists the models",
        exit_code=ExitCode.UNKNOWN_NAME,
    )
