"""Strings for operators: control characters made visible, durations and sizes in human units. All pure."""

import re
import unicodedata

_COLOURS = re.compile(r"\x1b\[[0-9;:]*m")
# Direction marks reorder what stands beside them: as dangerous in a terminal as a control character.
_REORDERING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_HIDDEN = frozenset({"Cc", "Cs", "Zl", "Zp"})

_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def clean(text: str) -> str:
    """``text`` with nothing left that a terminal would obey (rule S12).

    Colours, which engines write into their logs, are dropped; every other control character, line breaks included,
    is shown as its escape. A tab becomes four spaces.
    """
    text = _COLOURS.sub("", text).replace("\t", "    ")
    return "".join(_escaped(c) if c in _REORDERING or unicodedata.category(c) in _HIDDEN else c for c in text)


def lines_of(text: str) -> list[str]:
    r"""The lines of a text, which end at ``\n`` or ``\r\n`` alone: not at what only Unicode calls a line end."""
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []


def drawn_last(line: str) -> str:
    """What stood last in a line that a progress bar was drawn over."""
    return line.rstrip("\r").rpartition("\r")[2]


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode()


def duration(seconds: float | None) -> str:
    """Two units at most, without spaces: ``4.2s``, ``45s``, ``3m12s``, ``2h05m``, ``4d03h``."""
    if seconds is None:
        return ""
    whole = max(0, int(seconds))
    if seconds < 10:  # noqa: PLR2004  # below ten seconds a tenth still tells something
        return f"{max(0.0, seconds):.1f}s"
    if whole < _MINUTE:
        return f"{whole}s"
    if whole < _HOUR:
        return f"{whole // _MINUTE}m{whole % _MINUTE:02}s"
    if whole < _DAY:
        return f"{whole // _HOUR}h{whole % _HOUR // _MINUTE:02}m"
    return f"{whole // _DAY}d{whole % _DAY // _HOUR:02}h"


def counted(count: int, noun: str) -> str:
    """``1 model``, ``2 models``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def milliseconds(value: float | None) -> str:
    """``0.8ms``, ``42ms``, and seconds from one second on, as `duration` writes them."""
    if value is None:
        return ""
    if value < 10:  # noqa: PLR2004  # as above
        return f"{value:.1f}ms"
    return f"{value:.0f}ms" if value < 1000 else duration(value / 1000)  # noqa: PLR2004  # a second


def memory(size: int | None) -> str:
    """Memory of a process or GPU, in binary units: ``312MiB``, ``5.4GiB``."""
    return "" if size is None else _scaled(size, 1024, ("B", "KiB", "MiB", "GiB", "TiB"))


def file_size(size: int | None) -> str:
    """Size of a file, in decimal units as download pages write it: ``93.2MB``."""
    return "" if size is None else _scaled(size, 1000, ("B", "kB", "MB", "GB", "TB"))


def _scaled(size: int, base: int, units: tuple[str, ...]) -> str:
    value, power = float(size), 0
    while value >= base and power < len(units) - 1:
        value, power = value / base, power + 1
    unit = units[power]
    # Three figures say enough of a size; whole bytes have no decimals.
    return f"{value:.0f}{unit}" if value >= 100 or unit == "B" else f"{value:.1f}{unit}"  # noqa: PLR2004
