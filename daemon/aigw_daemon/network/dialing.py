"""Connections: to an address, and through a proxy to one (CONNECT of RFC 9110; SOCKS5 of RFC 1928 and 1929)."""

import asyncio
import socket
import ssl
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final, TypeVar, cast

from aigw_daemon.network.hosts import address_of, authority
from aigw_daemon.network.proxies import SOCKS, Proxy

P = TypeVar("P", bound=asyncio.BaseProtocol)

_MAX_PROXY_HEAD: Final = 16 * 1024
_SOCKS_VERSION: Final = 5
_NO_CREDENTIALS, _USER_AND_PASSWORD = 0, 2
_SOCKS_CONNECT: Final = b"\x05\x01\x00"
_IPV4, _NAME, _IPV6 = 1, 3, 4
_LONGEST_NAME: Final = 255
_REPLIES: Final = {
    1: "it failed",
    2: "its rules don't allow it",
    3: "it can't reach that network",
    4: "it can't reach that host, or can't resolve its name",
    5: "the host refuses connections",
    6: "the connection took too long",
    7: "it doesn't support connections",
    8: "it doesn't support that kind of address",
}
"""RFC 1928, 6."""


class ProxyRefused(OSError):
    """The proxy was reached, but made no connection; the text says why."""


async def dial(host: str, port: int, protocol: Callable[[], P], tls: ssl.SSLContext | None) -> P:
    """Connect to what the name resolves to, in order; the error of the last address stands for all. Raises OSError."""
    loop = asyncio.get_running_loop()
    infos = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    failure = OSError("the name has no address")
    for address in dict.fromkeys(str(info[4][0]) for info in infos):
        try:
            _, made = await loop.create_connection(
                protocol, address, port, ssl=tls, server_hostname=host if tls is not None else None
            )
        except OSError as error:
            failure = error
        else:
            return made
    raise failure


@dataclass(frozen=True)
class Tunnel:
    """A connection through a proxy, nothing sent on it yet; ``reader`` and ``protocol`` serve until they are replaced.

    The peer speaks second on it, so no byte of it is lost with them.
    """

    transport: asyncio.Transport
    protocol: asyncio.StreamReaderProtocol
    reader: asyncio.StreamReader


class _Handshake(asyncio.StreamReaderProtocol):
    """Keeps the transport; a StreamWriter would close it at its own end."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        super().connection_made(transport)


async def open_tunnel(proxy: Proxy, host: str, port: int, tls: ssl.SSLContext | None) -> Tunnel:
    """Connect to ``host`` through ``proxy``. ``tls`` is for the way to the proxy. Raises OSError."""
    reader = asyncio.StreamReader(limit=_MAX_PROXY_HEAD)
    protocol = await dial(proxy.host, proxy.port, lambda: _Handshake(reader), tls)
    transport = protocol.transport
    try:
        if proxy.scheme == SOCKS:
            await _socks(reader, transport, proxy, host, port)
        else:
            await _connect(reader, transport, proxy, authority(host, port))
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        transport.abort()
        raise ProxyRefused("the proxy broke off before it had connected") from error
    except BaseException:
        transport.abort()
        raise
    return Tunnel(transport, protocol, reader)


def proxy_authorization(proxy: Proxy) -> str | None:
    """The value of Proxy-Authorization; None for a proxy without credentials."""
    if not (proxy.user or proxy.password):
        return None
    return f"Basic {b64encode(f'{proxy.user}:{proxy.password}'.encode()).decode()}"


async def _connect(reader: asyncio.StreamReader, transport: asyncio.Transport, proxy: Proxy, target: str) -> None:
    lines = [f"CONNECT {target} HTTP/1.1", f"host: {target}"]
    if (credentials := proxy_authorization(proxy)) is not None:
        lines.append(f"proxy-authorization: {credentials}")
    transport.write("".join(f"{line}\r\n" for line in [*lines, ""]).encode("latin-1"))
    head = await reader.readuntil(b"\r\n\r\n")
    version, _, said = head.partition(b"\r\n")[0].decode("latin-1").partition(" ")
    if not version.startswith("HTTP/1."):
        raise ProxyRefused("the proxy doesn't speak HTTP")
    if said.startswith("407"):
        raise ProxyRefused(f"the proxy asks for a user and a password (407): put them into {proxy.variable}")
    if not said.startswith("2"):
        raise ProxyRefused(f"the proxy answered {said.strip()[:100]} to CONNECT {target}")


async def _socks(
    reader: asyncio.StreamReader, transport: asyncio.Transport, proxy: Proxy, host: str, port: int
) -> None:
    methods = [_NO_CREDENTIALS, *([_USER_AND_PASSWORD] if proxy.user or proxy.password else [])]
    transport.write(bytes([_SOCKS_VERSION, len(methods), *methods]))
    version, method = await reader.readexactly(2)
    if version != _SOCKS_VERSION:
        raise ProxyRefused("the proxy doesn't speak SOCKS5")
    if method not in methods:
        raise ProxyRefused(f"the proxy asks for a user and a password: put them into {proxy.variable}")
    if method == _USER_AND_PASSWORD:
        user, password = proxy.user.encode(), proxy.password.encode()
        transport.write(b"\x01" + bytes([len(user)]) + user + bytes([len(password)]) + password)
        if (await reader.readexactly(2))[1] != 0:
            raise ProxyRefused(f"the proxy refuses the user and the password in {proxy.variable}")
    transport.write(_SOCKS_CONNECT + _socks_address(host) + port.to_bytes(2, "big"))
    _, reply, _, kind = await reader.readexactly(4)
    if reply != 0:
        raise ProxyRefused(f"the proxy did not connect: {_REPLIES.get(reply, f'reply {reply}')}")
    length = (await reader.readexactly(1))[0] if kind == _NAME else {_IPV4: 4, _IPV6: 16}.get(kind, 0)
    await reader.readexactly(length + 2)


def _socks_address(host: str) -> bytes:
    match address_of(host):
        case IPv4Address() as address:
            return bytes([_IPV4]) + address.packed
        case IPv6Address() as address:
            return bytes([_IPV6]) + address.packed
        case _:
            name = host.encode("idna")[:_LONGEST_NAME]
            return bytes([_NAME, len(name)]) + name
