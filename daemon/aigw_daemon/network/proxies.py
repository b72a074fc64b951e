"""Decide from a URL and an environment whether a proxy is used, and which one. Pure.

The variables are those of curl and Python: ``http_proxy`` or ``https_proxy`` by the URL's scheme, else ``all_proxy``,
and ``no_proxy``; each in lower case first, then in upper case. A variable that is set and empty hides the other one.
"""

from collections.abc import Mapping
from typing import Final
from urllib.parse import SplitResult, quote, unquote, urlsplit

import msgspec

from aigw_daemon.network.hosts import authority, is_this_machine, normalized
from aigw_daemon.network.no_proxy import is_excluded
from aigw_daemon.network.problems import BadEnvironment

SOCKS: Final = "socks5"
"""Names are resolved by the proxy, so that socks5 and socks5h are the same."""
DEFAULT_PORTS: Final[Mapping[str, int]] = {"http": 80, "https": 443}
_PROXY_PORTS: Final[Mapping[str, int]] = {**DEFAULT_PORTS, SOCKS: 1080}
_FORMS: Final = "write http://HOST:PORT, https://HOST:PORT or socks5://HOST:PORT"
_LONGEST_SOCKS_FIELD: Final = 255
"""Bytes of a user's name or a password (RFC 1929)."""


class Proxy(msgspec.Struct, frozen=True, kw_only=True):
    """A proxy; its credentials are sent and used but never printed (rule S12)."""

    scheme: str
    """http, https or socks5."""
    host: str
    port: int
    variable: str
    """The environment variable that names it."""
    user: str = ""
    password: str = ""

    @property
    def authority(self) -> str:
        """Host and port."""
        return authority(self.host, self.port)

    @property
    def url(self) -> str:
        """Without credentials."""
        return f"{self.scheme}://{self.authority}"

    def __str__(self) -> str:
        return f"the proxy {self.authority} ({self.variable})"

    def __repr__(self) -> str:
        return f"Proxy({self.url}, {self.variable})"

    def __rich_repr__(self) -> list[tuple[str, str]]:
        return [("url", self.url), ("variable", self.variable)]


def proxy_for(url: str, env: Mapping[str, str]) -> Proxy | None:
    """The proxy that requests to ``url`` go through; None: they go directly, as they do to this machine and to sockets.

    Raises BadEnvironment for a variable that decides about this URL and can't be used.
    """
    parts = urlsplit(url)
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname or is_this_machine(parts.hostname):
        return None
    variable, value = proxy_variable(parts.scheme, env)
    if not value or _is_excluded(parts, env):
        return None
    try:
        return parse_proxy(variable, value)
    except ValueError as error:
        remedy = f"{_FORMS}, or add {parts.hostname} to NO_PROXY"
        raise BadEnvironment(variable, str(error), remedy) from error


def proxy_variable(scheme: str, env: Mapping[str, str]) -> tuple[str, str]:
    """The variable that decides for URLs of this scheme, and its value; empty where there is none."""
    for name in (f"{scheme}_proxy", "all_proxy"):
        variable, value = variable_of(name, env)
        if value:
            return variable, value
    return "", ""


def variable_of(name: str, env: Mapping[str, str]) -> tuple[str, str]:
    """The variable of this name that counts, and its value without blanks around it."""
    variable = name if name in env else name.upper()
    return variable, env.get(variable, "").strip()


def parse_proxy(variable: str, value: str) -> Proxy:
    """Read a proxy's URL, or ``HOST:PORT`` of an HTTP proxy. Raises ValueError with what is wrong with it."""
    parts = urlsplit(value if "://" in value else f"http://{value}")
    scheme = parts.scheme.lower()
    if scheme not in {*_PROXY_PORTS, f"{SOCKS}h"}:
        raise ValueError(f"has the scheme {scheme}://, which aigw doesn't support")
    scheme = SOCKS if scheme.startswith(SOCKS) else scheme
    host, port = _place(parts)
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if scheme == SOCKS and max(len(user.encode()), len(password.encode())) > _LONGEST_SOCKS_FIELD:
        raise ValueError(f"has credentials of more than {_LONGEST_SOCKS_FIELD} bytes, more than SOCKS allows")
    return Proxy(
        scheme=scheme,
        host=host,
        port=_PROXY_PORTS[scheme] if port is None else port,
        variable=variable,
        user=user,
        password=password,
    )


def full_url(proxy: Proxy) -> str:
    """The proxy's URL with its credentials, for programs that take nothing else."""
    credentials = quote(proxy.user, safe="") + (f":{quote(proxy.password, safe='')}" if proxy.password else "")
    scheme = f"{SOCKS}h" if proxy.scheme == SOCKS else proxy.scheme
    return f"{scheme}://{f'{credentials}@' if credentials else ''}{proxy.authority}"


def _place(parts: SplitResult) -> tuple[str, int | None]:
    try:
        port = parts.port
    except ValueError as error:
        raise ValueError("has a port that isn't a number from 1 to 65535") from error
    host = normalized(parts.hostname or "")
    if port == 0:
        raise ValueError("has a port that isn't a number from 1 to 65535")
    if not host or not host.isprintable() or " " in host:
        raise ValueError("names no host")
    return host, port


def _is_excluded(parts: SplitResult, env: Mapping[str, str]) -> bool:
    variable, entries = variable_of("no_proxy", env)
    try:
        return is_excluded(entries, parts.hostname or "", parts.port or DEFAULT_PORTS[parts.scheme])
    except ValueError as error:
        trouble = f"has the entry {str(error)!r}, which is no network"
        raise BadEnvironment(variable, trouble, "write networks as 10.0.0.0/8 or fd00::/8") from error
