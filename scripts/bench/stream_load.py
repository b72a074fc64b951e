"""Opens many streams at once through a proxy and counts the events that come out. Prints one line of JSON."""

import argparse
import asyncio
import json
from typing import cast, final

import uvloop

from scripts.bench.answers import DONE, EVENT_MARK, MODEL

_BODY = json.dumps(
    {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": "Tell me about the fox."}]}
).encode()


def _request(port: int) -> bytes:
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:%d\r\ncontent-type: application/json\r\n"
        b"cache-control: no-cache\r\ncontent-length: %d\r\n\r\n%b" % (port, len(_BODY), _BODY)
    )


@final
class Stream(asyncio.Protocol):
    """One stream: counts its events, and whether it came to its end."""

    def __init__(self, request: bytes, ended: asyncio.Event) -> None:
        self.events = 0
        self.whole = False
        self._request = request
        self._ended = ended
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        # A mark may lie across two reads.
        seen = self._tail + data
        self.events += seen.count(EVENT_MARK)
        self._tail = seen[1 - len(EVENT_MARK) :]
        if DONE.strip() in seen:
            self.whole = True
            self._transport.close()

    def connection_lost(self, _exc: Exception | None) -> None:
        self._ended.set()


async def load(port: int, streams: int, timeout: float) -> dict[str, int]:
    """Runs `streams` streams at once and waits at most `timeout` seconds for their ends."""
    loop = asyncio.get_running_loop()
    ends = [asyncio.Event() for _ in range(streams)]
    running = []
    for ended in ends:
        _, stream = await loop.create_connection(lambda end=ended: Stream(_request(port), end), "127.0.0.1", port)  # type: ignore[misc]  # mypy can't infer a lambda's default
        running.append(stream)
    try:
        async with asyncio.timeout(timeout):
            for ended in ends:
                await ended.wait()
    except TimeoutError:
        # What came so far is the result; streams without an end show as lost.
        pass
    return {"events": sum(stream.events for stream in running), "whole": sum(stream.whole for stream in running)}


def main() -> None:
    """Reads the options, runs the load and prints what came."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--streams", type=int, required=True)
    parser.add_argument("--timeout", type=float, required=True, help="seconds")
    options = parser.parse_args()
    print(json.dumps(uvloop.run(load(options.port, options.streams, options.timeout))))


if __name__ == "__main__":
    main()
