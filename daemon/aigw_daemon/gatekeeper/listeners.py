"""The listening sockets of the gateway: bound by the daemon, handed to workers, never shut down.

``localhost`` may mean ``::1``, so the default binds both loopbacks. No SO_REUSEPORT: on one listener it splits the
traffic between an old and a new owner.
"""

import contextlib
import errno
import ipaddress
import socket
from collections.abc import Container, Iterable, Sequence
from typing import Final

BACKLOG = 2048
"""Connections that the kernel keeps while no worker accepts: none is refused while one is replaced."""

Endpoint = tuple[str, int]

_NEAR: Final = 50
_LAST_PORT: Final = 65_535


class PortTaken(Exception):
    """Somebody else listens there."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(f"{host}:{port} is taken")
        self.host = host
        self.port = port


class AddressUnusable(Exception):
    """The address can't be bound on this machine; the text says why."""


def endpoints(host: str, port: int) -> list[Endpoint]:
    """The numeric addresses behind a configured host.

    Raises AddressUnusable for a name that doesn't resolve.
    """
    if host == "localhost":
        return [("127.0.0.1", port), *([("::1", port)] if _has_ipv6_loopback() else [])]
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise AddressUnusable(f"gateway.host {host!r} does not resolve: {error}") from error
    return [(str(address[0]), port) for _, _, _, _, address in found[:1]]


def is_loopback(endpoint: Endpoint) -> bool:
    """Whether only this machine can reach it."""
    return ipaddress.ip_address(endpoint[0]).is_loopback


def bind(wanted: Iterable[Endpoint]) -> list[socket.socket]:
    """Listen on all of them, or on none.

    Raises PortTaken and AddressUnusable.
    """
    bound: list[socket.socket] = []
    try:
        for host, port in wanted:
            bound.append(_listen(host, port))
    except BaseException:
        close(bound)
        raise
    return bound


def free_beside(host: str, port: int, avoid: Container[int] = ()) -> int | None:
    """The next port above this one that could be served now, to be proposed; None where none is near."""
    for candidate in range(port + 1, min(port + _NEAR, _LAST_PORT) + 1):
        if candidate in avoid:
            continue
        with contextlib.suppress(PortTaken, AddressUnusable):
            close(bind(endpoints(host, candidate)))
            return candidate
    return None


def gather(wanted: Sequence[Endpoint], have: Iterable[socket.socket]) -> list[socket.socket]:
    """Listen on all of ``wanted`` or on no more than before: with those of ``have`` that fit, the others bound anew.

    Raises PortTaken and AddressUnusable.
    """
    fitting: dict[Endpoint, socket.socket] = {}
    for listener in have:
        if (endpoint := endpoint_of(listener)) in wanted and endpoint is not None:
            fitting[endpoint] = listener
    missing = [endpoint for endpoint in wanted if endpoint not in fitting]
    fitting.update(zip(missing, bind(missing), strict=True))
    return [fitting[endpoint] for endpoint in wanted]


def endpoint_of(listener: socket.socket) -> Endpoint | None:
    """Where it listens; None for what is no listening TCP socket."""
    if listener.fileno() < 0 or listener.family not in {socket.AF_INET, socket.AF_INET6}:
        return None
    if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return None
    host, port = listener.getsockname()[:2]
    return str(host), int(port)


def bound_to(listeners: Iterable[socket.socket]) -> set[Endpoint]:
    """Where these sockets listen."""
    return {endpoint for listener in listeners if (endpoint := endpoint_of(listener)) is not None}


def close(listeners: Iterable[socket.socket]) -> None:
    """Close our copies; a worker's copies go on (a shutdown() would end them too)."""
    for listener in listeners:
        listener.close()


def url(wanted: Sequence[Endpoint]) -> str:
    """What a client on this machine should be given."""
    host, port = wanted[0]
    if ipaddress.ip_address(host).is_unspecified:
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # Each family has a socket of its own; a dual-stack one would take the other's port as well.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.setblocking(False)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortTaken(host, port) from error
        raise AddressUnusable(f"cannot listen on {host}:{port}: {error.strerror}") from error
    return listener


def _has_ipv6_loopback() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True
