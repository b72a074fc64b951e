"""Requests over new connections, many at a time, while something is broken; and what became of each."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from tests.support.gateway import data_of, parse_answer, post, unchunked
from tests.support.wait import eventually

CONNECTIONS = 32
ANSWER_SECONDS = 20.0
CHAT = b'{"model":"fast","messages":[{"role":"user","content":"hi"}]}'
STREAM = b'{"model":"fast","stream":true,"messages":[{"role":"user","content":"hi"}]}'


@dataclass(frozen=True)
class Fault:
    """A request that wasn't answered with 200. Times in monotonic seconds."""

    began: float
    what: str


@dataclass
class Load:
    """Runs until it is told to stop."""

    port: int
    answered: int = 0
    last_begun: float = 0.0
    """The latest moment at which a request began that was answered."""
    faults: list[Fault] = field(default_factory=list)
    over: bool = False

    async def keep_asking(self) -> None:
        """One after the other, each on a connection of its own."""
        while not self.over:
            began = time.monotonic()
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    status, body = await ask_once(self.port, CHAT)
            except (OSError, TimeoutError) as error:
                self.faults.append(Fault(began, repr(error)))
                await asyncio.sleep(0.01)  # a refused port must not make this loop hot
            else:
                self._count(began, status, body)

    async def more(self, count: int = 200) -> None:
        """Wait until as many more have been answered."""
        goal = self.answered + count
        await eventually(lambda: self.answered >= goal, seconds=30, what=f"{count} more answers")

    def _count(self, began: float, status: int, body: bytes) -> None:
        if status == 200:
            self.answered += 1
            self.last_begun = max(self.last_begun, began)
        else:
            self.faults.append(Fault(began, f"{status} {body[:200]!r}"))


@contextlib.asynccontextmanager
async def under_load(port: int, connections: int = CONNECTIONS) -> AsyncIterator[Load]:
    """Keep asking over so many connections at once for as long as the context lasts; then wait for the last."""
    load = Load(port)
    async with asyncio.TaskGroup() as tasks:
        for _ in range(connections):
            tasks.create_task(load.keep_asking())
        try:
            yield load
        finally:
            load.over = True


async def ask_once(port: int, body: bytes) -> tuple[int, bytes]:
    """Status and body of one answer; status 0 when the connection ended without one. Raises OSError."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(post(body))
        received = await reader.read()
    finally:
        writer.close()
    status, _, rest = parse_answer(received)
    return status, rest


class RunningStream:
    """A stream that is being read."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._received = b""

    async def first_piece(self) -> None:
        """Wait until it runs."""
        while b"data: " not in self._received:
            piece = await self._reader.read(65536)
            assert piece, f"the stream ended before its first event: {self._received!r}"
            self._received += piece

    async def events(self) -> list[bytes]:
        """All its events, once it is over; cut ones included."""
        with contextlib.suppress(ConnectionError):
            self._received += await self._reader.read()
        _, _, body = parse_answer(self._received)
        with contextlib.suppress(ValueError):
            body = unchunked(body)
        return data_of(body)


@contextlib.asynccontextmanager
async def streaming(port: int, body: bytes = STREAM) -> AsyncIterator[RunningStream]:
    """A stream that has begun."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(post(body))
        stream = RunningStream(reader, writer)
        await stream.first_piece()
        yield stream
    finally:
        writer.close()
