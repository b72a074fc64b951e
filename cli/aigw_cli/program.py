"""How the commands of `aigw` are parsed and how their help looks, on top of typer's own classes.

Typer converts values with pydantic, which takes longer to import than a command takes to run. Everything that `aigw`
takes is a word, a number or one of a few choices.
"""

import re
from enum import Enum
from typing import Any, get_args, get_origin

import typer
from typer.core import TyperCommand, TyperGroup

_TYPE = re.compile(r" <[^<>]+>$")
"""What typer writes behind an argument's name: ``<list[str]>``."""
_WHOLE = 1000
"""Characters; more than any command's first sentence has. The formatter wraps it."""


class Command(TyperCommand):
    """A command whose values are converted without pydantic."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As typer does, with the plain conversion."""
        _convert_plainly(self.get_params(ctx))
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments, then options."""
        for title, kind in (("Arguments", "argument"), ("Options", "option")):
            found = [param for param in self.get_params(ctx) if param.param_type_name == kind]
            rows = [record for param in found if (record := param.get_help_record(ctx)) is not None]
            if kind == "argument":
                rows = [(_TYPE.sub("", name), text) for name, text in rows]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002  # as typer calls it
        """As it is written."""
        _write_epilog(self.epilog, formatter)


class Group(TyperGroup):
    """A group of commands, whose help lists them by their panels, in the order in which they were added."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As typer does, with the plain conversion; only here, since typer adds its own options late."""
        _convert_plainly(self.get_params(ctx))
        return super().parse_args(ctx, args)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002  # as typer calls it
        """As it is written."""
        _write_epilog(self.epilog, formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """One section per panel."""
        shown = {name: command for name in self.list_commands(ctx) if (command := self.get_command(ctx, name))}
        panels: dict[str, list[tuple[str, str]]] = {}
        for name, command in shown.items():
            panel = getattr(command, "rich_help_panel", None)
            row = (name, command.get_short_help_str(_WHOLE))
            panels.setdefault(panel if isinstance(panel, str) else "Commands", []).append(row)
        widest = max(map(len, shown), default=0)
        for panel, rows in panels.items():
            with formatter.section(panel):
                # The same column for the texts of every section.
                formatter.write_dl([(name.ljust(widest), text) for name, text in rows])


def examples(*lines: str) -> str:
    """An epilog of command lines."""
    return "\n".join(["Examples:", *(f"  {line}" for line in lines)])


def _write_epilog(epilog: str | None, formatter: Any) -> None:
    if epilog:
        formatter.write_paragraph()
        formatter.write(f"{epilog}\n")


def _convert_plainly(parameters: list[Any]) -> None:
    for parameter in parameters:
        if _kind(parameter) is not None:
            # Where a later typer has no such attribute any more, it is slower and right all the same.
            parameter._runtime_param = _Plain()  # noqa: SLF001  # typer has no public place for it


class _Plain:
    """What typer calls for each value."""

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """The value as the command takes it. Raises BadParameter."""
        many = param.multiple or param.nargs == -1
        if value is None:
            return () if many else None
        return [_one(part, param, ctx) for part in value] if many else _one(value, param, ctx)


def _one(value: Any, param: Any, ctx: Any) -> Any:
    kind = _kind(param)
    if kind is int:
        return _whole_number(value, param, ctx)
    try:
        return kind(value) if kind is not None and issubclass(kind, Enum) else value
    except ValueError:
        choices = ", ".join(str(choice.value) for choice in kind)  # type: ignore[union-attr]  # an Enum, see above
        raise typer.BadParameter(f"{value!r} is not one of: {choices}", ctx=ctx, param=param) from None


def _whole_number(value: Any, param: Any, ctx: Any) -> int:
    least = param.type_descriptor.parameter_info.min
    try:
        number = int(value)
    except ValueError:
        number = None
    if number is None or (least is not None and number < least):
        bound = "" if least is None else f" of at least {least}"
        raise typer.BadParameter(f"{value!r} is not a whole number{bound}", ctx=ctx, param=param)
    return number


def _kind(parameter: Any) -> type[Any] | None:
    """What one value becomes: a bool, str, int or Enum. None for everything else, which typer converts itself."""
    descriptor = getattr(parameter, "type_descriptor", None)
    annotation = getattr(descriptor, "annotation", None)
    if get_origin(annotation) is list:
        annotation = get_args(annotation)[0]
    plain = isinstance(annotation, type) and (annotation in {bool, str, int} or issubclass(annotation, Enum))
    return annotation if plain else None
