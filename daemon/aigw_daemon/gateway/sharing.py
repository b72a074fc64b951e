"""The parts of an upstream call that is made for several requests: whose account it is, its clock, where it flows."""

import asyncio
from math import inf

from aigw_daemon.gateway.account import Account
from aigw_daemon.gateway.attempt import Streamed, Whole
from aigw_daemon.gateway.cache.flight import Flight
from aigw_daemon.gateway.call import Call
from aigw_daemon.gateway.plans import Hop
from aigw_daemon.gateway.server.exchange import Exchange


class Landing:
    """What is known of a shared call's answer once there is one."""

    __slots__ = ("answer", "usage_piece")

    def __init__(self, answer: Whole | Streamed) -> None:
        self.answer = answer
        self.usage_piece: bytes | None = None
        """The very piece of the stream that holds its usage frame: only for clients that asked for it."""


class SharedClock:
    """The deadline of a shared call, which no client's connection holds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._timeout: asyncio.Timeout | None = None

    @property
    def remaining(self) -> float:
        """See account.Clock."""
        when = self._timeout.when() if self._timeout is not None else None
        return inf if when is None else when - asyncio.get_running_loop().time()

    def allow(self, seconds: float) -> None:
        """See account.Clock."""
        if self._timeout is not None:
            self._timeout.reschedule(None if seconds == inf else asyncio.get_running_loop().time() + seconds)

    def running(self) -> asyncio.Timeout:
        """Holds what is inside to the deadline: TimeoutError."""
        self._timeout = asyncio.timeout(self.seconds)
        return self._timeout


class SharedAccount(Account):
    """Asks what the first of several equal requests asks, and passes on what may be told to those who wait."""

    clock: SharedClock
    shared = True

    def __init__(self, call: Call, clock: SharedClock) -> None:
        super().__init__(call.endpoint, call.body, clock)
        self.facts = call.facts
        self.model = call.model
        self.stream = call.stream
        # Its place in a line is the first one's; its deadline is not.
        self.controls = call.controls.without_timeout
        self._calls: list[Call] = []
        self._promised: tuple[Hop, str] | None = None

    def board(self, call: Call) -> None:
        """Somebody waits for it."""
        self._calls.append(call)
        if self._promised is not None:
            call.promise(*self._promised)

    def leave(self, call: Call) -> None:
        """Somebody waits for it no more."""
        self._calls.remove(call)
        call.settle()

    @property
    def committed(self) -> bool:
        """See Account."""
        return any(call.committed for call in self._calls)

    def promise(self, hop: Hop, what: str) -> None:
        """See Account."""
        self._promised = (hop, what)
        for call in self._calls:
            call.promise(hop, what)

    def retract(self) -> None:
        """See Account."""
        self._promised = None
        for call in self._calls:
            call.retract()

    def settle(self) -> None:
        """See Account."""
        self._promised = None
        for call in self._calls:
            call.settle()


class FlightSink:
    """Where the engine's stream goes: to everybody on the flight. The usage frame goes as a piece of its own."""

    def __init__(self, flight: Flight[Landing], landing: Landing, answer: Streamed) -> None:
        self._flight = flight
        self._landing = landing
        self._scan = answer.scan

    @property
    def write_paused(self) -> bool:
        """See relay.Sink."""
        return self._flight.crowded

    def write(self, data: bytes) -> None:
        """See relay.Sink."""
        frame = self._scan.usage_frame
        if frame is None or self._landing.usage_piece is not None:
            self._flight.publish(data)
            return
        before, found, after = data.partition(frame)
        if found:
            self._landing.usage_piece = found
        for piece in (before, found, after):
            if piece:
                self._flight.publish(piece)

    async def drain(self) -> None:
        """See relay.Sink."""
        await self._flight.room()


class ClientSink:
    """Where a flight's pieces go: to one client, without the usage frame if it didn't ask for it."""

    def __init__(self, exchange: Exchange, landing: Landing, *, usage: bool) -> None:
        self._exchange = exchange
        self._landing = landing
        self._usage = usage

    @property
    def write_paused(self) -> bool:
        """See flight.Sink."""
        return self._exchange.write_paused

    def write(self, data: bytes) -> None:
        """See flight.Sink."""
        if self._usage or data is not self._landing.usage_piece:
            self._exchange.write(data)

    async def drain(self) -> None:
        """See flight.Sink."""
        await self._exchange.drain()
