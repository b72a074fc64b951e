"""What a failed command says: what happened, the details, what to do next."""

from typing import Any

from rich.console import RenderableType
from rich.text import Text

from aigw_cli.failure import CommandError
from aigw_cli.render.look import Look, hanging

_INDENT = "  "


def failure_lines(failure: CommandError, look: Look) -> list[RenderableType]:
    """For a person, on standard error."""
    lines: list[RenderableType]
    first, *rest = hanging(failure.message, look.width - len("aigw: "), indent="") or [Text()]
    lines = [Text("aigw: ", style="bold red").append_text(first), *(Text("      ").append_text(line) for line in rest)]
    for detail in _unsaid(failure):
        lines += hanging(detail, look.width, indent=_INDENT, further=_INDENT)
    if failure.hint:
        lines += hanging(failure.hint, look.width, indent=_INDENT, style="cyan")
    if failure.command:
        lines.append(_INDENT + failure.command)
    return lines


def _unsaid(failure: CommandError) -> tuple[str, ...]:
    """The details, unless the hint names them all: choices are listed once."""
    hint = failure.hint or ""
    return () if all(detail in hint for detail in failure.details) else failure.details


def as_document(failure: CommandError) -> dict[str, Any]:
    """For a program, on standard output."""
    error = {
        "code": failure.code,
        "message": failure.message,
        "hint": " ".join(filter(None, (failure.hint, failure.command))) or None,
        "details": list(failure.details),
    }
    return {"error": error}
