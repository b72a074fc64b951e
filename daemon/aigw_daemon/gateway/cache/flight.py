"""Single flight: identical requests at the same time share one upstream call (rule B21).

A flight is a task of its own that asks upstream, and everybody who wants the answer is a rider, whoever came first:
one that leaves takes nobody along, and when the last one has left the task is cancelled. What arrives is handed to
each rider at once, without a turn of the event loop. A rider whose client is slow falls back to reading what the flight
still holds at its own pace; one too far behind is cut, so that what a flight holds has a bound.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final, Generic, Protocol, TypeVar

from aigw_daemon.gateway.upstream.base import UpstreamError

KEPT_BYTES: Final = 1024 * 1024
"""Up to here a flight holds all that has come, for riders who come later and for the cache."""
HELD_BYTES: Final = 64 * 1024 * 1024
"""What all flights together may hold so."""
LONGEST_LAG: Final = 4 * 1024 * 1024
"""Bytes that a rider may be behind."""
AHEAD_BYTES: Final = 256 * 1024
"""How far upstream is read ahead of the fastest rider."""
FINISH_SECONDS: Final = 1.0
"""What a flight gets for its last steps when all have left that had the whole answer: many hang up on ``[DONE]``."""
LET_GO_BYTES: Final = 64 * 1024
"""What a flight that can't be joined any more holds, before it looks at what its riders still need."""

_log = logging.getLogger(__name__)

Head = TypeVar("Head")


class GoAlone(Exception):
    """The shared call failed before it had an answer, and its error is the cause: this rider makes its own."""


class Lagged(UpstreamError):
    """A client took the stream so slowly that the rest of it is gone."""

    reason = "lagged"


class GivenUp(UpstreamError):
    """The shared call was cancelled."""

    reason = "given_up"


class Sink(Protocol):
    """Where a rider's bytes go."""

    @property
    def write_paused(self) -> bool:
        """Whether the client is behind: then `drain` comes before more is written."""
        ...

    def write(self, data: bytes) -> None:
        """Take a piece, not empty."""
        ...

    async def drain(self) -> None:
        """Wait until the client has caught up."""
        ...


class Hold:
    """What all flights hold together, in bytes: each by itself is small enough, a thousand of them may not be."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0


class Flight(Generic[Head]):
    """One upstream call. Its driver calls `begin` once, then `publish` and at last `finish`; or `fail` at any point.

    A whole answer travels in the head, with nothing published: pieces are for streams.
    """

    def __init__(self, kept_bytes: int = KEPT_BYTES, longest_lag: int = LONGEST_LAG, hold: Hold | None = None) -> None:
        self._hold = hold or Hold(kept_bytes)
        self._kept_bytes = kept_bytes
        self._longest_lag = longest_lag
        self._pieces: list[bytes] = []
        self._dropped = 0
        """Pieces before the first that is still held."""
        self._held = 0
        """Bytes of the pieces held."""
        self._riders: list[Rider[Head]] = []
        self._room: asyncio.Future[None] | None = None
        self._landing: Callable[[Flight[Head]], object] | None = None
        self.driver: asyncio.Task[None] | None = None
        """Cancelled when nobody is left."""
        self.head: Head | None = None
        self.size = 0
        """Bytes published."""
        self.whole = False
        """Whether all of the answer was published, and only its formal end is still to come."""
        self.ended = False
        self.error: Exception | None = None

    @property
    def joinable(self) -> bool:
        """Whether a rider who comes now would get all of it."""
        return self._dropped == 0 and self.error is None

    @property
    def recorded(self) -> bytes | None:
        """All that was published, while all of it is held."""
        return b"".join(self._pieces) if self._dropped == 0 else None

    @property
    def crowded(self) -> bool:
        """Whether even the fastest rider is far behind: then `room` comes before the next `publish`."""
        if not self._riders or self.ended:
            return False
        return min(0 if rider.live else rider.lag for rider in self._riders) > AHEAD_BYTES

    def board(self) -> "Rider[Head]":
        """A new rider; the first one is the leader."""
        rider = Rider(self, leader=not self._riders and self.head is None)
        self._riders.append(rider)
        return rider

    def begin(self, head: Head) -> None:
        """There is an answer, and this is what is known of it."""
        self.head = head
        self._wake()

    def publish(self, piece: bytes) -> None:
        """A piece of the answer, not empty."""
        self._pieces.append(piece)
        self._held += len(piece)
        self._hold.bytes += len(piece)
        self.size += len(piece)
        for rider in tuple(self._riders):
            rider.offer(piece)
        if self._held > (LET_GO_BYTES if self._dropped else self._kept_bytes) or self._hold.bytes > self._hold.limit:
            self._trim()

    def finish(self) -> None:
        """The answer is complete."""
        self.ended = True
        self._wake()

    def fail(self, error: Exception) -> None:
        """There will be no answer, or no more of it. Before `begin` riders other than the leader go alone."""
        if not self.ended:
            self.error = error
            self.ended = True
            self._wake()

    async def room(self) -> None:
        """Wait until some rider has caught up."""
        while self.crowded:
            self._room = asyncio.get_running_loop().create_future()
            await self._room

    def held_from(self, number: int) -> list[bytes]:
        """What is held from the piece of this number on, counted from the answer's first. Raises Lagged."""
        if number < self._dropped:
            raise Lagged(f"its client is more than {self._longest_lag} bytes behind the stream")
        return self._pieces[number - self._dropped :]

    def moved(self) -> None:
        """A rider has caught up."""
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def leave(self, rider: "Rider[Head]") -> None:
        """A rider is gone; with the last one goes the upstream call, at once unless its answer is as good as kept."""
        if rider in self._riders:
            self._riders.remove(rider)
            if self.whole and not self._riders:
                asyncio.get_running_loop().call_later(FINISH_SECONDS, self._give_up)
            else:
                self._give_up()

    def _give_up(self) -> None:
        if not self._riders and not self.ended:
            self.fail(GivenUp("nobody waits for it any more"))
            if self.driver is not None:
                self.driver.cancel()

    def landed(self) -> None:
        """Its driver has returned: what slow riders still need is theirs, and no longer counts as held for others."""
        self._hold.bytes -= self._held
        self._hold = Hold(0)
        if self._landing is not None:
            self._landing(self)

    def on_landing(self, call: "Callable[[Flight[Head]], object]") -> None:
        """Call this once nobody can join it any more."""
        self._landing = call

    def _wake(self) -> None:
        for rider in self._riders:
            rider.wake()

    def _trim(self) -> None:
        """Let go of what everybody has who isn't too far behind."""
        near = [rider.taken for rider in self._riders if rider.lag <= self._longest_lag]
        needed = min(near, default=self._dropped + len(self._pieces))
        gone = needed - self._dropped
        if gone > 0:
            freed = sum(map(len, self._pieces[:gone]))
            self._held -= freed
            self._hold.bytes -= freed
            del self._pieces[:gone]
            self._dropped = needed


class Rider(Generic[Head]):
    """One request's part in a flight. Whoever got it calls `close`."""

    def __init__(self, flight: Flight[Head], *, leader: bool) -> None:
        self._flight = flight
        self.leader = leader
        """Whether the call was begun for this one: its failure is this one's own."""
        self.taken = 0
        """Pieces."""
        self._bytes = 0
        self._sink: Sink | None = None
        self._fault: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def flight(self) -> Flight[Head]:
        """What it is on."""
        return self._flight

    @property
    def live(self) -> bool:
        """Whether it takes each piece as it comes."""
        return self._sink is not None

    @property
    def lag(self) -> int:
        """Bytes that were published and that it hasn't taken."""
        return self._flight.size - self._bytes

    @property
    def has_whole(self) -> bool:
        """Whether it has taken all of an answer of which only the formal end is still to come."""
        return self._flight.whole and self._flight.size == self._bytes

    async def begun(self) -> Head:
        """Wait for the answer's head, as long as the call takes: it has a deadline of its own.

        Raises the call's error to the leader, GoAlone from it to others.
        """
        flight = self._flight
        while flight.head is None and flight.error is None:
            await self._wait()
        if flight.head is not None:
            return flight.head
        if self.leader and flight.error is not None:
            raise flight.error
        raise GoAlone("the shared call failed") from flight.error

    async def relay(self, sink: Sink) -> None:
        """Pass on everything from the answer's first byte to its end.

        Raises Lagged, or the call's error where it ends in the middle; what `sink` raises is this rider's alone.
        """
        flight = self._flight
        while True:
            for piece in flight.held_from(self.taken):
                self._count(piece)
                sink.write(piece)
                if sink.write_paused:
                    flight.moved()
                    await sink.drain()
                    break
            else:
                if flight.ended:
                    break
                await self._live(sink)
        if flight.error is not None:
            raise flight.error

    def offer(self, piece: bytes) -> None:
        """A piece has come: write it on, unless the client is behind."""
        sink = self._sink
        if sink is None:
            return
        self._count(piece)
        try:
            sink.write(piece)
            paused = sink.write_paused
        except Exception as error:  # noqa: BLE001  one rider's failure is told to it, and to nobody else
            self._fault = error
            paused = True
        if paused:
            self._sink = None
            self.wake()

    def wake(self) -> None:
        """Something has changed that it may wait for."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def close(self) -> None:
        """It wants no more of the answer."""
        self._sink = None
        self._flight.leave(self)

    async def _live(self, sink: Sink) -> None:
        """Let `offer` do the work until the end, or until the client is behind."""
        self._sink = sink
        self._flight.moved()
        try:
            while self._sink is not None and not self._flight.ended:
                await self._wait()
        finally:
            self._sink = None
        if self._fault is not None:
            raise self._fault
        if sink.write_paused:
            await sink.drain()

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    def _count(self, piece: bytes) -> None:
        self.taken += 1
        self._bytes += len(piece)


Drive = Callable[[Flight[Head]], Coroutine[Any, Any, None]]
"""Asks upstream and tells the flight."""


class Flights(Generic[Head]):
    """The flights that can be joined. ``spawn`` starts a task that somebody owns: a TaskGroup's ``create_task``.

    ``held_bytes`` is what all of them may hold for riders who come later and for the cache; past that they let go.
    """

    def __init__(
        self, spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]], held_bytes: int = HELD_BYTES
    ) -> None:
        self._spawn = spawn
        self._hold = Hold(held_bytes)
        self._flights: dict[tuple[bytes, bool], Flight[Head]] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def join(self, key: bytes, *, stream: bool) -> Rider[Head] | None:
        """A place in a flight for the same answer in the same form, if there is one."""
        flight = self._flights.get((key, stream))
        return flight.board() if flight is not None and flight.joinable else None

    def lead(self, key: bytes, drive: Drive[Head], *, stream: bool, kept_bytes: int = KEPT_BYTES) -> Rider[Head]:
        """The leader's place in a new flight, which ``drive`` makes in a task of its own.

        What ``drive`` raises fails the flight. It can be joined until ``drive`` returns: an answer that it puts into
        the cache after `Flight.finish` can be had at any moment from the one or from the other.
        """
        flight: Flight[Head] = Flight(kept_bytes, hold=self._hold)
        rider = flight.board()
        self._flights[key, stream] = flight
        flight.driver = self._spawn(_fly(flight, drive))
        # Not in the task: one that is cancelled before its first step never runs.
        flight.driver.add_done_callback(lambda _: self._landed((key, stream), flight))
        return rider

    def _landed(self, name: tuple[bytes, bool], flight: Flight[Head]) -> None:
        flight.fail(GivenUp("its driver ended before the answer did"))
        if self._flights.get(name) is flight:
            del self._flights[name]
        flight.landed()


async def _fly(flight: Flight[Head], drive: Drive[Head]) -> None:
    try:
        await drive(flight)
    except Exception as error:  # noqa: BLE001  it belongs to the riders; raised here it would end every flight
        if flight.ended:
            _log.exception("what was to be done after a shared answer failed")
        flight.fail(error)
