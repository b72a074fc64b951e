"""Parsing ``Retry-After`` in all its forms, and ``retry-after-ms``. Pure."""

import re
from collections.abc import Iterable
from email.utils import mktime_tz, parsedate_tz
from typing import Final

LONGEST_SECONDS: Final = 24 * 3600.0
"""Upper bound of a wait."""

_NUMBER: Final = re.compile(r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+")
_LONGEST_VALUE: Final = 64
"""Upper bound of a date's length in characters. A longer number still counts, as the longest wait."""
_DATE: Final = re.compile(
    r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*"
    r"(?:, [0-9]{2}[ -][A-Z][a-z]{2}[ -](?:[0-9]{4}|[0-9]{2}) [0-9:]{8} GMT"
    r"| [A-Z][a-z]{2} [ 0-9][0-9] [0-9:]{8} [0-9]{4})"
)
"""IMF-fixdate, the form of RFC 850, and asctime's (RFC 9110, 5.6.7)."""


def wait_of(headers: Iterable[tuple[bytes, bytes]], now: float) -> float | None:
    """Seconds to wait before the next request to an upstream, or None if the headers don't say. Names are lower-cased.

    ``retry-after-ms`` takes precedence, as it is finer. A date is relative to the upstream's own ``Date``, since its
    clock may differ; without that header, to ``now`` (seconds since the epoch). A past date means 0.
    """
    said: dict[bytes, str] = {}
    for name, line in headers:
        if name in {b"retry-after-ms", b"retry-after", b"date"}:
            said.setdefault(name, line.decode("latin-1").strip())
    milliseconds = _number(said.get(b"retry-after-ms", ""))
    if milliseconds is not None:
        return _bounded(milliseconds / 1e3)
    value = said.get(b"retry-after", "")
    seconds = _number(value)
    if seconds is None and (until := _date(value)) is not None:
        sent = _date(said.get(b"date", ""))
        seconds = until - (now if sent is None else sent)
    return None if seconds is None else _bounded(seconds)


def _bounded(seconds: float) -> float:
    return min(max(0.0, seconds), LONGEST_SECONDS)


def _number(value: str) -> float | None:
    return float(value) if _NUMBER.fullmatch(value) else None


def _date(value: str) -> float | None:
    """Seconds since the epoch, or None for anything but an HTTP date."""
    if len(value) > _LONGEST_VALUE or not _DATE.fullmatch(value):
        return None
    try:
        parsed = parsedate_tz(value)
        return float(mktime_tz(parsed)) if parsed is not None else None
    except (ValueError, OverflowError):  # such as the 99th of a month
        return None
