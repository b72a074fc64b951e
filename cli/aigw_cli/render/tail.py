"""`aigw tail`: one line per finished request, in columns of fixed width, for more lines follow."""

from datetime import datetime
from typing import Any

from rich.text import Text

from aigw_cli.render.look import GAP, Look, hanging
from aigw_cli.render.text import clean, milliseconds

_WIDE = 100
_TITLES = ("TIME", "STATUS", "MODEL", "BACKEND", "FIRST", "TOTAL", "TOKENS", "ERROR")
_RIGHT = frozenset({"STATUS", "FIRST", "TOTAL", "TOKENS"})
_NOT_ASKED = frozenset({"hit", "coalesced"})
"""What the cache says where nobody asked the backend for this request."""
_CLIENT_FAULT, _SERVER_FAULT = 400, 500


def _columns(look: Look) -> dict[str, int]:
    """Width of each column; on a narrow screen names are cut shorter, and the first byte's time is left out."""
    names = 24 if look.plain or look.width >= _WIDE else max(10, (look.width - 44) // 2)
    widths = {"TIME": 8, "STATUS": 6, "MODEL": names, "BACKEND": names // 2 + 2, "FIRST": 6, "TOTAL": 6, "TOKENS": 9}
    if not look.plain and look.width < _WIDE:
        del widths["FIRST"]
    return widths


def heading(look: Look) -> Text:
    """The titles, once at the top."""
    cells = {title: Text(title) for title in _TITLES}
    return _line(cells, look, style="dim")


def record_lines(record: dict[str, Any], look: Look) -> list[Text]:
    """One finished request. Tokens are prompt and completion; attempts are told when one did not do.

    Its error stands in the last column of plain text, and on a screen below the line, where it has room.
    """
    error = str(record.get("error") or "")
    line = _line(_cells(record) | {"ERROR": Text(clean(error))}, look)
    below = hanging(error, look.width, indent=" " * 10, style="red") if error and not look.plain else []
    return [line, *below]


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
