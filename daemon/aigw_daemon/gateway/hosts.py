"""Which Host and Origin headers are answered: the guard against DNS rebinding and foreign web pages (rule S3). Pure.

A page of any web site can make a browser send requests to a loopback port; its Host or Origin header then names that
site. Only names of this machine, and what the profile adds, are let through.
"""

import re
from collections.abc import Iterable
from ipaddress import ip_address

from aigw_daemon.gateway.wire import ApiError

_ALWAYS = frozenset({"localhost", "host.docker.internal"})
# Exactly what RFC 6454 serialises: programs read a user, a path or a tab in it in different ways.
_ORIGIN = re.compile(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9._~-]+)(?::[0-9]{1,5})?")
_REMEMBERED = 1_024
"""Accepted header values kept; a client that invents more of them only loses the short cut."""


class HostPolicy:
    """Decides on the raw header values, and remembers those that were accepted."""

    def __init__(self, allowed_hosts: Iterable[str] = (), cors_origins: Iterable[str] = ()) -> None:
        self._hosts = _ALWAYS | {_bare(host) for host in allowed_hosts}
        self._origins = frozenset(origin.rstrip("/").lower() for origin in cors_origins)
        self.good: set[bytes | None] = {None}
        """Hosts that were accepted before; a request of HTTP/1.0 may have none."""
        self._good_origins: set[bytes | None] = set()

    def refusal(self, host: bytes | None, origin: bytes | None) -> ApiError | None:
        """Why this request is turned away with 403, or None."""
        if host is not None and host not in self.good:
            if not self._host_allowed(_bare(host.decode("latin-1"))):
                return _forbidden("Host", host, "gateway.allowed_hosts")
            _remember(self.good, host)
        if origin is not None and origin not in self._good_origins:
            if not self._origin_allowed(origin.decode("latin-1")):
                return _forbidden("Origin", origin, "gateway.cors_origins")
            _remember(self._good_origins, origin)
        return None

    def _host_allowed(self, host: str) -> bool:
        return host in self._hosts or _is_loopback(host)

    def _origin_allowed(self, origin: str) -> bool:
        origin = origin.lower()
        if "*" in self._origins or origin in self._origins:
            return True
        found = _ORIGIN.fullmatch(origin)
        return found is not None and self._host_allowed(_bare(found[1]))


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


def _remember(accepted: set[bytes | None], value: bytes) -> None:
    if len(accepted) < _REMEMBERED:
        accepted.add(value)


def _forbidden(header: str, value: bytes, setting: str) -> ApiError:
    shown = ascii(value.decode("latin-1"))
    return ApiError(
        403,
        f"the {header} {shown} is not allowed here: use localhost or a loopback address, "
        f"or add it to {setting} in the profile",
        code=f"{header.lower()}_not_allowed",
    )
