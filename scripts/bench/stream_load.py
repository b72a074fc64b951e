"""Opens many streams at once through a proxy and counts the events that come out. Prints one line of JSON.

With `--hold` the line comes as soon as every stream has its first event, and the streams stay open until standard
input ends.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Callable, Iterable
from typing import cast, final

import uvloop

from scripts.bench.answers import DONE, EVENT_MARK, MODEL

_END_MARK = DONE.strip()


def _request(port: int, events: int, headers: Iterable[str]) -> bytes:
    messages = [{"role": "user", "content": "Tell me about the fox."}]
    body = json.dumps({"model": MODEL, "stream": True, "max_tokens": events, "messages": messages}).encode()
    own = "".join(f"{header}\r\n" for header in headers).encode()
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:%d\r\ncontent-type: application/json\r\n"
        b"%bcontent-length: %d\r\n\r\n%b" % (port, own, len(body), body)
    )


@final
class Stream(asyncio.Protocol):
    """One stream: counts its events, and whether it came to its end. Both are told by futures."""

    def __init__(self, request: bytes) -> None:
        loop = asyncio.get_running_loop()
        self.events = 0
        self.whole = False
        self.began: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self._request = request
        self._tail = b""
        self._end = b""

    @property
    def open(self) -> bool:
        """Whether it has begun, and goes on."""
        return self.events > 0 and not self.ended.done()

    def close(self) -> None:
        """Leaves, whatever may still come."""
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        # A mark may lie across two reads. What is kept is shorter than the mark, so that none counts twice.
        seen = self._tail + data
        self.events += seen.count(EVENT_MARK)
        self._tail = seen[1 - len(EVENT_MARK) :]
        read = self._end + data
        self._end = read[1 - len(_END_MARK) :]
        if self.events and not self.began.done():
            self.began.set_result(None)
        if _END_MARK in read:
            self.whole = True
            self._transport.close()

    def connection_lost(self, _exc: Exception | None) -> None:
        for told in (self.began, self.ended):
            if not told.done():
                told.set_result(None)


Moment = Callable[[Stream], "asyncio.Future[None]"]


async def load(options: argparse.Namespace) -> None:
    """Runs the streams at once. Those that take longer than the options allow count as they are then."""
    loop = asyncio.get_running_loop()
    request = _request(options.port, options.events, options.header)
    running = []
    for _ in range(options.streams):
        _, stream = await loop.create_connection(lambda: Stream(request), "127.0.0.1", options.port)
        running.append(stream)
    if not options.hold:
        await _wait(running, lambda stream: stream.ended, options.timeout)
        _tell(events=sum(stream.events for stream in running), whole=sum(stream.whole for stream in running))
        return
    await _wait(running, lambda stream: stream.began, options.timeout)
    _tell(open=sum(stream.open for stream in running))
    await asyncio.to_thread(sys.stdin.read)
    for stream in running:
        stream.close()


async def _wait(streams: list[Stream], moment: Moment, timeout: float) -> None:
    await asyncio.wait([moment(stream) for stream in streams], timeout=timeout)


def _tell(**counts: int) -> None:
    print(json.dumps(counts), flush=True)


def main() -> None:
    """Reads the options, runs the load and prints what came."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--streams", type=int, required=True)
    parser.add_argument("--events", type=int, required=True, help="events that each stream asks for")
    parser.add_argument("--timeout", type=float, required=True, help="seconds")
    parser.add_argument("--header", action="append", default=[], help="NAME: VALUE, sent with each; can be repeated")
    parser.add_argument("--hold", action="store_true", help="keep the streams open until standard input ends")
    uvloop.run(load(parser.parse_args()))


if __name__ == "__main__":
    main()
