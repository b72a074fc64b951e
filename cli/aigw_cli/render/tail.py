"""`aigw tail`: one line per finished request, in columns of fixed width, for more lines follow."""

from datetime import datetime
from typing import Any

from rich.text import Text

from aigw_cli.render.look import GAP, Look, hanging, packed
from aigw_cli.render.text import clean, milliseconds

_WIDTHS = {"TIME": 8, "STATUS": 6, "MODEL": 24, "BACKEND": 14, "FIRST": 6, "TOTAL": 6, "TOKENS": 9}
_GIVE_WAY = ("FIRST", "TOKENS", "TOTAL", "BACKEND")
"""Columns that move below their line, in this order, until the line fits."""
_SHORTEST_MODEL = 16
"""Columns move below before the names of models are cut shorter than this."""
_LONGEST_MODEL = 48
_RIGHT = frozenset({"STATUS", "FIRST", "TOTAL", "TOKENS"})
_NOT_ASKED = frozenset({"hit", "coalesced"})
"""What the cache says where nobody asked the backend for this request."""
_CLIENT_FAULT, _SERVER_FAULT = 400, 500
_INDENT = " " * (_WIDTHS["TIME"] + len(GAP))


def _columns(look: Look) -> dict[str, int]:
    """The width of each column that the screen has room for. What is left over goes to the names."""
    kept = dict(_WIDTHS)
    for title in _GIVE_WAY:
        if _room_for_model(kept, look) >= _SHORTEST_MODEL:
            break
        del kept[title]
    if look.plain:
        return kept
    room = max(len("MODEL"), _room_for_model(kept, look))
    return kept | {"MODEL": room if room < _WIDTHS["MODEL"] else max(_WIDTHS["MODEL"], min(room, _LONGEST_MODEL))}


def _room_for_model(kept: dict[str, int], look: Look) -> int:
    return look.width - sum(width + len(GAP) for title, width in kept.items() if title != "MODEL")


def heading(look: Look) -> Text:
    """The titles, once at the top."""
    return _line({title: Text(title) for title in (*_WIDTHS, "ERROR")}, look, style="dim")


def record_lines(record: dict[str, Any], look: Look) -> list[Text]:
    """One finished request. Tokens are prompt and completion; attempts are told when one did not do.

    What has no column, or not enough room in it, stands below its line. The error is the last column of plain text.
    """
    error = str(record.get("error") or "")
    cells = _cells(record)
    line = _line(cells | {"ERROR": Text(clean(error))}, look)
    if look.plain:
        return [line]
    columns = _columns(look)
    moved = [_fact(title, cell.plain) for title, cell in cells.items() if cell.cell_len > columns.get(title, 0)]
    below = hanging(error, look.width, indent=_INDENT, style="red") if error else []
    return [line, *packed(filter(None, moved), look.width, indent=_INDENT), *below]


def _fact(title: str, value: str) -> str:
    if value == "-":
        return ""
    return {"FIRST": f"first byte after {value}", "TOKENS": f"{value} tokens"}.get(title, value)


def _cells(record: dict[str, Any]) -> dict[str, Text]:
    status = int(record.get("status") or 0)
    return {
        "TIME": Text(datetime.fromtimestamp(record.get("at") or 0).astimezone().strftime("%H:%M:%S"), style="dim"),
        "STATUS": Text(str(status), style=_status_style(status)),
        "MODEL": Text(clean(str(record.get("model") or "-"))),
        "BACKEND": Text(_backend(record)),
        "FIRST": Text(milliseconds(record.get("ttft_ms")) or "-"),
        "TOTAL": Text(milliseconds(record.get("duration_ms")) or "-"),
        "TOKENS": Text(_tokens(record)),
    }


def _backend(record: dict[str, Any]) -> str:
    attempts = int(record.get("attempts") or 0)
    name = clean(str(record.get("backend") or "-"))
    if record.get("cache") in _NOT_ASKED:
        return f"{name} ({record['cache']})"
    return f"{name} ({attempts})" if attempts > 1 else name


def _tokens(record: dict[str, Any]) -> str:
    prompt, completion = record.get("prompt_tokens"), record.get("completion_tokens")
    if prompt is None and completion is None:
        return "-"
    return f"{'?' if prompt is None else prompt}+{'?' if completion is None else completion}"


def _status_style(status: int) -> str:
    if status >= _SERVER_FAULT or not status:
        return "red"
    return "yellow" if status >= _CLIENT_FAULT else "green"


def _line(cells: dict[str, Text], look: Look, style: str = "") -> Text:
    line = Text(no_wrap=True, overflow="ellipsis", style=style)
    for title, width in _columns(look).items():
        cell = cells[title].copy()
        if not look.plain:
            cell.truncate(width, overflow="ellipsis")
        blank = " " * max(0, width - cell.cell_len)
        line.append(blank if title in _RIGHT else "").append_text(cell)
        line.append("" if title in _RIGHT else blank).append(GAP)
    if look.plain:
        line.append_text(cells["ERROR"])
    line.rstrip()
    return line
