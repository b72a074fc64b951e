"""An OpenAI-compatible upstream that answers at once, so that what a test measures is the gateway."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from tests.support.fake_engine import CHAT_ANSWER, DONE, FINISH, HELLO, STREAM_END, STREAM_HEAD, chunk, whole

MODELS = b'{"object":"list","data":[{"id":"fast","object":"model","created":1,"owned_by":"test"}]}'
EVENT_SECONDS = 0.05


class FastUpstream:
    """Answers chat completions; a stream has ``events`` pieces, one in 50 ms."""

    def __init__(self) -> None:
        self.port = 0
        self.events = 40
        self.answered = 0
        self.streaming = 0
        """Streams that run now."""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0] or b"0")
                body = await reader.readexactly(length)
                if head.startswith(b"get "):
                    writer.write(whole(MODELS))
                elif b'"stream":true' in body.replace(b" ", b""):
                    await self._stream(writer)
                else:
                    writer.write(whole(CHAT_ANSWER))
                self.answered += 1
                await writer.drain()
        writer.close()

    async def _stream(self, writer: asyncio.StreamWriter) -> None:
        self.streaming += 1
        try:
            writer.write(STREAM_HEAD)
            for _ in range(self.events):
                writer.write(chunk(HELLO))
                await writer.drain()
                await asyncio.sleep(EVENT_SECONDS)
            writer.write(chunk(FINISH) + chunk(DONE) + STREAM_END)
        finally:
            self.streaming -= 1


@contextlib.asynccontextmanager
async def fast_upstream() -> AsyncIterator[FastUpstream]:
    """Serve on a free port for as long as the context lasts."""
    upstream = FastUpstream()
    server = await asyncio.start_server(upstream.handle, "127.0.0.1", 0)
    upstream.port = server.sockets[0].getsockname()[1]
    try:
        yield upstream
    finally:
        server.close()
