"""Commands that a profile gives as a list: their placeholders, and why containers are not among them."""

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Annotated, Final

from pydantic import AfterValidator

from aigw_daemon.profile.scalars import Word, rule

Command = tuple[Word, ...]

PLACEHOLDERS: Final = ("host", "port", "model")
_CONTAINERS: Final = frozenset({"docker", "podman", "nerdctl", "docker-compose", "podman-compose"})
_VERBS: Final = frozenset({"run", "start", "exec", "compose", "up"})
# Two braces stand for a literal one: {{port}} comes out as {port}. JSON has no name right behind a brace.
_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}|\{(\w+)\}")
_IN_A_SHELL = re.compile(r"\b(docker|podman|nerdctl)(-compose)?\s+([^;|&]*\s)?(run|start|exec|compose|up)\b")


def check_own_process(command: Command) -> Command:
    """Refuse a command whose engine would be the child of somebody else: it could be neither watched nor ended."""
    for number, word in enumerate(command):
        found = PurePath(word).name
        if (found in _CONTAINERS and _VERBS & set(command[number + 1 :])) or _IN_A_SHELL.search(word):
            raise rule(
                "must not start a container: its processes belong to the container's daemon, so aigw could neither "
                "watch nor end them",
                hint="run the server's program itself; or start the container yourself and use engine: openai with url",
                secret=True,  # a command is long, and may hold one
            )
    return command


def check_placeholders(word: str) -> str:
    """Refuse unknown placeholders in a word of a command, all of them at once."""
    unknown = [match[0] for match in _PLACEHOLDER.finditer(word) if match[2] not in {None, *PLACEHOLDERS}]
    if unknown:
        is_none = "is no placeholder" if len(unknown) == 1 else "are no placeholders"
        raise rule(
            f"{', '.join(unknown)} {is_none}; there are {', '.join(f'{{{name}}}' for name in PLACEHOLDERS)}",
            hint=f"write {{{unknown[0]}}} for a literal {unknown[0]}",
        )
    return word


PlaceholderWord = Annotated[Word, AfterValidator(check_placeholders)]


def uses(command: Command, name: str) -> bool:
    """Whether a placeholder stands in it."""
    return any(match[2] == name for word in command for match in _PLACEHOLDER.finditer(word))


def filled_in(command: Command, values: Mapping[str, str]) -> Command:
    """The command with its placeholders replaced."""

    def value(match: re.Match[str]) -> str:
        return f"{{{match[1]}}}" if match[1] is not None else values[match[2]]

    return tuple(_PLACEHOLDER.sub(value, word) for word in command)
