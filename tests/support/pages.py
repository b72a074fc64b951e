"""The code blocks of the documentation's pages, so that tests can run what the pages show."""

import itertools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.engines import CHECKOUT

_HEADING = re.compile(r"#+ (.*)")
_CODE = re.compile(r"^`([^`]*)`$")
_FENCE = re.compile(r"```(\w*)")


@dataclass(frozen=True)
class Block:
    """One fenced block: under which heading it stands, where, in which language."""

    heading: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.heading}, line {self.line}"


def page(name: str) -> Path:
    """A page of docs/."""
    return CHECKOUT / "docs" / name


def blocks(path: Path, language: str | None = None) -> list[Block]:
    """The fenced blocks of a page, in order; those in one language, or all."""
    found: list[Block] = []
    heading, opened, kind = "", 0, ""
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines, 1):
        if fence := _FENCE.fullmatch(line):
            if opened:
                found.append(Block(heading, opened, kind, "\n".join(lines[opened : number - 1]) + "\n"))
            opened, kind = (0, "") if opened else (number, fence[1])
        elif not opened and (title := _HEADING.fullmatch(line)):
            heading = title[1]
    return [block for block in found if language in {None, block.language}]


def rows(path: Path, heading: str) -> list[list[str]]:
    """The cells of the table under a heading, without its head; a cell that is all code without its backquotes."""
    lines = path.read_text().splitlines()
    start = next(
        number for number, line in enumerate(lines) if (found := _HEADING.fullmatch(line)) and found[1] == heading
    )
    below = itertools.takewhile(lambda line: not _HEADING.fullmatch(line), lines[start + 1 :])
    table = [line.strip("|").split("|") for line in below if line.startswith("|")]
    return [[_CODE.sub(r"\1", cell.strip()) for cell in cells] for cells in table[2:]]


def unlike(shown: Any, real: Any, place: str = "it") -> list[str]:
    """How a real JSON value differs from the shape of one that a page shows; fields that it has beyond are fine."""
    if type(shown) is not type(real):
        return [f"{place} is {real!r}, but the page shows {shown!r}"]
    if isinstance(shown, dict):
        absent = [f"{place} has no {key!r}" for key in shown if key not in real]
        return absent + [
            text for key in shown if key in real for text in unlike(shown[key], real[key], f"{place}.{key}")
        ]
    if isinstance(shown, list) and shown:
        return [text for number, item in enumerate(real) for text in unlike(shown[0], item, f"{place}[{number}]")]
    return []
