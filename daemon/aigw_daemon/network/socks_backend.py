"""Connections through a SOCKS proxy for httpcore, which httpx is built on."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpcore

from aigw_daemon.network.dialing import ProxyRefused, Tunnel, open_tunnel
from aigw_daemon.network.proxies import Proxy


class SocksBackend(httpcore.AsyncNetworkBackend):
    """Opens every connection through one proxy."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,  # noqa: ARG002  # httpcore's signature
        socket_options: Iterable[Any] | None = None,  # noqa: ARG002
    ) -> httpcore.AsyncNetworkStream:
        """See httpcore.AsyncNetworkBackend."""
        async with _translated(httpcore.ConnectTimeout, httpcore.ConnectError), asyncio.timeout(timeout):
            return _Stream(await open_tunnel(self._proxy, host, port, None))

    async def sleep(self, seconds: float) -> None:
        """See httpcore.AsyncNetworkBackend."""
        await asyncio.sleep(seconds)


class _Stream(httpcore.AsyncNetworkStream):
    """One connection. See httpcore.AsyncNetworkStream."""

    def __init__(self, tunnel: Tunnel) -> None:
        self._reader = tunnel.reader
        loop = asyncio.get_running_loop()
        self._writer = asyncio.StreamWriter(tunnel.transport, tunnel.protocol, tunnel.reader, loop)

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        async with _translated(httpcore.ReadTimeout, httpcore.ReadError), asyncio.timeout(timeout):
            return await self._reader.read(max_bytes)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        async with _translated(httpcore.WriteTimeout, httpcore.WriteError), asyncio.timeout(timeout):
            self._writer.write(buffer)
            await self._writer.drain()

    async def aclose(self) -> None:
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        async with _translated(httpcore.ConnectTimeout, httpcore.ConnectError):
            try:
                async with asyncio.timeout(timeout):
                    await self._writer.start_tls(ssl_context, server_hostname=server_hostname)
            except BaseException:
                self._writer.transport.abort()
                raise
        return self

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":
            return self._reader.at_eof()
        return self._writer.get_extra_info(info)


@asynccontextmanager
async def _translated(slow: type[Exception], broken: type[Exception]) -> AsyncIterator[None]:
    """httpcore's exceptions for those of the system."""
    try:
        yield
    except TimeoutError as error:
        raise slow(str(error)) from error
    except ProxyRefused as error:
        raise httpcore.ProxyError(str(error)) from error
    except (OSError, UnicodeError) as error:  # the second for a name that DNS can't have
        raise broken(str(error)) from error
