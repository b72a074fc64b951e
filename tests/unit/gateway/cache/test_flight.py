"""Many requests, one upstream call: nobody's leaving, slowness or failure is another one's."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager

import pytest

from aigw_daemon.gateway.cache.flight import (
    AHEAD_BYTES,
    KEPT_BYTES,
    LONGEST_LAG,
    Flight,
    Flights,
    GivenUp,
    GoAlone,
    Lagged,
    Rider,
)
from aigw_daemon.gateway.upstream.base import Truncated
from tests.support.fake_clock import settle

KEY = b"k" * 32


class Client:
    """A sink that takes everything, until a test makes it slow or break."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.write_paused = False
        self.broken = False
        self._caught_up = asyncio.Event()

    def write(self, data: bytes) -> None:
        if self.broken:
            raise BrokenPipeError("gone")
        self.taken.append(data)

    async def drain(self) -> None:
        await self._caught_up.wait()
        self._caught_up.clear()

    def catch_up(self, *, paused: bool = False) -> None:
        """Take what was written; ``paused``: and be slow again after the next piece."""
        self.write_paused = paused
        self._caught_up.set()

    @property
    def bytes(self) -> bytes:
        return b"".join(self.taken)


class Upstream:
    """Counts the calls, and lets a test drive each flight by hand."""

    def __init__(self) -> None:
        self.flights: list[Flight[str]] = []
        self.cancelled = 0
        self._over = asyncio.Event()

    async def drive(self, flight: Flight[str]) -> None:
        self.flights.append(flight)
        try:
            await self._over.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    def land(self) -> None:
        self._over.set()


@asynccontextmanager
async def flying() -> AsyncIterator[tuple[Flights[str], Upstream]]:
    upstream = Upstream()
    async with asyncio.TaskGroup() as tasks:
        yield Flights(tasks.create_task), upstream
        upstream.land()


def board(flights: Flights[str], upstream: Upstream, *, stream: bool = True) -> Rider[str]:
    return flights.join(KEY, stream=stream) or flights.lead(KEY, upstream.drive, stream=stream)


async def ride(rider: Rider[str], client: Client) -> str:
    try:
        head = await rider.begun()
        await rider.relay(client)
        return head
    finally:
        rider.close()


async def test_a_hundred_equal_requests_make_one_call_and_all_get_its_answer() -> None:
    async with flying() as (flights, upstream), asyncio.TaskGroup() as tasks:
        clients = [Client() for _ in range(100)]
        rides = [tasks.create_task(ride(board(flights, upstream), client)) for client in clients]
        await settle()
        [flight] = upstream.flights
        flight.begin("head")
        for piece in (b"one ", b"two ", b"three"):
            flight.publish(piece)
            await settle()
        flight.finish()

    assert {task.result() for task in rides} == {"head"}
    assert {client.bytes for client in clients} == {b"one two three"}


async def test_followers_get_events_as_they_come_and_late_ones_from_the_beginning() -> None:
    async with flying() as (flights, upstream), asyncio.TaskGroup() as tasks:
        first, late = Client(), Client()
        tasks.create_task(ride(board(flights, upstream), first))
        await settle()
        flight = upstream.flights[0]
        flight.begin("head")
        flight.publish(b"one ")
        await settle()
        assert first.bytes == b"one "
        tasks.create_task(ride(board(flights, upstream), late))
        await settle()
        assert late.bytes == b"one "
        flight.publish(b"two")
        # Without a turn of the loop: each event reaches everybody in the call that brings it.
        assert (first.bytes, late.bytes) == (b"one two", b"one two")
        flight.finish()


async def test_a_leader_who_leaves_takes_nobody_along() -> None:
    async with flying() as (flights, upstream), asyncio.TaskGroup() as tasks:
        client = Client()
        leader = tasks.create_task(ride(board(flights, upstream), Client()))
        follower = tasks.create_task(ride(board(flights, upstream), client))
        await settle()
        leader.cancel()
        await settle()
        flight = upstream.flights[0]
        flight.begin("head")
        flight.publish(b"answer")
        flight.finish()

    assert upstream.cancelled == 0
    assert (follower.result(), client.bytes) == ("head", b"answer")


async def test_when_the_last_one_has_left_the_call_ends_and_another_one_begins_anew() -> None:
    async with flying() as (flights, upstream), asyncio.TaskGroup() as tasks:
        rides = [tasks.create_task(ride(board(flights, upstream), Client())) for _ in range(3)]
        await settle()
        for task in rides:
            task.cancel()
        await settle()
        assert (upstream.cancelled, len(flights)) == (1, 0)

        again = tasks.create_task(ride(board(flights, upstream), Client()))
        await settle()
        upstream.flights[1].begin("again")
        upstream.flights[1].finish()

    assert again.result() == "again"


async def test_a_call_that_never_began_is_forgotten_with_its_leader() -> None:
    async with flying() as (flights, upstream):
        flights.lead(KEY, upstream.drive, stream=True).close()

        assert flights.join(KEY, stream=True) is None
        await settle()
        assert (upstream.flights, len(flights)) == ([], 0)


async def test_a_failure_before_the_answer_is_the_leaders_own_and_the_others_go_alone() -> None:
    async with flying() as (flights, upstream):
        leader, follower = board(flights, upstream), board(flights, upstream)
        await settle()
        upstream.flights[0].fail(Truncated("cut"))

        with pytest.raises(Truncated, match="cut"):
            await leader.begun()
        with pytest.raises(GoAlone, match="failed"):
            await follower.begun()
        assert flights.join(KEY, stream=True) is None


async def test_a_failure_in_the_middle_reaches_everybody_after_what_came() -> None:
    async with flying() as (flights, upstream), asyncio.TaskGroup() as tasks:
        clients = [Client(), Client()]
        rides = [tasks.create_task(failing(ride(board(flights, upstream), client))) for client in clients]
        await settle()
        flight = upstream.flights[0]
        flight.begin("head")
        flight.publish(b"half")
        flight.fail(Truncated("cut"))

    assert [str(task.result()) for task in rides] == ["cut", "cut"]
    assert [client.bytes for client in clients] == [b"half", b"half"]


async def failing(riding: Coroutine[None, None, str]) -> BaseException | None:
    [outcome] = await asyncio.gather(riding, return_exceptions=True)
    return outcome if isinstance(outcome, BaseException) else None


async def test_a_bug_in_the_driver_fails_its_flight_and_no_other() -> None:
    async def broken(flight: Flight[str]) -> None:
        raise ZeroDivisionError

    async with flying() as (flights, upstream):
        leader = flights.lead(KEY, broken, stream=True)
        other = flights.lead(b"o" * 32, upstream.drive, stream=True)
        await settle()
        upstream.flights[0].begin("head")

        with pytest.raises(ZeroDivisionError):
            await leader.begun()
        assert await other.begun() == "head"


async def test_a_driver_that_stops_without_an_end_leaves_nobody_waiting() -> None:
    async with flying() as (flights, upstream):
        leader = board(flights, upstream)
        await settle()
        upstream.land()

        with pytest.raises(GivenUp, match="ended before the answer"):
            await leader.begun()


async def test_flights_that_hold_too_much_together_let_go_of_what_their_riders_have() -> None:
    upstream = Upstream()
    async with asyncio.TaskGroup() as tasks:
        flights: Flights[str] = Flights(tasks.create_task, held_bytes=1_000)
        riders = [flights.lead(key, upstream.drive, stream=True) for key in (b"a", b"b")]
        reading = [tasks.create_task(ride(rider, Client())) for rider in riders]
        await settle()
        one, other = (rider.flight for rider in riders)
        for flight in (one, other):
            flight.begin("head")
            await settle()
            flight.publish(b"x" * 600)
        assert (one.joinable, other.joinable) == (True, False)
        assert (one.recorded, other.recorded) == (b"x" * 600, None)

        for flight in (one, other):
            flight.finish()
        upstream.land()
        await asyncio.wait(reading)
        await settle()
        again = flights.lead(b"c", upstream.drive, stream=True)
        again.flight.begin("head")
        again.flight.publish(b"x" * 900)
        assert again.flight.joinable, "what has landed holds nothing any more"
        again.close()


async def test_streams_and_whole_answers_fly_apart() -> None:
    async with flying() as (flights, upstream):
        board(flights, upstream, stream=True)
        board(flights, upstream, stream=False)
        await settle()

        assert len(upstream.flights) == 2


async def test_an_answer_can_be_joined_until_the_driver_returns() -> None:
    async with flying() as (flights, upstream), asyncio.TaskGroup() as tasks:
        client = Client()
        tasks.create_task(ride(board(flights, upstream), Client()))
        await settle()
        flight = upstream.flights[0]
        flight.begin("head")
        flight.publish(b"answer")
        flight.finish()
        await settle()

        assert await ride(board(flights, upstream), client) == "head"
        assert client.bytes == flight.recorded == b"answer"
        assert len(upstream.flights) == 1


async def test_a_slow_client_holds_up_nobody_and_goes_on_where_it_was() -> None:
    async with flying() as (flights, upstream), asyncio.TaskGroup() as tasks:
        slow, quick = Client(), Client()
        slow.write_paused = True
        tasks.create_task(ride(board(flights, upstream), slow))
        tasks.create_task(ride(board(flights, upstream), quick))
        await settle()
        flight = upstream.flights[0]
        flight.begin("head")
        await settle()
        for piece in (b"1", b"2", b"3"):
            flight.publish(piece)
            await settle()
        assert (slow.bytes, quick.bytes) == (b"1", b"123")
        assert not flight.crowded
        slow.catch_up(paused=True)
        await settle()
        assert slow.bytes == b"12"
        slow.catch_up()
        await settle()
        flight.publish(b"4")
        flight.finish()

    assert slow.bytes == quick.bytes == b"1234"


async def test_a_client_too_far_behind_is_cut_and_the_flight_lets_go_of_its_pieces() -> None:
    async with flying() as (flights, upstream), asyncio.TaskGroup() as tasks:
        slow, quick = Client(), Client()
        slow.write_paused = True
        behind = tasks.create_task(failing(ride(board(flights, upstream), slow)))
        tasks.create_task(ride(board(flights, upstream), quick))
        await settle()
        flight = upstream.flights[0]
        flight.begin("head")
        await settle()
        piece = b"x" * AHEAD_BYTES
        count = (KEPT_BYTES + LONGEST_LAG) // len(piece) + 2
        for _ in range(count):
            flight.publish(piece)
        assert flight.recorded is None
        assert flights.join(KEY, stream=True) is None
        slow.catch_up()
        await settle()
        flight.finish()

    assert isinstance(behind.result(), Lagged)
    assert len(quick.bytes) == count * len(piece)


async def test_upstream_is_read_no_further_ahead_than_the_fastest_client() -> None:
    async with flying() as (flights, upstream), asyncio.TaskGroup() as tasks:
        clients = [Client(), Client()]
        for client in clients:
            client.write_paused = True
            tasks.create_task(ride(board(flights, upstream), client))
        await settle()
        flight = upstream.flights[0]
        flight.begin("head")
        await settle()
        flight.publish(b"x")
        await settle()
        flight.publish(b"x" * (AHEAD_BYTES + 1))
        room = tasks.create_task(flight.room())
        await settle()
        assert flight.crowded
        assert not room.done()
        clients[1].catch_up()
        await settle()
        assert room.done()
        clients[0].catch_up()
        flight.finish()


async def test_a_client_whose_connection_breaks_is_told_alone() -> None:
    async with flying() as (flights, upstream), asyncio.TaskGroup() as tasks:
        broken, well = Client(), Client()
        riding = tasks.create_task(failing(ride(board(flights, upstream), broken)))
        tasks.create_task(ride(board(flights, upstream), well))
        await settle()
        flight = upstream.flights[0]
        flight.begin("head")
        await settle()
        broken.broken = True
        flight.publish(b"x")
        flight.finish()

    assert isinstance(riding.result(), BrokenPipeError)
    assert well.bytes == b"x"


async def test_a_long_answer_is_let_go_of_as_it_is_taken() -> None:
    async with flying() as (flights, upstream), asyncio.TaskGroup() as tasks:
        client = Client()
        tasks.create_task(ride(board(flights, upstream), client))
        await settle()
        flight = upstream.flights[0]
        flight.begin("head")
        await settle()
        for _ in range(40):
            flight.publish(b"x" * AHEAD_BYTES)
        held = sum(map(len, flight.held_from(40)))
        flight.finish()

    assert held == 0
    assert len(client.bytes) == 40 * AHEAD_BYTES
