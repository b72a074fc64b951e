"""Faults of engines and clients, each with its limit: what is left of them afterwards is nothing."""

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from time import monotonic

import msgspec
import pytest

from aigw_daemon.gateway import attempt
from aigw_daemon.gateway.server import connection
from aigw_daemon.link.messages import GatewayView, Records, RequestRecord, Snapshot
from aigw_daemon.words import State
from tests.support.fake_engine import (
    CHAT_ANSWER,
    DONE,
    FINISH,
    HELLO,
    STREAM_END,
    STREAM_HEAD,
    Behaviour,
    EngineRequest,
    FakeEngine,
    chunk,
    fake_engine,
    hangs,
    in_turn,
    resets,
    says,
    stream,
    trickles,
    whole,
)
from tests.support.gateway import (
    backend,
    data_of,
    post,
    route,
    snapshot,
    unchunked,
)
from tests.support.local_gateway import LocalGateway, local_gateway, with_state
from tests.support.wait import eventually

ASK = b'{"model":"m","messages":[]}'
STREAM = b'{"model":"m","messages":[],"stream":true}'


@pytest.fixture
async def second() -> AsyncIterator[FakeEngine]:
    async with fake_engine(says(stream(HELLO, FINISH, DONE))) as running:
        yield running


@pytest.fixture
async def gateway(first: FakeEngine, second: FakeEngine) -> AsyncIterator[LocalGateway]:
    async with local_gateway(over(first, second)) as running:
        yield running


def over(first: FakeEngine, second: FakeEngine, *, places: int | None = None, queue: int = 100) -> Snapshot:
    """A route over two engines, the first with so many places."""
    one = msgspec.structs.replace(backend("one", first.port), max_concurrency=places, max_queue=queue)
    views = (one, backend("two", second.port, models=["m2"]))
    routes = [route("m", ("one", "m"), ("two", "m2")), route("alone", ("one", "m"))]
    return snapshot(*views, routes=routes, gateway=GatewayView(request_timeout=30.0))


# Faults of engines.


async def resets_in_mid_stream(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
    writer.write(STREAM_HEAD + chunk(HELLO))
    await writer.drain()
    # The event must be on its way before the RST: what lies in a socket's buffer would be lost with it.
    await asyncio.sleep(0.05)
    await resets(request, writer)


async def test_a_reset_after_the_first_event_is_one_error_and_no_second_answer(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine
) -> None:
    """Fault 23, the second half."""
    first.behaviour = resets_in_mid_stream
    status, headers, body = await gateway.ask(STREAM)
    assert (status, headers[b"x-aigw-attempts"], second.requests) == (200, b"1", [])
    events = unchunked(body)
    assert events.count(HELLO) == 1
    assert b"[DONE]" not in events
    assert msgspec.json.decode(data_of(events)[-1])["error"]["code"] == "stream_cut"
    assert gateway.breaker("one").failures == 1


async def test_a_reset_in_the_middle_of_an_answer_in_one_piece_falls_back(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine
) -> None:
    async def resets_in_mid_body(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(whole()[:-10])
        await writer.drain()
        await asyncio.sleep(0.05)  # as above
        await resets(request, writer)

    first.behaviour, second.behaviour = resets_in_mid_body, says(whole())
    status, headers, body = await gateway.ask(ASK)
    assert (status, headers[b"x-aigw-backend"], body) == (200, b"two", CHAT_ANSWER)


@pytest.mark.parametrize(
    "junk", [pytest.param(b": still here\n\n", id="comments"), pytest.param(b"event: x\n\n", id="empty events")]
)
async def test_an_engine_that_never_comes_to_its_first_event_is_let_go(
    gateway: LocalGateway, first: FakeEngine, junk: bytes
) -> None:
    """Fault 26: what comes before the first event is held, so it has an end."""
    sent = 0

    async def chatters(_request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(STREAM_HEAD)
        while True:
            writer.write(chunk(junk * 1000))
            await writer.drain()
            sent += len(junk) * 1000

    first.behaviour = chatters
    status, headers, _ = await gateway.ask(STREAM)
    assert (status, headers[b"x-aigw-backend"]) == (200, b"two")
    # What it sent, and what sockets on both sides hold besides.
    assert sent < attempt.MAX_PREAMBLE_BYTES + 16_000_000
    await asyncio.wait_for(first.requests[0].gone.wait(), 1.0)


@pytest.mark.parametrize("end", [b"\r\n", b"\r", b"\n"])
async def test_a_finish_in_any_line_ends_is_seen_when_it_comes_byte_by_byte(
    gateway: LocalGateway, first: FakeEngine, end: bytes
) -> None:
    events = b": x\n\n" + HELLO.replace(b"Hi", "é😀".encode()) + FINISH + DONE
    framed = events.replace(b"\n", end)

    async def drips(_request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        for at in range(len(framed)):
            writer.write(chunk(framed[at : at + 1]))
            await asyncio.sleep(0)
        writer.write(b"0\r\n\r\n")

    first.behaviour = drips
    _, headers, body = await gateway.ask(STREAM)
    assert unchunked(body) == framed
    assert (await gateway.record_of(headers)).finish_reason == "stop"


async def test_a_hung_engine_costs_an_answer_in_one_piece_its_deadline_and_no_more(
    gateway: LocalGateway, first: FakeEngine
) -> None:
    """Fault 22, the half that can't fall back: its first byte is its last."""
    first.behaviour = hangs
    began = monotonic()
    status, _, _ = await gateway.ask(ASK, "x-aigw-timeout: 500ms")
    assert (status, monotonic() - began < 1.5) == (504, True)
    await asyncio.wait_for(first.requests[0].gone.wait(), 1.0)
    await eventually(lambda: gateway.lane("one").in_flight == 0, seconds=1.0, what="the slot")


async def test_a_bug_in_the_gateway_leaves_a_record_and_no_slot_taken(
    gateway: LocalGateway, first: FakeEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def breaks(*_arguments: object) -> None:
        raise LookupError("a bug")

    monkeypatch.setattr(attempt, "_check_whole", breaks)
    status, _, _ = await gateway.ask(ASK)
    assert status == 500
    assert "a bug" in caplog.text
    record = await gateway.record_where(lambda record: record.model == "m")
    assert (record.status, record.error) == (500, "internal_error: LookupError")
    assert (gateway.lane("one").in_flight, len(first.requests)) == (0, 1)


# Faults of clients.


@pytest.mark.parametrize("body", [ASK, STREAM])
async def test_a_client_that_leaves_during_a_cold_start_leaves_nothing(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine, body: bytes
) -> None:
    """Fault 27, one more window."""
    gateway.apply(with_state(over(first, second), "one", State.STARTING))
    async with gateway.asking(body):
        await eventually(lambda: gateway.gateway.server.connections == 1, what="the client")
    await eventually(lambda: gateway.gateway.server.connections == 0, seconds=1.0, what="its end")
    record = await gateway.record_where(lambda record: (record.error or "").startswith("client_left"))
    assert (record.status, record.attempts) == (499, 0)
    gateway.apply(over(first, second))
    assert first.requests == []


async def test_a_client_that_hangs_up_at_done_has_had_its_whole_answer(
    gateway: LocalGateway, first: FakeEngine
) -> None:
    said = STREAM_HEAD + chunk(HELLO) + chunk(FINISH) + chunk(DONE)
    first.behaviour = in_turn((0.0, said), (0.3, STREAM_END))
    async with gateway.asking(STREAM) as asking:
        await asking.until(DONE)
    record = await gateway.record_where(lambda record: record.stream)
    assert (record.status, record.finish_reason, record.error) == (200, "stop", None)
    assert gateway.breaker("one").failures == 0


async def answers(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
    writer.write(stream(HELLO, FINISH, DONE) if request.json.get("stream") else whole())


CANCELS = 10_000
AT_ONCE = 60
PLACES = 8
QUEUE = 40
SEED = 20_251


@pytest.mark.timeout(180)
async def test_ten_thousand_clients_that_leave_at_any_moment_leave_nothing_behind(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine
) -> None:
    """Fault 28: in the line, before the headers, before the first event, in mid-stream, refused or answered."""
    dice = random.Random(SEED)
    first.behaviour = any_of(dice, hangs, trickles, *[answers] * 6)
    gateway.apply(over(first, second, places=PLACES, queue=QUEUE))
    await rests(gateway)
    tasks_before, descriptors_before = len(asyncio.all_tasks()), descriptors()
    left = CANCELS

    async def comes_and_goes() -> None:
        nonlocal left
        while left:
            left -= 1
            body = dice.choice((b'{"model":"alone"}', b'{"model":"alone","stream":true}'))
            async with gateway.asking(body):
                await asyncio.sleep(dice.random() ** 4 * 0.4)  # most soon, some after a while

    async with asyncio.TaskGroup() as tasks:
        for _ in range(AT_ONCE):
            tasks.create_task(comes_and_goes())
    assert windows(gateway) == {"in the line", "before its headers", "in mid-stream", "refused", "answered"}
    lane = gateway.lane("one")
    await eventually(lambda: (lane.in_flight, lane.waiting) == (0, 0), what="every slot and place back")
    await rests(gateway)
    # The engine runs in this process, too: its ends of the connections are among these.
    await eventually(lambda: len(asyncio.all_tasks()) <= tasks_before, what="every task ended")
    await eventually(lambda: descriptors() <= descriptors_before, what="every descriptor closed")
    first.behaviour = says(whole())
    status, headers, body = await gateway.ask(ASK)
    assert (status, headers[b"x-aigw-backend"], body) == (200, b"one", CHAT_ANSWER)
    assert gateway.breaker("one").closed


def windows(gateway: LocalGateway) -> set[str]:
    """Where requests stood when their clients left, as far as records were kept."""
    records = [record for batch in gateway.said(Records) for record in batch.records]
    return {_window(record) for record in records}


def _window(record: RequestRecord) -> str:
    if not (record.error or "").startswith("client_left"):
        return "refused" if record.status == 429 else "answered"
    if not record.attempts:
        return "in the line"
    return "in mid-stream" if record.status == 200 else "before its headers"


async def rests(gateway: LocalGateway) -> None:
    """Until no client is connected; idle connections to engines are closed."""
    await eventually(lambda: gateway.gateway.server.connections == 0, what="every client's socket closed")
    await gateway.upstream.aclose()


def descriptors() -> int:
    """How many this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def any_of(dice: random.Random, *behaviours: Behaviour) -> Behaviour:
    """Each request meets one of these."""

    async def act(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        await dice.choice(behaviours)(request, writer)

    return act


async def test_a_client_that_reads_a_byte_at_a_time_is_cut_and_held_within_bounds(
    gateway: LocalGateway, first: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault 29: a window that never opens takes no byte, whatever the client reads of what it has."""
    monkeypatch.setattr(connection, "STALL_SECONDS", 1.0)
    sent = 0

    async def floods(_request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(STREAM_HEAD)
        while True:
            writer.write(chunk(HELLO * 100))
            await writer.drain()
            sent += len(HELLO) * 100

    first.behaviour = floods
    with socket.create_connection(("127.0.0.1", gateway.port)) as slow:
        slow.sendall(post(STREAM))
        slow.setblocking(False)
        began = monotonic()
        request = await first.request()
        while not request.gone.is_set() and monotonic() - began < 15:
            with contextlib.suppress(BlockingIOError):
                slow.recv(1)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(request.gone.wait(), 0.05)
    assert request.gone.is_set()
    assert monotonic() - began < 10
    assert sent < 32_000_000  # what the sockets of three programs hold
    await eventually(lambda: gateway.lane("one").in_flight == 0, seconds=1.0, what="the slot")
    record = await gateway.record_where(lambda record: (record.error or "").startswith("client_left"))
    assert "took no byte" in (record.error or "")
