"""The gateway's own HTTP client: keeps connections to engines and lends them out, one exchange each.

It never limits how many are in use (admission does) and never queues: a request takes the connection that was idle for
the shortest time, or makes a new one.
"""

import asyncio
import socket
import ssl
from time import monotonic

from aigw_daemon.gateway.upstream.base import Address, ConnectFailed, Response
from aigw_daemon.gateway.upstream.connection import Connection, StaleConnection


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
                connection = await self._try_each_host(address)
        except (OSError, UnicodeError) as error:
            raise self._connect_failed(address, error) from error
        if connection.closed:
            raise ConnectFailed(f"{address.authority} closed the connection as soon as it was made", "unreachable")
        self._open.add(connection)
        return connection

    async def _try_each_host(self, address: Address) -> Connection:
        """Dials what the name resolves to, in order; the error of the last one stands for all."""
        loop = asyncio.get_running_loop()
        infos = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        failure = OSError("the name has no address")
        for host in dict.fromkeys(str(info[4][0]) for info in infos):
            try:
                return await self._dial(host, address)
            except OSError as error:
                failure = error
        raise failure

    async def _dial(self, host: str, address: Address) -> Connection:
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: Connection(address, self._keep, self._forget),
            host,
            address.port,
            ssl=self._tls() if address.tls else None,
            server_hostname=address.host if address.tls else None,
        )
        return connection

    def _tls(self) -> ssl.SSLContext:
        # Made at first use: reading the system's certificates takes milliseconds that a local gateway never needs.
        if self._tls_context is None:
            self._tls_context = ssl.create_default_context()
        return self._tls_context

    def _connect_failed(self, address: Address, error: Exception) -> ConnectFailed:
        where = f"cannot connect to {address.authority}"
        match error:
            case TimeoutError():
                return ConnectFailed(f"{where}: no answer within {self._connect_timeout:g} s", "connect_timeout")
            case ConnectionRefusedError():
                return ConnectFailed(f"{where}: connection refused, nothing listens there", "refused")
            case ssl.SSLError():
                return ConnectFailed(f"{where}: TLS failed: {error}", "tls")
            case _:
                return ConnectFailed(f"{where}: {error}", "unreachable")
