"""What a client may say by header about how its request is handled, beside the request itself. Pure."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import msgspec

from aigw_daemon.gateway.wire import ApiError

TIMEOUT: Final = b"x-aigw-timeout"
FALLBACK: Final = b"x-aigw-fallback"
BACKEND: Final = b"x-aigw-backend"
PRIORITY: Final = b"x-aigw-priority"
CACHE: Final = b"x-aigw-cache"
CACHE_CONTROL: Final = b"cache-control"
BYPASS: Final = "bypass"
NAMES: Final = frozenset({TIMEOUT, FALLBACK, BACKEND, PRIORITY, CACHE, CACHE_CONTROL})

LONGEST_TIMEOUT: Final = 24 * 3600.0
HIGHEST_PRIORITY: Final = 100
_UNITS: Final = {"": 1.0, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h|)")
_PRIORITIES: Final = {"low": -10, "normal": 0, "high": 10}
_WHOLE: Final = re.compile(r"[+-]?[0-9]{1,4}")


class Controls(msgspec.Struct, frozen=True):
    """How one request is handled."""

    timeout: float | None = None
    """Seconds for the whole request, in place of the route's and the gateway's."""
    fallback: bool = True
    """Whether another candidate may answer when the first can't."""
    backend: str | None = None
    """The only one that may answer."""
    priority: int = 0
    """In the line of a backend that is full: higher goes first."""
    usual: bool = True
    """Whether nothing of the above is asked for."""
    bypass: bool = False
    """Whether the cache must have nothing to do with it."""
    cache: str | None = None
    """``x-aigw-cache`` as it came, and `cache_control` likewise: see `cache.policy`."""
    cache_control: str | None = None

    @property
    def without_timeout(self) -> "Controls":
        """The same for a call that several clients share."""
        return self if self.timeout is None else msgspec.structs.replace(self, timeout=None)


NONE: Final = Controls()


@lru_cache(maxsize=256)
def read_controls(headers: tuple[tuple[bytes, bytes], ...]) -> Controls:
    """The controls among the headers. Raises ApiError 400 that names the header, its value and the choices.

    A program sends the same ones with all its requests, so they are remembered.
    """
    said = {name: value.decode("latin-1").strip() for name, value in headers}
    # A list may come in several lines (RFC 9110, 5.3).
    directives = [value.decode("latin-1") for name, value in headers if name == CACHE_CONTROL]
    return Controls(
        bypass=said.get(CACHE, "").lower() == BYPASS,
        cache=said.get(CACHE),
        cache_control=", ".join(directives) if directives else None,
        usual=not said.keys() - {CACHE, CACHE_CONTROL},
        timeout=_timeout(said[TIMEOUT]) if TIMEOUT in said else None,
        fallback=_choice(FALLBACK, said.get(FALLBACK, "on"), ("on", "off")) == "on",
        backend=said.get(BACKEND) or None,
        priority=_priority(said[PRIORITY]) if PRIORITY in said else 0,
    )


def _timeout(text: str) -> float:
    found = _DURATION.fullmatch(text.lower())
    seconds = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if not 0 < seconds <= LONGEST_TIMEOUT:
        raise _refused(TIMEOUT, text, "seconds, or a duration such as 500ms, 30s or 10m, above 0 and at most 24h")
    return seconds


def _priority(text: str) -> int:
    if (named := _PRIORITIES.get(text.lower())) is not None:
        return named
    if _WHOLE.fullmatch(text) and abs(number := int(text)) <= HIGHEST_PRIORITY:
        return number
    choices = f"{', '.join(_PRIORITIES)} or a whole number from -{HIGHEST_PRIORITY} to {HIGHEST_PRIORITY}"
    raise _refused(PRIORITY, text, choices)


def _choice(name: bytes, text: str, choices: Sequence[str]) -> str:
    if text.lower() not in choices:
        raise _refused(name, text, " or ".join(choices))
    return text.lower()


def _refused(name: bytes, value: str, choices: str) -> ApiError:
    header = name.decode()
    return ApiError(400, f"the header {header} must be {choices}, not {value!r}", code="invalid_header", param=header)
