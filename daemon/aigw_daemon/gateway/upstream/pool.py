"""The gateway's own HTTP client: keeps connections to engines and lends them out, one exchange each.

It never limits how many are in use (admission does) and never queues: a request takes the connection that was idle for
the shortest time, or makes a new one.
"""

import asyncio
import os
import socket
import ssl
from time import monotonic

from aigw_daemon.gateway.upstream.base import Address, ConnectFailed, Response
from aigw_daemon.gateway.upstream.connection import Connection, StaleConnection
from aigw_daemon.network.dialing import ProxyRefused, dial, open_tunnel
from aigw_daemon.network.failures import unresolved
from aigw_daemon.network.problems import BadEnvironment
from aigw_daemon.network.trust import tls_context, trust_store


class PooledClient:
    """An `Upstream` over kept-alive HTTP/1.1 connections. Times are in seconds.

    Engines close idle connections after about 5 s, so `idle_lifetime` stays below that.
    """

    def __init__(
        self,
        *,
        connect_timeout: float = 5.0,
        idle_lifetime: float = 4.0,
        max_idle_per_address: int = 512,
        tls_context: ssl.SSLContext | None = None,
    ) -> None:
        self._connect_timeout = connect_timeout
        self._idle_lifetime = idle_lifetime
        self._max_idle = max_idle_per_address
        self._tls_context = tls_context
        self._idle: dict[Address, list[Connection]] = {}
        self._open: set[Connection] = set()
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._all_gone: asyncio.Future[None] | None = None

    async def request(self, address: Address, head: bytes, body: bytes) -> Response:
        """See `Upstream.request`. A kept connection that turns out dead is replaced once, unseen by the caller."""
        connection, stale = self._take_idle(address), False
        while True:
            if connection is None:
                try:
                    connection = await self._connect(address)
                except ConnectFailed as error:
                    error.after_stale = stale
                    raise
            response = connection.send(head, body)
            try:
                # All in this one coroutine: each further one is paid by every request.
                if connection.uploading:
                    await connection.upload(response, body)
                while not response.status:
                    response.raise_error()
                    await response.news()
            except StaleConnection:
                # The other side closed it while the request was on its way: not a failure of the upstream.
                connection, stale = None, True
            except BaseException:
                response.close()
                raise
            else:
                return response

    def idle(self, address: Address) -> int:
        """How many connections to `address` are kept for the next request."""
        return len(self._idle.get(address, ()))

    async def aclose(self) -> None:
        """Closes every connection, those in use too, and returns when they are gone."""
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
            self._sweep_timer = None
        for connection in tuple(self._open):
            connection.abort()
        if self._open:
            self._all_gone = asyncio.get_running_loop().create_future()
            await self._all_gone

    def _take_idle(self, address: Address) -> Connection | None:
        kept = self._idle.get(address)
        while kept:
            connection = kept.pop()
            if not connection.closed and not self._expired(connection):
                return connection
            connection.abort()
        return None

    def _keep(self, connection: Connection) -> None:
        kept = self._idle.get(connection.address)
        if kept is None:
            kept = self._idle[connection.address] = []
        if len(kept) >= self._max_idle:
            connection.abort()
            return
        connection.idle_since = monotonic()
        kept.append(connection)
        if self._sweep_timer is None:
            self._sweep_timer = asyncio.get_running_loop().call_later(self._idle_lifetime, self._sweep)

    def _forget(self, connection: Connection) -> None:
        self._open.discard(connection)
        kept = self._idle.get(connection.address)
        if kept and connection in kept:
            kept.remove(connection)
        if not self._open and self._all_gone is not None and not self._all_gone.done():
            self._all_gone.set_result(None)

    def _sweep(self) -> None:
        """Closes what was idle for too long, also where no request comes any more."""
        self._sweep_timer = None
        for address, kept in tuple(self._idle.items()):
            for connection in tuple(kept):
                if self._expired(connection):
                    kept.remove(connection)
                    connection.abort()
            if not kept:
                del self._idle[address]
        if self._idle:
            self._sweep_timer = asyncio.get_running_loop().call_later(self._idle_lifetime, self._sweep)

    def _expired(self, connection: Connection) -> bool:
        return monotonic() - connection.idle_since >= self._idle_lifetime

    async def _connect(self, address: Address) -> Connection:
        try:
            async with asyncio.timeout(self._connect_timeout):
                connection = await self._dial(address)
        except (OSError, UnicodeError, BadEnvironment) as error:
            raise self._connect_failed(address, error) from error
        if connection.closed:
            raise ConnectFailed(f"{address.authority} closed the connection as soon as it was made", "unreachable")
        self._open.add(connection)
        return connection

    async def _dial(self, address: Address) -> Connection:
        proxy = address.egress.proxy
        if proxy is not None and not address.is_forwarded:
            tunnel = await open_tunnel(proxy, address.host, address.port, self._tls_of(proxy.scheme, address))
            return await self._inside(tunnel.transport, address)
        scheme, host, port = (
            ("https" if address.tls else "http", address.host, address.port)
            if proxy is None
            else (proxy.scheme, proxy.host, proxy.port)
        )
        return await dial(host, port, lambda: self._connection(address), self._tls_of(scheme, address))

    async def _inside(self, tunnel: asyncio.Transport, address: Address) -> Connection:
        """Our own connection in place of the protocol that made the tunnel."""
        connection, context = self._connection(address), self._tls_of("https" if address.tls else "http", address)
        if context is None:
            tunnel.set_protocol(connection)
            connection.connection_made(tunnel)
            return connection
        try:
            loop = asyncio.get_running_loop()
            secured = await loop.start_tls(tunnel, connection, context, server_hostname=address.host)
        except BaseException:
            tunnel.abort()
            raise
        if secured is None:
            raise ConnectionAbortedError("the connection was closed during the TLS handshake")
        connection.connection_made(secured)
        return connection

    def _connection(self, address: Address) -> Connection:
        return Connection(address, self._keep, self._forget)

    def _tls_of(self, scheme: str, address: Address) -> ssl.SSLContext | None:
        """None for a scheme without TLS."""
        if scheme != "https":
            return None
        # At first use: reading certificates takes milliseconds that a local gateway never needs.
        return self._tls_context or tls_context(address.egress.trust or trust_store(os.environ))

    def _connect_failed(self, address: Address, error: Exception) -> ConnectFailed:
        proxy = address.egress.proxy
        where = f"cannot connect to {address.authority}"
        if proxy is not None:
            where += f" through {proxy}"
        match error:
            case TimeoutError():
                return ConnectFailed(f"{where}: no answer within {self._connect_timeout:g} s", "connect_timeout")
            case ProxyRefused():
                return ConnectFailed(f"{where}: {error}", "proxy")
            case socket.gaierror() | UnicodeError():  # the second for a name that DNS can't have
                name = address.host if proxy is None else proxy.host
                return ConnectFailed(f"{where}: {unresolved(name, error)}", "unresolved")
            case ConnectionRefusedError():
                nobody = "nothing listens there" if proxy is None else "the proxy doesn't listen"
                return ConnectFailed(f"{where}: connection refused, {nobody}", "refused")
            case ssl.SSLError():
                return ConnectFailed(f"{where}: TLS failed: {error}", "tls")
            case _:
                return ConnectFailed(f"{where}: {error}", "unreachable")
