"""The fixed upstream of the stream benchmarks: each stream gets as many events as `max_tokens` asks for.

They come at one rate, spread evenly over time and streams. A plain asyncio.Protocol on uvloop, so that it costs far
less than any proxy before it.
"""

import argparse
import asyncio
import re
from typing import cast, final

import uvloop

from scripts.bench.answers import (
    ANSWER,
    DONE,
    EVENT,
    LAST_EVENT,
    MODELS,
    USAGE_EVENT,
)

# Streams take turns, so that their events don't reach the proxy all at the same moment.
_TURNS = 10
_BACKLOG = 2048
_ASKED = re.compile(rb'"max_tokens":\s*(\d+)')
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _json(text: str) -> bytes:
    body = text.encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


_EVENT_CHUNK = _chunk(EVENT)


@final
class Pacer:
    """Sends the next event to each stream when its turn has come."""

    def __init__(self, loop: asyncio.AbstractEventLoop, events_per_second: float) -> None:
        self._loop = loop
        self._step = 1 / (events_per_second * _TURNS)
        self._turns: list[set[Conversation]] = [set() for _ in range(_TURNS)]
        self._joined = 0
        self._next = loop.time()
        self._tick(0)

    def join(self, conversation: "Conversation") -> set["Conversation"]:
        """Adds a stream to the turn that has the fewest; gives back that turn's streams."""
        turn = self._turns[self._joined % _TURNS]
        self._joined += 1
        turn.add(conversation)
        return turn

    def _tick(self, number: int) -> None:
        for conversation in tuple(self._turns[number]):
            conversation.send_event()
        self._next += self._step
        self._loop.call_at(self._next, self._tick, (number + 1) % _TURNS)


@final
class Conversation(asyncio.Protocol):
    """One connection: answers requests one after the other."""

    def __init__(self, pacer: Pacer) -> None:
        self._pacer = pacer
        self._received = b""
        self._turn: set[Conversation] = set()
        self._left = 0
        self._usage = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, _exc: Exception | None) -> None:
        self._turn.discard(self)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or b"0")
        if len(body) >= length:
            self._received = body[length:]
            self._answer(head, body[:length])

    def send_event(self) -> None:
        """Writes one event, and after the last one the end of the stream."""
        if self._left:
            self._left -= 1
            self._transport.write(_EVENT_CHUNK)
            return
        self._turn.discard(self)
        self._transport.write(_chunk(LAST_EVENT + self._usage) + _chunk(DONE) + b"0\r\n\r\n")

    def _answer(self, head: bytes, body: bytes) -> None:
        if b'"stream":true' in body.replace(b" ", b""):
            self._usage = USAGE_EVENT if b"include_usage" in body else b""
            asked = _ASKED.search(body)
            # The first event comes with the head, so that a stream that rests afterwards has begun.
            self._left = int(asked[1]) - 1 if asked else 0
            self._transport.write(_STREAM_HEAD + _EVENT_CHUNK)
            self._turn = self._pacer.join(self)
        elif head.startswith(b"GET /v1/models"):
            self._transport.write(_json(MODELS))
        else:
            self._transport.write(_json(ANSWER))


async def serve(port: int, events_per_second: float) -> None:
    """Answers on loopback until the process ends; so many events per second in each stream."""
    loop = asyncio.get_running_loop()
    pacer = Pacer(loop, events_per_second)
    server = await loop.create_server(lambda: Conversation(pacer), "127.0.0.1", port, backlog=_BACKLOG)
    await server.serve_forever()


def main() -> None:
    """Reads the options and serves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--events-per-second", type=float, required=True, help="in each stream")
    options = parser.parse_args()
    uvloop.run(serve(options.port, options.events_per_second))


if __name__ == "__main__":
    main()
