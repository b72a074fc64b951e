"""What a request asks for: the path and the query behind its request line's target."""

from typing import Final
from urllib.parse import unquote

import httptools

LONGEST_REMEMBERED: Final = 128
TARGETS_REMEMBERED: Final = 1_024

Target = tuple[str, bytes]
"""The path, percent-decoded, and the query as it came."""


class Targets(dict[bytes, Target | None]):
    """By the target's bytes, made when they are first looked up; None for what is neither a path nor a URL.

    A worker is asked for a few short paths, again and again: these are remembered, so that they cost a look.
    """

    def __missing__(self, url: bytes) -> Target | None:
        try:
            parsed = httptools.parse_url(url)
        except httptools.HttpParserInvalidURLError:
            return None
        if parsed.path is None:
            return None
        target = (unquote(parsed.path.decode("latin-1")), parsed.query or b"")
        if len(self) < TARGETS_REMEMBERED and len(url) <= LONGEST_REMEMBERED:
            self[url] = target
        return target
