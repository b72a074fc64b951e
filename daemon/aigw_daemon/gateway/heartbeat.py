"""Signs of life on a stream that waits: comments, so that no proxy in between takes it for dead.

The first one commits the answer to 200, after which nothing can fall back any more. So it is only started for the last
candidate, and what fails then ends the stream with an error event.
"""

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Final

from aigw_daemon.gateway.server.exchange import Exchange

BEAT_SECONDS: Final = 15.0


class Heartbeat:
    """Beats every `BEAT_SECONDS` until `stop`."""

    __slots__ = ("_began", "_exchange", "_head", "_timer", "_what")

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._what = ""
        self._head: Callable[[], bytes] = bytes
        self._began = monotonic()
        self._timer = asyncio.get_running_loop().call_later(BEAT_SECONDS, self._beat)

    def say(self, what: str, head: Callable[[], bytes]) -> None:
        """What the stream waits for now, in a few words; and the answer's head, asked for when a beat commits it."""
        if what != self._what:
            self._what = what
            self._began = monotonic()
        self._head = head

    def stop(self) -> None:
        """Something else is written from now on."""
        self._timer.cancel()

    def _beat(self) -> None:
        exchange = self._exchange
        if not exchange.streaming:
            exchange.start(self._head())
        if not exchange.write_paused:
            exchange.write(b": %b, %d s\n\n" % (self._what.encode(), monotonic() - self._began))
        self._timer = asyncio.get_running_loop().call_later(BEAT_SECONDS, self._beat)
