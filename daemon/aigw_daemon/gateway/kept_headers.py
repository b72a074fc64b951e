"""Which header lines of an engine's answer reach the client: an allow-list, for all others are the engine's own. Pure.

Clouds tell in them what is left of a limit and how long they took; their support asks for the request's id.
"""

from collections.abc import Iterable
from typing import Final

from aigw_daemon.gateway.wire import header

UPSTREAM_ID: Final = "x-upstream-request-id"
_IDS: Final = frozenset({b"x-request-id", b"request-id", b"apim-request-id"})
_AS_THEY_ARE: Final = frozenset({b"openai-processing-ms", b"openai-version"})
_PREFIXES: Final = (b"x-ratelimit-", b"anthropic-ratelimit-")
_INITIALS: Final = frozenset(name[0] for name in (*_IDS, *_AS_THEY_ARE, *_PREFIXES))
_MOST: Final = 32
_LONGEST: Final = 512
"""Bytes of a name and its value."""

LIMITS: Final = tuple(
    f"x-ratelimit-{what}-{of}" for what in ("limit", "remaining", "reset") for of in ("requests", "tokens")
)
"""The usual ones among those of the prefix, by name: pages of other origins are told which they may read."""


def kept_lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The lines to pass on, out of headers with lower-case names; none for most engines of this machine."""
    for name, _ in headers:
        if name and name[0] in _INITIALS and (name in _IDS or name in _AS_THEY_ARE or name.startswith(_PREFIXES)):
            return _lines(headers)
    return b""


def _lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    kept: dict[str, str] = {}
    for name, value in headers:
        if len(name) + len(value) > _LONGEST or len(kept) == _MOST:
            continue
        if name in _IDS:
            kept.setdefault(UPSTREAM_ID, value.decode("latin-1"))
        elif name in _AS_THEY_ARE or name.startswith(_PREFIXES):
            kept[name.decode("latin-1")] = value.decode("latin-1")
    return b"".join(header(name, value) for name, value in kept.items())
