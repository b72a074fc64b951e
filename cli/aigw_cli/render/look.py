"""How things look: what a screen can show, the glyph and colour of each state, and columns that line up."""

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich.text import Text

from aigw_cli.render.text import clean
from aigw_daemon.words import State

GAP = "  "
LABEL = 9
"""Width of the labels in front of facts."""
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
    """The columns that a table of this width can hold, and those that move below the rows, in the order of titles.

    Those in ``give_way`` move first, then the others from the right; the first column stays.
    """
    kept = list(columns)
    others = [column.title for column in reversed(columns[1:]) if column.title not in give_way]
    for title in (*give_way, *others):
        if natural_width(kept, rows) <= width:
            break
        kept = [column for column in kept if column.title != title]
    return kept, [column for column in columns if column not in kept]


def fitted(
    columns: Sequence[Column],
    give_way: Sequence[str],
    rows: Sequence[Row],
    look: Look,
    fact: Callable[[str, str], str] = lambda _, value: value,
) -> tuple[Text, list[list[Text]]]:
    """A heading, and the lines of each row: the row itself, and below it the columns that don't fit.

    ``fact`` makes a column's title and value a fact that can stand alone; an empty one isn't shown.
    """
    kept, moved = fit(columns, give_way, rows, look.width)
    heading, *body = table(kept, rows)
    below = ((fact(column.title, row[column.title].plain) for column in moved) for row in rows)
    lines = [
        [line, *packed(filter(None, facts), look.width, indent="  ")] for line, facts in zip(body, below, strict=True)
    ]
    return heading, lines


def labelled(label: str, facts: Iterable[Text | str], look: Look, *, width: int = LABEL) -> list[Text]:
    """Facts behind a label; those that don't fit go on below, beside the label's column."""
    lines = [Text(f"{label:<{width}}", style="dim")]
    for number, fact in enumerate(facts):
        text = fact.copy() if isinstance(fact, Text) else Text(fact, style="not dim")
        begun = lines[-1]
        if number and begun.cell_len + len(GAP) + text.cell_len > look.width:
            begun = Text(" " * width, style="dim")
            lines.append(begun)
        elif number:
            begun.append(GAP)
        begun.append_text(text)
    for line in lines:
        line.rstrip()
    return lines


def table(columns: Sequence[Column], rows: Sequence[Row]) -> list[Text]:
    """A heading and one line per row, columns aligned, without trailing blanks."""
    widths = _widths(columns, rows)
    heading = {column.title: Text(column.title, style="dim") for column in columns}
    return [_line(columns, widths, row) for row in (heading, *rows)]


def _widths(columns: Sequence[Column], rows: Sequence[Row]) -> list[int]:
    return [max([len(c.title), *(row[c.title].cell_len for row in rows)]) for c in columns]


def _line(columns: Sequence[Column], widths: Sequence[int], row: Row) -> Text:
    # Only a name that is wider than the screen alone doesn't fit: it goes on on the next line.
    line = Text(overflow="fold")
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

    A word that is wider than the screen goes on on the next line. Plain text stays on one line.
    """
    room = max(20, width - len(indent))
    lines = textwrap.wrap(clean(text), room, subsequent_indent=further, break_on_hyphens=False)
    return [Text(indent).append(line, style=style) for line in lines]
