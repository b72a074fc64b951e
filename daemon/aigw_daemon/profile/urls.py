"""What can be wrong with a base URL. All of it is found: one mistake must not hide another. Pure."""

import re
from collections.abc import Iterator
from typing import Final

NO_SCHEME: Final = "it doesn't begin with http:// or https://"
_LAST_PORT: Final = 65535
_HOST: Final = re.compile(r"[^\s:@\[\]]+|\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\]")
_PORT: Final = re.compile(r"[0-9]{1,5}")


def leaks(url: str) -> Iterator[str]:
    """Parts that may hold a key or a password; references to the environment are taken out before."""
    if "@" in url.partition("://")[2].partition("/")[0]:
        yield "a URL holds no user or password"
    if "?" in url or "#" in url:
        yield "a base URL has no query and no fragment"


def address_troubles(url: str) -> Iterator[str]:
    """What keeps it from being an address of http or https."""
    scheme, found, rest = url.partition("://")
    if not found or scheme.lower() not in {"http", "https"}:
        yield NO_SCHEME
    if not found:
        return
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    host, port = _host_and_port(authority.rpartition("@")[2])
    if not _HOST.fullmatch(host):
        yield "its host can't be one" if host else "it has no host"
    if port and not (_PORT.fullmatch(port) and 0 < int(port) <= _LAST_PORT):
        yield f"its port isn't a number from 1 to {_LAST_PORT}"
    path = rest.removeprefix(authority)
    if " " in path or not path.isprintable():
        yield "its path has blanks or control characters"


def _host_and_port(authority: str) -> tuple[str, str]:
    """An IPv6 address stands in brackets."""
    if authority.startswith("["):
        host, bracket, rest = authority.partition("]")
        return host + bracket, rest.removeprefix(":")
    host, _, port = authority.partition(":")
    return host, port
