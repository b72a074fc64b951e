"""An engine whose every fault is scripted: each request goes to a coroutine that writes what it likes, or hangs up."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import msgspec

from tests.support.wait import eventually

CHAT_ANSWER = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"m",'
    b'"choices":[{"index":0,"message":{"role":"assistant","content":"Hi"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}'
)
HELLO = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":null}]}\n\n'
FINISH = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}\n\n'
DONE = b"data: [DONE]\n\n"
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
STREAM_END = b"0\r\n\r\n"


def whole(body: bytes = CHAT_ANSWER, status: int = 200, *lines: str) -> bytes:
    """A complete answer."""
    head = [f"HTTP/1.1 {status} X", "content-type: application/json", f"content-length: {len(body)}", *lines, "", ""]
    return "\r\n".join(head).encode() + body


def chunk(data: bytes) -> bytes:
    """One piece of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def stream(*events: bytes) -> bytes:
    """A complete stream, each event a chunk of its own."""
    return STREAM_HEAD + b"".join(chunk(event) for event in events) + STREAM_END


@dataclass
class EngineRequest:
    """What arrived."""

    head: bytes
    body: bytes
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the client's connection ended while this request was the last on it."""

    @property
    def json(self) -> dict[str, object]:
        """The body's fields."""
        return msgspec.json.decode(self.body, type=dict[str, object])


Behaviour = Callable[[EngineRequest, asyncio.StreamWriter], Awaitable[None]]


def says(answer: bytes) -> Behaviour:
    """A behaviour that sends these bytes and keeps the connection."""

    async def send(_request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)

    return send


def says_and_hangs_up(answer: bytes) -> Behaviour:
    """A behaviour that sends these bytes and closes."""

    async def send(_request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()
        writer.close()

    return send


def in_turn(*pieces: tuple[float, bytes]) -> Behaviour:
    """A behaviour that sends each piece after so many seconds."""

    async def send(_request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        for seconds, piece in pieces:
            await asyncio.sleep(seconds)
            writer.write(piece)

    return send


async def hangs(_request: EngineRequest, _writer: asyncio.StreamWriter) -> None:
    """Never say a word."""
    await asyncio.Event().wait()


async def resets(_request: EngineRequest, writer: asyncio.StreamWriter) -> None:
    """Send an RST."""
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


async def trickles(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
    """Stream without end; of an answer in one piece send the head, and no more."""
    writer.write(STREAM_HEAD if request.json.get("stream") else whole().partition(b"{")[0])
    while True:
        writer.write(chunk(HELLO) if request.json.get("stream") else b"")
        await writer.drain()
        await asyncio.sleep(0.002)


class FakeEngine:
    """Listens on a free port. ``behaviour`` may be changed at any time."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.requests: list[EngineRequest] = []
        self.port = 0
        self._handlers: set[asyncio.Task[None]] = set()

    async def request(self, number: int = 1) -> EngineRequest:
        """The ``number``-th request, as soon as it is here."""
        await eventually(lambda: len(self.requests) >= number, what=f"request {number}")
        return self.requests[number - 1]

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection; requests on it come one after the other."""
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        request: EngineRequest | None = None
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
                )
                request = EngineRequest(head, await reader.readexactly(length))
                self.requests.append(request)
                await self._behave(request, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # cancelled only by `end`, and a server's callback that ends so is reported as an error
        finally:
            if request is not None:
                request.gone.set()
            self._handlers.discard(task)
            writer.close()

    async def end(self) -> None:
        """Cancel what still runs."""
        for task in tuple(self._handlers):
            task.cancel()
        if self._handlers:
            await asyncio.wait(tuple(self._handlers))

    async def _behave(self, request: EngineRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Act, but notice when the client leaves meanwhile."""
        async with asyncio.TaskGroup() as tasks:
            acting = tasks.create_task(_act(self.behaviour, request, writer))
            leaving = tasks.create_task(_left(reader, request))
            await asyncio.wait([acting, leaving], return_when=asyncio.FIRST_COMPLETED)
            acting.cancel()
            leaving.cancel()


async def _act(behaviour: Behaviour, request: EngineRequest, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        await behaviour(request, writer)


async def _left(reader: asyncio.StreamReader, request: EngineRequest) -> None:
    while not reader.at_eof() and reader.exception() is None:  # noqa: ASYNC110  # a stream tells its end only to a read
        await asyncio.sleep(0.01)
    request.gone.set()


@contextlib.asynccontextmanager
async def fake_engine(behaviour: Behaviour) -> AsyncIterator[FakeEngine]:
    """Run one until the end of the block."""
    engine = FakeEngine(behaviour)
    server = await asyncio.start_server(engine.handle, "127.0.0.1", 0)
    engine.port = server.sockets[0].getsockname()[1]
    try:
        yield engine
    finally:
        server.close()
        await engine.end()
        await server.wait_closed()
