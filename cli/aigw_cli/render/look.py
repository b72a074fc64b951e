"""How things look: what a screen can show, the glyph and colour of each state, and columns that line up."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich.text import Text

from aigw_cli.render.text import clean
from aigw_daemon.words import State

GAP = "  "
PLAIN_WIDTH = 1_000_000
"""Plain text is for programs and log files: nothing is cut or wrapped."""


@dataclass(frozen=True)
class Look:
    """What the output can show. Plain text has no width of its own, no glyphs and no columns left out."""

    width: int
    plain: bool


_STYLES: dict[str, tuple[str, str]] = {
    State.READY: ("●", "green"),
    State.DEGRADED: ("●", "yellow"),
    State.STARTING: ("◐", "cyan"),
    State.SLEEPING: ("◌", "blue"),
    State.STOPPED: ("○", "dim"),
    State.DRAINING: ("◑", "cyan"),
    State.STOPPING: ("◑", "cyan"),
    State.BACKOFF: ("◐", "yellow"),
    State.FAILED: ("✗", "red"),
    State.UNREACHABLE: ("✗", "red"),
}


def state_style(state: str) -> str:
    """The colour of a state; an unknown one, of a newer daemon, has none."""
    return _STYLES.get(state, ("", ""))[1]


def state_text(state: str, look: Look) -> Text:
    """A state as a word, with its glyph and colour where the screen shows them."""
    word = clean(str(state))
    if look.plain:
        return Text(word)
    glyph, style = _STYLES.get(state, ("·", ""))
    return Text(f"{glyph} {word}", style=style)


@dataclass(frozen=True)
class Column:
    """One column of a table; numbers stand right."""

    title: str
    right: bool = False


Row = Mapping[str, Text]
"""One line of a table: the cell of each column, by its title."""


def natural_width(columns: Sequence[Column], rows: Sequence[Row]) -> int:
    """How wide the table is when nothing is cut."""
    return sum(_widths(columns, rows)) + len(GAP) * (len(columns) - 1)


def fit(
    columns: Sequence[Column], give_way: Sequence[str], rows: Sequence[Row], width: int
) -> tuple[list[Column], list[Column]]:
    """The columns that a table of this width can hold, and those that move below the rows, in the order of titles."""
    kept = list(columns)
    for title in give_way:
        if natural_width(kept, rows) <= width:
            break
        kept = [column for column in kept if column.title != title]
    return kept, [column for column in columns if column not in kept]


def table(columns: Sequence[Column], rows: Sequence[Row]) -> list[Text]:
    """A heading and one line per row, columns aligned, without trailing blanks."""
    widths = _widths(columns, rows)
    heading = {column.title: Text(column.title, style="dim") for column in columns}
    return [_line(columns, widths, row) for row in (heading, *rows)]


def _widths(columns: Sequence[Column], rows: Sequence[Row]) -> list[int]:
    return [max([len(c.title), *(row[c.title].cell_len for row in rows)]) for c in columns]


def _line(columns: Sequence[Column], widths: Sequence[int], row: Row) -> Text:
    line = Text(no_wrap=True, overflow="ellipsis")
    for column, width in zip(columns, widths, strict=True):
        cell = row[column.title]
        blank = " " * (width - cell.cell_len)
        line.append(blank if column.right else "").append_text(cell).append("" if column.right else blank).append(GAP)
    line.rstrip()
    return line


def packed(parts: Iterable[str], width: int, *, indent: str, separator: str = " · ", style: str = "dim") -> list[Text]:
    """Short facts on as few lines as the width allows; only a fact that is too long for a line is split, at blanks."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + len(separator) + len(part) <= width:
            lines[-1] += separator + part
        else:
            lines.append(indent + part)
    return [piece for line in lines for piece in hanging(line.strip(), width, indent=indent, style=style)]


def hanging(text: str, width: int, *, indent: str, further: str = "", style: str = "") -> list[Text]:
    """A sentence broken at blanks, every line indented, all but the first by ``further`` more.

    Plain text stays on one line.
    """
    room = max(20, width - len(indent))
    lines = textwrap.wrap(clean(text), room, subsequent_indent=further, break_long_words=False, break_on_hyphens=False)
    return [Text(indent).append(line, style=style) for line in lines]
