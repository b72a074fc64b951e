"""A raw HTTP/1.1 server for faults that no real engine shows on demand: each test scripts it byte by byte."""

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from aigw_daemon.gateway.upstream.base import Address

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\nok"


class Peer:
    """The server's end of one connection. `number` counts the server's connections from 1."""

    def __init__(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.number = number
        self.reader = reader
        self.writer = writer

    async def head(self) -> bytes:
        """The next request's head. Raises IncompleteReadError when the client leaves instead."""
        return await self.reader.readuntil(b"\r\n\r\n")

    async def request(self) -> tuple[bytes, bytes]:
        """The next request: its head and its body."""
        head = await self.head()
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        return head, await self.reader.readexactly(int(length or b"0"))

    async def send(self, *pieces: bytes) -> None:
        """Writes the pieces, waiting for the client to take them."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()

    async def answer_all(self, answer: bytes = ANSWER) -> None:
        """Answers every request alike until the client leaves."""
        while True:
            await self.request()
            await self.send(answer)

    def close(self) -> None:
        """Ends the connection in order: the client reads an end of file."""
        self.writer.close()

    def reset(self) -> None:
        """Ends the connection with a reset."""
        self.writer.transport.abort()

    async def client_left(self) -> None:
        """Returns once the client has closed its end."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(65536):
                pass


Script = Callable[[Peer], Awaitable[None]]


class UpstreamServer:
    """Runs `script` for each connection, on a free loopback port, for the length of an `async with`.

    A script that ends by the client's leaving is fine; any other exception of a script fails the test.
    """

    def __init__(self, script: Script, tls: ssl.SSLContext | None = None) -> None:
        self.accepted = 0
        self._script = script
        self._tls = tls
        self._scripts: set[asyncio.Task[None]] = set()
        self._failures: list[Exception] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._scripts:
            task.cancel()
        await asyncio.gather(*self._scripts, return_exceptions=True)
        await self._server.wait_closed()
        if self._failures and error is None:
            raise self._failures[0]

    @property
    def port(self) -> int:
        """The port it listens on."""
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def address(self) -> Address:
        """Where a client finds it; by the name `localhost` with TLS, which a certificate can be valid for."""
        return Address("localhost" if self._tls else "127.0.0.1", self.port, tls=self._tls is not None)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        self._scripts.add(task)
        try:
            await self._script(Peer(self.accepted, reader, writer))
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        except Exception as failure:  # noqa: BLE001  whatever went wrong in the script is raised at the end of the test
            self._failures.append(failure)
        finally:
            writer.transport.abort()
            self._scripts.discard(task)
