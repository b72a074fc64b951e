"""What is wrong with a profile, said so that the operator can mend it: where, which rule, which value, what else.

Every other module of this package reports through these two types; nothing of PyYAML or pydantic gets past them.
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

MAX_PROBLEMS = 100
"""Problems that one error carries; a hostile file could cause far more, and nobody reads them."""

_SHOWN_CHOICES = 30
_SHOWN_VALUE = 80
# difflib is quadratic in the length of what it compares.
_LONGEST_COMPARED = 100


@dataclass(frozen=True, slots=True)
class ProfileProblem:
    """One thing that is wrong. Lines and columns count from 1; 0 means that the problem has no place in the file."""

    file: str
    line: int
    column: int
    where: str
    """The dotted path as the operator typed it, such as ``backends.coder.port``; empty for the whole file."""
    rule: str
    value: str | None = None
    """What was found, made printable. None when there is nothing to show, or when it may be a secret."""
    choices: tuple[str, ...] = ()
    hint: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        parts = [place, *([self.where] if self.where else []), self._sentence()]
        # Names in the file are the operator's, or a stranger's: none reaches a terminal raw (rule S12).
        return "".join(_printable(character) for character in ": ".join(parts))

    def _sentence(self) -> str:
        got = "" if self.value is None else f", not {self.value}"
        shown = ", ".join(self.choices[:_SHOWN_CHOICES])
        more = len(self.choices) - _SHOWN_CHOICES
        choices = f" (choices: {shown}{f' and {more} more' if more > 0 else ''})" if self.choices else ""
        return f"{self.rule}{got}{f'; {self.hint}' if self.hint else ''}{choices}"


class ProfileError(Exception):
    """A profile can't be used. ``problems`` holds all that is wrong with it, in the order of the file."""

    def __init__(self, problems: Iterable[ProfileProblem]) -> None:
        ordered = sorted(problems, key=lambda problem: (problem.line, problem.column, problem.where))
        self.problems = tuple(ordered[:MAX_PROBLEMS])
        self.more = len(ordered) - len(self.problems)
        """How many further problems were left out."""
        super().__init__(self.problems)

    def __str__(self) -> str:
        lines = [str(problem) for problem in self.problems]
        if self.more:
            lines.append(f"and {self.more} more problems")
        return "\n".join(lines)


def dotted(path: Iterable[str | int]) -> str:
    """Write a path as an operator would: ``routes.chat.targets[0].backend``; names that hold dots are quoted."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            name = shown(part) if not part or "." in part or not part.isprintable() else part
            text += f".{name}" if text else name
    return text


def shown(value: object) -> str:
    """Make a value fit for one line: strings quoted, control characters escaped (rule S12), long ones cut."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            # Cut first: a megabyte is not escaped to show eighty characters of it.
            short = value if len(value) <= _SHOWN_VALUE else value[:_SHOWN_VALUE] + "…"
            return '"' + "".join(_printable(character) for character in short) + '"'
        case dict():
            return "a mapping"
        case list() | tuple():
            return "a list"
    return str(value)[:_SHOWN_VALUE]


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """The known name that is most like this one, or None when none is near."""
    if len(name) > _LONGEST_COMPARED:
        return None
    near = difflib.get_close_matches(name, [choice for choice in choices if len(choice) <= _LONGEST_COMPARED], n=1)
    return near[0] if near else None


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """A hint with the nearest name, or an empty one."""
    near = nearest(name, choices)
    return f"did you mean {shown(near)}?" if near else ""


def _printable(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
