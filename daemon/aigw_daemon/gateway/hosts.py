"""Which Host and Origin headers are answered: the guard against DNS rebinding and foreign web pages (rule S3). Pure.

A page of any web site can make a browser send requests to a loopback port; its Host or Origin header then names that
site. Only names of this machine, and what the profile adds, are let through.
"""

from collections.abc import Iterable
from ipaddress import ip_address
from typing import Final

from aigw_daemon.gateway.openapi import EXPOSED_HEADERS
from aigw_daemon.gateway.wire import ApiError, header
from aigw_daemon.web_names import ORIGIN

_ALWAYS: Final = frozenset({"localhost", "host.docker.internal"})
_WEB_SCHEMES: Final = frozenset({"http", "https"})
_REMEMBERED: Final = 1_024
"""Accepted header values kept; a client that invents more of them only loses the short cut."""
# No line lets a page send cookies or a login of the browser's own (allow-credentials), whichever page it is.
_EXPOSED: Final = b"vary: origin\r\naccess-control-expose-headers: %b\r\n" % ", ".join(EXPOSED_HEADERS).encode()


class HostPolicy:
    """Decides on the raw header values, and remembers those that were accepted."""

    def __init__(self, allowed_hosts: Iterable[str] = (), cors_origins: Iterable[str] = ()) -> None:
        hosts = [host.lower() for host in allowed_hosts]
        origins = [origin.lower() for origin in cors_origins]
        self._hosts = _ALWAYS | {_bare(host) for host in hosts if not host.startswith("*.")}
        self._below = tuple(f".{_bare(host[2:])}" for host in hosts if host.startswith("*."))
        """Ends of the names that are let through."""
        self._origins = frozenset(origins)
        self._schemes = frozenset(origin.removesuffix("*") for origin in origins if origin.endswith("://*"))
        self.good: set[bytes | None] = {None}
        """Hosts that were accepted before; a request of HTTP/1.0 may have none."""
        self._lines: dict[bytes, bytes] = {}
        """Of the origins that were accepted before."""

    def refusal(self, host: bytes | None, origin: bytes | None) -> ApiError | None:
        """Why this request is turned away with 403, or None."""
        if host is not None and host not in self.good:
            name = _bare(host.decode("latin-1"))
            if not self._host_allowed(name):
                return _forbidden("Host", host, f'allowed_hosts: ["{name}"]')
            if len(self.good) < _REMEMBERED:
                self.good.add(host)
        if origin is not None and not self.cors(origin):
            sent = origin.decode("latin-1")
            return _forbidden("Origin", origin, f'cors_origins: ["{sent}"]' if ORIGIN.fullmatch(sent) else None)
        return None

    def cors(self, origin: bytes) -> bytes:
        """The header lines that let a page of this origin read its answer; none for a foreign page."""
        lines = self._lines.get(origin)
        if lines is None:
            sent = origin.decode("latin-1")
            if not self._origin_allowed(sent.lower()):
                return b""
            lines = header("access-control-allow-origin", sent) + _EXPOSED
            if len(self._lines) < _REMEMBERED:
                self._lines[origin] = lines
        return lines

    def _host_allowed(self, host: str) -> bool:
        return host in self._hosts or host.endswith(self._below) or _is_loopback(host)

    def _origin_allowed(self, origin: str) -> bool:
        if "*" in self._origins or origin in self._origins:
            return True
        if not ORIGIN.fullmatch(origin):
            return False
        scheme, separator, host = origin.partition("://")
        if scheme in _WEB_SCHEMES:
            return self._host_allowed(_bare(host))
        return scheme + separator in self._schemes


def _bare(host: str) -> str:
    """The name or address alone: no port, no brackets, no dot at the end, lower case."""
    host = host.lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    if host.count(":") == 1:
        host = host.partition(":")[0]
    return host.rstrip(".")


def _is_loopback(host: str) -> bool:
    if host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _forbidden(name: str, value: bytes, setting: str | None) -> ApiError:
    shown = ascii(value.decode("latin-1"))
    if setting is None:
        advice = "it is not an origin such as http://localhost:3000"
    else:
        advice = f"use localhost or a loopback address, or add {setting} to the section gateway of the profile"
    return ApiError(403, f"the {name} {shown} is not allowed here: {advice}", code=f"{name.lower()}_not_allowed")
