"""What a request asks for: path, query and perhaps the host behind its request line's target."""

import re
from typing import Final
from urllib.parse import unquote

import httptools

from aigw_daemon.web_names import AUTHORITY

LONGEST_REMEMBERED: Final = 128
TARGETS_REMEMBERED: Final = 1_024

Target = tuple[str, bytes, bytes | None]
"""The path, percent-decoded; the query as it came; host and port where the target is a whole URL."""
_URL: Final = re.compile(rb"(?i:https?)://([^/?#]*)")


class Targets(dict[bytes, Target | None]):
    """By the target's bytes, made when they are first looked up; None for what is neither a path nor a URL.

    A worker is asked for a few short paths, again and again: these are remembered, so that they cost a look.
    """

    def __missing__(self, url: bytes) -> Target | None:
        target = _read(url)
        if target is not None and len(self) < TARGETS_REMEMBERED and len(url) <= LONGEST_REMEMBERED:
            self[url] = target
        return target


def _read(url: bytes) -> Target | None:
    authority, path = None, url
    if not url.startswith(b"/") and url != b"*":
        found = _URL.match(url)
        if found is None or not AUTHORITY.fullmatch(found[1]):
            return None
        authority = found[1]
        path = url[found.end() :]
        path = path if path.startswith(b"/") else b"/" + path
    try:
        parsed = httptools.parse_url(path)
    except httptools.HttpParserInvalidURLError:
        return None
    if parsed.path is None:
        return None
    return unquote(parsed.path.decode("latin-1")), parsed.query or b"", authority
