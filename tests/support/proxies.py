"""Real proxies on loopback, for URLs whose host no resolver knows: every name leads to a server of the test's own."""

import asyncio
import contextlib
import ssl
from base64 import b64encode
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

USER, PASSWORD = "ada", "s3cret: @/"
CREDENTIALS = "ada:s3cret%3A%20%40%2F"


@dataclass
class TestProxy:
    """An HTTP proxy or a SOCKS5 proxy. ``answer``: what it says to each request instead of passing it on."""

    __test__ = False

    kind: str
    """http or socks5."""
    target: int
    """The loopback port that every name leads to."""
    credentials: bool = False
    """Whether it asks for `USER` and `PASSWORD`."""
    tls: ssl.SSLContext | None = None
    answer: bytes | None = None
    seen: list[str] = field(default_factory=list)
    """Each request: its method, and where it wants to go."""
    port: int = 0

    async def __aenter__(self) -> Self:
        self._tasks: set[asyncio.Task[None]] = set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await (self._socks(reader, writer) if self.kind == "socks5" else self._http(reader, writer))
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        line, _, rest = head.partition(b"\r\n")
        method, target, _ = line.decode().split(" ")
        self.seen.append(f"{method} {target}")
        wanted = b"proxy-authorization: Basic " + b64encode(f"{USER}:{PASSWORD}".encode())
        if self.answer is not None:
            writer.write(self.answer)
            await writer.drain()
        elif self.credentials and wanted.lower() not in head.lower():
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n")
            await writer.drain()
        elif method == "CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await self._join(reader, writer, b"")
        else:
            path = "/" + target.split("/", 3)[3]
            await self._join(reader, writer, f"{method} {path} HTTP/1.1\r\n".encode() + rest)

    async def _socks(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.answer is not None:
            writer.write(self.answer)
            return
        _, count = await reader.readexactly(2)
        offered = await reader.readexactly(count)
        method = 2 if self.credentials else 0
        if method not in offered:
            writer.write(b"\x05\xff")
            return
        writer.write(bytes([5, method]))
        if self.credentials:
            _, length = await reader.readexactly(2)
            user = await reader.readexactly(length)
            password = await reader.readexactly((await reader.readexactly(1))[0])
            right = (user.decode(), password.decode()) == (USER, PASSWORD)
            writer.write(b"\x01\x00" if right else b"\x01\x01")
            if not right:
                return
        _, _, _, kind = await reader.readexactly(4)
        assert kind == 3, "names are resolved by the proxy"
        name = await reader.readexactly((await reader.readexactly(1))[0])
        port = int.from_bytes(await reader.readexactly(2), "big")
        self.seen.append(f"SOCKS {name.decode()}:{port}")
        # The bound address is a name, which few proxies send: its length is its own.
        writer.write(b"\x05\x00\x00\x03\x05proxy\x00\x50")
        await self._join(reader, writer, b"")

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, first: bytes) -> None:
        """Pass bytes on, both ways, until either side has ended."""
        there, back = await asyncio.open_connection("127.0.0.1", self.target)
        try:
            back.write(first)
            async with asyncio.TaskGroup() as ways:
                ways.create_task(_pump(reader, back))
                ways.create_task(_pump(there, writer))
        finally:
            back.transport.abort()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    sink.close()
