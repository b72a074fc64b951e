"""Who gets a place, who waits, who is told to come back: the lines before backends, with real sockets (rule B11)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from time import monotonic
from typing import Any

import msgspec
import pytest

from aigw_daemon.gateway import heartbeat
from aigw_daemon.gateway.admission import RAMP_ABOVE
from aigw_daemon.link.messages import GatewayView, Load, Snapshot
from aigw_daemon.words import State
from tests.support.fake_engine import (
    DONE,
    FINISH,
    HELLO,
    EngineRequest,
    FakeEngine,
    fake_engine,
    says,
    stream,
    whole,
)
from tests.support.gateway import backend, route, snapshot
from tests.support.local_gateway import Answer, Asking, LocalGateway, local_gateway, with_state
from tests.support.wait import eventually

STREAM = b'{"model":"m","messages":[],"stream":true}'
ASK = b'{"model":"m","messages":[]}'
ONLY = b'{"model":"one/m","messages":[]}'


class Gated:
    """An engine that answers one request each time it is told to."""

    def __init__(self) -> None:
        self._permits = asyncio.Semaphore(0)

    async def __call__(self, request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        """Wait for leave, then answer."""
        await self._permits.acquire()
        writer.write(stream(HELLO, FINISH, DONE) if request.json.get("stream") else whole())

    def answer(self, count: int = 1) -> None:
        """Let so many be answered."""
        for _ in range(count):
            self._permits.release()


@pytest.fixture
def gate() -> Gated:
    return Gated()


@pytest.fixture
async def first(gate: Gated) -> AsyncIterator[FakeEngine]:
    async with fake_engine(gate) as running:
        yield running


@pytest.fixture
async def second() -> AsyncIterator[FakeEngine]:
    async with fake_engine(says(whole())) as running:
        yield running


@pytest.fixture
async def gateway(first: FakeEngine, second: FakeEngine) -> AsyncIterator[LocalGateway]:
    async with local_gateway(over(first, second)) as running:
        yield running


def over(
    first: FakeEngine,
    second: FakeEngine,
    *,
    places: int = 1,
    queue: int = 3,
    queue_timeout: float = 30.0,
    **changes: Any,
) -> Snapshot:
    """A route over two engines; the first has so many places, and so many may wait for them."""
    bounded = msgspec.structs.replace(backend("one", first.port), max_concurrency=places, max_queue=queue)
    targets = msgspec.structs.replace(route("m", ("one", "m"), ("two", "m2")), **changes)
    limits = GatewayView(request_timeout=30.0, queue_timeout=queue_timeout)
    return snapshot(bounded, backend("two", second.port, models=["m2"]), routes=[targets], gateway=limits)


def number_of(request: EngineRequest) -> object:
    """Which one it is, as the client numbered it."""
    return request.json["seed"]


def numbered(number: int) -> bytes:
    return msgspec.json.encode({"model": "one/m", "messages": [], "seed": number})


async def in_line(gateway: LocalGateway, clients: AsyncExitStack, number: int, *lines: str) -> Asking:
    """One more client, in the line when this returns."""
    before = gateway.lane("one").waiting
    asking = await clients.enter_async_context(gateway.asking(numbered(number), *lines))
    await eventually(lambda: gateway.lane("one").waiting == before + 1, what="its place in the line")
    return asking


@pytest.fixture
async def clients() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def occupied(gateway: LocalGateway, clients: AsyncExitStack, first: FakeEngine) -> Asking:
    """A client whose request has the only place."""
    asking = await clients.enter_async_context(gateway.asking(numbered(0)))
    await first.request()
    return asking


@pytest.fixture
def quick_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signs of life twenty times a second."""
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 0.05)


async def test_the_line_is_first_come_first_served_within_a_priority(
    gateway: LocalGateway, clients: AsyncExitStack, first: FakeEngine, second: FakeEngine, gate: Gated
) -> None:
    gateway.apply(over(first, second, queue=9))
    await occupied(gateway, clients, first)
    said = ["", "x-aigw-priority: low", "x-aigw-priority: high", "x-aigw-priority: 100", "x-aigw-priority: normal"]
    for number, line in enumerate(said, 1):
        await in_line(gateway, clients, number, *([line] if line else []))
    gate.answer(6)
    await first.request(6)
    assert [number_of(request) for request in first.requests] == [0, 4, 3, 1, 5, 2]
    await eventually(lambda: gateway.lane("one").in_flight == 0, what="all slots back")


async def test_only_so_many_reach_the_engine_at_once(
    gateway: LocalGateway, clients: AsyncExitStack, first: FakeEngine, second: FakeEngine, gate: Gated
) -> None:
    gateway.apply(over(first, second, places=2, queue=9))
    for number in range(2):
        await clients.enter_async_context(gateway.asking(numbered(number)))
    await first.request(2)
    for number in range(2, 5):
        await in_line(gateway, clients, number)
    assert len(first.requests) == 2
    gate.answer()
    await first.request(3)
    assert (gateway.lane("one").in_flight, gateway.lane("one").waiting) == (2, 2)


async def test_the_daemon_hears_who_waits(gateway: LocalGateway, clients: AsyncExitStack, first: FakeEngine) -> None:
    await occupied(gateway, clients, first)
    await in_line(gateway, clients, 1)
    await eventually(
        lambda: any(load.waiting == {"one": 1} and load.in_flight["one"] == 1 for load in gateway.said(Load)),
        what="one who waits",
    )


@pytest.mark.parametrize("body", [ONLY, ONLY.replace(b"}", b',"stream":true}')])
async def test_a_full_line_is_429_at_once(
    gateway: LocalGateway, clients: AsyncExitStack, first: FakeEngine, body: bytes
) -> None:
    await occupied(gateway, clients, first)
    for number in range(1, 4):
        await in_line(gateway, clients, number)
    began = monotonic()
    status, headers, answer = await gateway.ask(body)
    assert (status, headers[b"content-type"], headers[b"x-aigw-attempts"]) == (429, b"application/json", b"0")
    assert int(headers[b"retry-after"]) >= 1
    assert b"x-should-retry" not in headers
    assert b"its line is full" in answer
    assert monotonic() - began < 1.0
    record = await gateway.record_of(headers)
    assert (record.status, record.attempts) == (429, 0)


async def test_a_full_line_falls_back_to_the_next(
    gateway: LocalGateway, clients: AsyncExitStack, first: FakeEngine
) -> None:
    await occupied(gateway, clients, first)
    for number in range(1, 4):
        await in_line(gateway, clients, number)
    status, headers, _ = await gateway.ask(ASK)
    assert (status, headers[b"x-aigw-backend"], headers[b"x-aigw-attempts"]) == (200, b"two", b"1")


@pytest.mark.usefixtures("quick_beats")
@pytest.mark.parametrize("body", [ONLY, ONLY.replace(b"}", b',"stream":true}')])
async def test_waiting_too_long_is_503_before_any_header(
    gateway: LocalGateway,
    clients: AsyncExitStack,
    first: FakeEngine,
    second: FakeEngine,
    body: bytes,
) -> None:
    """Signs of life would have promised a 200: in a line there are none."""
    gateway.apply(over(first, second, queue_timeout=0.3))
    await occupied(gateway, clients, first)
    status, headers, answer = await gateway.ask(body)
    assert (status, int(headers[b"retry-after"]) >= 1) == (503, True)
    assert b"no slot came free within 0.3 s" in answer
    assert gateway.lane("one").waiting == 0


async def test_a_route_that_spills_over_does_not_queue_while_another_has_room(
    gateway: LocalGateway, clients: AsyncExitStack, first: FakeEngine, second: FakeEngine
) -> None:
    gateway.apply(over(first, second, overflow="spill"))
    await occupied(gateway, clients, first)
    status, headers, _ = await gateway.ask(ASK)
    assert (status, headers[b"x-aigw-backend"]) == (200, b"two")


async def test_a_route_that_queues_waits_for_its_first(
    gateway: LocalGateway, clients: AsyncExitStack, first: FakeEngine, second: FakeEngine, gate: Gated
) -> None:
    await occupied(gateway, clients, first)
    waiting = await clients.enter_async_context(gateway.asking(ASK))
    await eventually(lambda: gateway.lane("one").waiting == 1, what="a waiter")
    gate.answer(2)
    status, headers, _ = await waiting.answer()
    assert (status, headers[b"x-aigw-backend"], second.requests) == (200, b"one", [])


async def test_when_all_are_full_a_route_that_spills_over_queues_at_the_first(
    gateway: LocalGateway, clients: AsyncExitStack, first: FakeEngine, second: FakeEngine, gate: Gated
) -> None:
    both_full = over(first, second, overflow="spill")
    full = msgspec.structs.replace(both_full.backends[1], max_concurrency=1)
    gateway.apply(msgspec.structs.replace(both_full, backends=(both_full.backends[0], full)))
    await occupied(gateway, clients, first)
    assert gateway.lane("two").try_enter()
    waiting = await clients.enter_async_context(gateway.asking(ASK))
    await eventually(lambda: gateway.lane("one").waiting == 1, what="a waiter")
    gate.answer(2)
    assert (await waiting.answer())[1][b"x-aigw-backend"] == b"one"
    gateway.lane("two").leave()


async def test_more_places_let_waiters_in_at_once_and_fewer_hold_newcomers_back(
    gateway: LocalGateway, clients: AsyncExitStack, first: FakeEngine, second: FakeEngine, gate: Gated
) -> None:
    await occupied(gateway, clients, first)
    await in_line(gateway, clients, 1)
    await in_line(gateway, clients, 2)
    gateway.apply(over(first, second, places=3))
    await first.request(3)
    gateway.apply(over(first, second, places=1))
    await in_line(gateway, clients, 3)
    gate.answer(2)
    await eventually(lambda: gateway.lane("one").in_flight == 1, what="two answers")
    assert (len(first.requests), gateway.lane("one").waiting) == (3, 1)
    gate.answer()
    await first.request(4)


async def test_whoever_waits_at_a_backend_that_drains_goes_elsewhere(
    gateway: LocalGateway, clients: AsyncExitStack, first: FakeEngine, second: FakeEngine, gate: Gated
) -> None:
    running = await occupied(gateway, clients, first)
    waiting = await clients.enter_async_context(gateway.asking(ASK))
    await eventually(lambda: gateway.lane("one").waiting == 1, what="a waiter")
    gateway.apply(with_state(over(first, second), "one", State.DRAINING))
    status, headers, _ = await waiting.answer()
    assert (status, headers[b"x-aigw-backend"]) == (200, b"two")
    gate.answer()
    assert (await running.answer())[0] == 200
    assert len(first.requests) == 1


async def test_a_backend_that_leaves_the_profile_takes_its_line_along(
    gateway: LocalGateway, clients: AsyncExitStack, first: FakeEngine, second: FakeEngine, gate: Gated
) -> None:
    running = await occupied(gateway, clients, first)
    await eventually(lambda: gateway.said(Load), what="the daemon to hear of it")
    waiting = await clients.enter_async_context(gateway.asking(ASK))
    alone = await in_line(gateway, clients, 1)
    await eventually(lambda: gateway.lane("one").waiting == 2, what="both waiters")
    gateway.apply(
        snapshot(backend("two", second.port, models=["m2"]), routes=[route("m", ("one", "m"), ("two", "m2"))])
    )
    assert (await waiting.answer())[1][b"x-aigw-backend"] == b"two"
    assert (await alone.answer())[0] == 404
    gate.answer()
    assert (await running.answer())[0] == 200
    await eventually(lambda: tells_nothing_of_one(gateway), what="nothing in flight")


def tells_nothing_of_one(gateway: LocalGateway) -> bool:
    """Whether the daemon was told of it, and last that nothing is in flight there."""
    told = [load.in_flight.get("one", 0) for load in gateway.said(Load)]
    return bool(told) and max(told) == 1 and told[-1] == 0


async def test_places_in_the_line_are_kept_over_a_change_that_means_nothing(
    gateway: LocalGateway, clients: AsyncExitStack, first: FakeEngine, second: FakeEngine, gate: Gated
) -> None:
    await occupied(gateway, clients, first)
    for number in range(1, 4):
        await in_line(gateway, clients, number)
    gateway.apply(with_state(over(first, second), "one", State.DEGRADED))
    await eventually(lambda: gateway.lane("one").waiting == 3, what="all back in the line")
    gate.answer(4)
    await first.request(4)
    assert [number_of(request) for request in first.requests] == [0, 1, 2, 3]


async def test_a_fresh_start_is_loaded_step_by_step(
    gateway: LocalGateway, clients: AsyncExitStack, first: FakeEngine, second: FakeEngine
) -> None:
    many = over(first, second, places=32, queue=4)
    gateway.apply(with_state(many, "one", State.STARTING))
    for number in range(34):
        await clients.enter_async_context(gateway.asking(numbered(number)))
    await eventually(lambda: gateway.gateway.server.connections == 34, what="all clients")
    gateway.apply(many)
    await first.request(RAMP_ABOVE)
    await eventually(lambda: gateway.lane("one").waiting == 34 - RAMP_ABOVE, what="the others in the line")
    assert len(first.requests) == RAMP_ABOVE
    await eventually(lambda: len(first.requests) > RAMP_ABOVE, seconds=5, what="the next step")


async def leaves(gateway: LocalGateway, body: bytes, waits_in_line: bool) -> None:
    async with gateway.asking(body):
        if waits_in_line:
            await eventually(lambda: gateway.lane("one").waiting == 1, what="its place in the line")


async def test_a_client_that_leaves_the_line_leaves_no_gap(
    gateway: LocalGateway, clients: AsyncExitStack, first: FakeEngine, gate: Gated
) -> None:
    """Fault 27, the first window: in the line."""
    await occupied(gateway, clients, first)
    await leaves(gateway, ASK, waits_in_line=True)
    await eventually(lambda: gateway.lane("one").waiting == 0, seconds=1.0, what="its place given back")
    record = await gateway.record_where(lambda record: (record.error or "").startswith("client_left"))
    assert (record.status, record.attempts, record.backend) == (499, 0, None)
    gate.answer()
    await eventually(lambda: gateway.lane("one").in_flight == 0, what="the slot")
    assert len(first.requests) == 1


OVERFLOW = 10
PLACES = 4
QUEUE = 8


async def test_ten_times_too_many_are_refused_at_once_and_the_admitted_do_not_notice(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine
) -> None:
    """Fault 32: 429 with Retry-After before any header of a stream; those admitted are as fast as before."""
    service = 0.05

    async def serve(_request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(service)
        writer.write(stream(HELLO, FINISH, DONE))

    first.behaviour = serve
    gateway.apply(over(first, second, places=PLACES, queue=QUEUE))
    body = ONLY.replace(b"}", b',"stream":true}')
    alone = await timed(gateway, body)
    async with asyncio.TaskGroup() as tasks:
        crowd = [tasks.create_task(timed(gateway, body)) for _ in range((PLACES + QUEUE) * OVERFLOW)]
    refused = [answer for answer, _ in (task.result() for task in crowd) if answer[0] == 429]
    admitted = [seconds for answer, seconds in (task.result() for task in crowd) if answer[0] == 200]
    assert len(refused) + len(admitted) == len(crowd)
    assert len(admitted) >= PLACES + QUEUE
    assert all(headers[b"content-type"] == b"application/json" for _, headers, _ in refused)
    assert all(int(headers[b"retry-after"]) >= 1 for _, headers, _ in refused)
    # The engine's own time, times its turns, and half a second for a busy machine with a hundred connections at once.
    turns = 1 + QUEUE / PLACES
    assert max(admitted) < alone[1] * turns + 0.5
    assert (gateway.lane("one").in_flight, gateway.lane("one").waiting) == (0, 0)


async def timed(gateway: LocalGateway, body: bytes) -> tuple[Answer, float]:
    """An answer, and how long it took."""
    began = monotonic()
    return await gateway.ask(body), monotonic() - began
