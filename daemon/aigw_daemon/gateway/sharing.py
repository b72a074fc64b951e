"""The parts of an upstream call that is made for several requests: whose account it is, its clock, where it flows."""

import asyncio
from math import inf
from typing import Final

from aigw_daemon.gateway.account import Account
from aigw_daemon.gateway.attempt import Streamed, Whole
from aigw_daemon.gateway.cache.flight import Flight, Rider
from aigw_daemon.gateway.call import Call
from aigw_daemon.gateway.failures import ENGINE_DIED
from aigw_daemon.gateway.plans import Hop
from aigw_daemon.gateway.server.exchange import Exchange
from aigw_daemon.gateway.wire import ApiError

_REFUSALS: Final = range(400, 500)
_LIMITED: Final = 429


class Landing:
    """What is known of a shared call's answer once there is one."""

    __slots__ = ("answer",)

    def __init__(self, answer: Whole | Streamed) -> None:
        self.answer = answer


class UsageFrame(bytes):
    """The piece of a stream that holds its usage frame: only for clients that asked for it."""

    unasked: bytes
    """What all others get in its place; may be empty."""


class SharedClock:
    """The deadline of a shared call, which no client's connection holds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._timeout: asyncio.Timeout | None = None
        self._stood = 0.0
        self._stands_since: float | None = None

    @property
    def stood(self) -> float:
        """Seconds in which it stood, so far."""
        since = self._stands_since
        return self._stood if since is None else self._stood + asyncio.get_running_loop().time() - since

    @property
    def remaining(self) -> float:
        """See account.Clock."""
        when = self._timeout.when() if self._timeout is not None else None
        return inf if when is None else when - asyncio.get_running_loop().time()

    def allow(self, seconds: float) -> None:
        """See account.Clock."""
        if self._timeout is None:
            return
        now = asyncio.get_running_loop().time()
        if seconds == inf:
            self._stands_since = now if self._stands_since is None else self._stands_since
            self._timeout.reschedule(None)
        else:
            self._stood, self._stands_since = self.stood, None
            self._timeout.reschedule(now + seconds)

    def running(self) -> asyncio.Timeout:
        """Holds what is inside to the deadline: TimeoutError."""
        self._timeout = asyncio.timeout(self.seconds)
        return self._timeout


class SharedAccount(Account):
    """Asks what the first of several equal requests asks, and passes on what may be told to those who wait."""

    clock: SharedClock
    shared = True

    def __init__(self, call: Call, clock: SharedClock) -> None:
        super().__init__(call.id, call.endpoint, call.body, clock)
        self.facts = call.facts
        self.wanted = call.wanted
        self.model = call.model
        self.stream = call.stream
        # Its place in a line is the first one's; its deadline is not, unless that one will wait for longer.
        patient = (call.controls.timeout or 0.0) > clock.seconds
        self.controls = call.controls if patient else call.controls.without_timeout
        self._leader = call
        self._calls: list[Call] = []
        self._promised: tuple[Hop, str] | None = None

    def ask(self, hop: Hop) -> None:
        """See Account: what the first one is told while it waits counts the attempts made for it."""
        super().ask(hop)
        self._leader.hop, self._leader.attempts = hop, self.attempts

    def refusal(self, call: Call, error: BaseException | None) -> ApiError | None:
        """The call's error, where it would be this one's as well: the request itself is at fault."""
        if not isinstance(error, ApiError) or error.status == _LIMITED:
            return None
        if error.status not in _REFUSALS and error.code != ENGINE_DIED:
            return None
        # Fields that don't split an answer may be what is wrong: the whole body must be the same.
        return error if call.body == self.body else None

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


class Seat:
    """One client's part in a shared call, which has a clock of its own; the client's own wish holds besides."""

    def __init__(self, call: Call, account: SharedAccount) -> None:
        self._call = call
        self._account = account
        self._since = asyncio.get_running_loop().time()
        # The shared clock's limit is the route's own, where it has one: the client's connection knows the gateway's.
        self._left = account.clock.seconds - call.elapsed
        self._stood = account.clock.stood
        call.clock.allow(inf)
        call.allow(call.controls.timeout)
        account.board(call)

    def go_alone(self) -> None:
        """The client is on its own clock again, for which the time counts in which the shared one didn't stand."""
        call, account = self._call, self._account
        if call.controls.timeout is None:
            stood = account.clock.stood - self._stood
            waited = asyncio.get_running_loop().time() - self._since - stood
            call.allowed = account.clock.seconds
            call.clock.allow(max(0.0, self._left - waited))
        # Its deadline is set: who walks on for it must not count it anew, from its arrival.
        call.decision = call.decision or account.decision

    def leave(self) -> None:
        """The client waits for the shared call no more."""
        self._account.leave(self._call)


class FlightSink:
    """Where the engine's stream goes: to everybody on the flight. The usage frame goes as a piece of its own."""

    def __init__(self, flight: Flight[Landing], answer: Streamed) -> None:
        self._flight = flight
        self._scan = answer.scan

    @property
    def write_paused(self) -> bool:
        """See relay.Sink."""
        return self._flight.crowded

    def write(self, data: bytes) -> None:
        """See relay.Sink."""
        flight, scan = self._flight, self._scan
        flight.whole = scan.finished and not scan.waiting
        if scan.frames:
            for frame in scan.frames:
                before, found, data = data.partition(frame.asked)
                if before:
                    flight.publish(before)
                piece = UsageFrame(found)
                piece.unasked = frame.unasked
                flight.publish(piece)
            scan.frames.clear()
        if data:
            flight.publish(data)

    async def drain(self) -> None:
        """See relay.Sink."""
        await self._flight.room()


class ClientSink:
    """Where a flight's pieces go: to one client, without the usage frame if it didn't ask for it."""

    def __init__(self, exchange: Exchange, rider: Rider[Landing], *, usage: bool) -> None:
        self._exchange = exchange
        self._rider = rider
        self._usage = usage

    @property
    def write_paused(self) -> bool:
        """See flight.Sink."""
        return self._exchange.write_paused

    def write(self, data: bytes) -> None:
        """See flight.Sink."""
        if not self._usage and isinstance(data, UsageFrame):
            data = data.unasked
        if data:
            self._exchange.write(data)
        if self._rider.has_whole:
            self._exchange.ending()

    async def drain(self) -> None:
        """See flight.Sink."""
        await self._exchange.drain()
