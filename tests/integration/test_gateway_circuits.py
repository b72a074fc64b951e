"""When a backend is let be, and when it is asked again: circuits under real requests (rules B4, B7 to B9)."""

import asyncio
from collections.abc import AsyncIterator
from time import monotonic
from typing import Any

import msgspec
import pytest

from aigw_daemon.gateway import breaker
from aigw_daemon.gateway.breaker import FAILURES_TO_OPEN, Circuit
from aigw_daemon.gateway.budget import EXTRA_PERCENT, LEAST_EXTRA
from aigw_daemon.link.messages import GatewayView, Load, Snapshot
from aigw_daemon.words import State
from tests.support.fake_engine import (
    DONE,
    FINISH,
    HELLO,
    STREAM_HEAD,
    Behaviour,
    EngineRequest,
    FakeEngine,
    chunk,
    hangs,
    in_turn,
    resets,
    says,
    says_and_hangs_up,
    stream,
    whole,
)
from tests.support.gateway import backend, route, snapshot
from tests.support.local_gateway import LocalGateway, local_gateway, sentence, with_state
from tests.support.wait import eventually

ASK = b'{"model":"m","messages":[]}'
STREAM = b'{"model":"m","messages":[],"stream":true}'
BOOM = says(whole(b'{"error":"boom"}', 500))
BUSY = says(whole(b'{"error":"busy"}', 502))
LIMITED = says(whole(b'{"error":"slow down"}', 429, "retry-after: 20"))
REFUSING_PORT = 1


@pytest.fixture
async def gateway(first: FakeEngine, second: FakeEngine) -> AsyncIterator[LocalGateway]:
    async with local_gateway(over(first, second)) as running:
        yield running


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Circuits that open for a moment only."""
    monkeypatch.setattr(breaker, "OPEN_SECONDS", 0.3)
    monkeypatch.setattr(breaker, "REFUSED_OPEN_SECONDS", 0.3)


def over(first: FakeEngine, second: FakeEngine, **changes: Any) -> Snapshot:
    """A route over two engines; ``changes`` to the first."""
    views = (msgspec.structs.replace(backend("one", first.port), **changes), backend("two", second.port, models=["m2"]))
    limits = GatewayView(request_timeout=30.0)
    return snapshot(*views, routes=[route("m", ("one", "m"), ("two", "m2"))], gateway=limits)


async def answered_by(gateway: LocalGateway, body: bytes = ASK) -> bytes:
    """Who answers."""
    status, headers, _ = await gateway.ask(body)
    assert status == 200
    return headers[b"x-aigw-backend"]


async def open_circuit(gateway: LocalGateway, first: FakeEngine) -> None:
    """Fail as often as it takes."""
    first.behaviour = BOOM
    for _ in range(FAILURES_TO_OPEN):
        assert await answered_by(gateway) == b"two"
    assert gateway.breaker("one").state is Circuit.OPEN


async def cut(_request: EngineRequest, writer: asyncio.StreamWriter) -> None:
    writer.write(STREAM_HEAD + chunk(HELLO))
    await writer.drain()
    writer.close()


@pytest.mark.parametrize(
    "failing",
    [
        pytest.param(BOOM, id="500"),
        pytest.param(resets, id="reset"),
        pytest.param(says_and_hangs_up(b""), id="closed without a word"),
        pytest.param(says(b"not HTTP\r\n\r\n"), id="not HTTP"),
        pytest.param(says(whole(b"")), id="empty"),
        pytest.param(says(stream(DONE)), id="an empty stream"),
    ],
)
async def test_failures_in_a_row_open_it(gateway: LocalGateway, first: FakeEngine, failing: Behaviour) -> None:
    first.behaviour = failing
    for _ in range(FAILURES_TO_OPEN + 3):
        await gateway.ask(STREAM, seconds=20)
    assert gateway.breaker("one").state is Circuit.OPEN
    asked = len(first.requests)
    assert await answered_by(gateway) == b"two"
    assert len(first.requests) == asked


async def test_streams_that_are_cut_open_it(gateway: LocalGateway, first: FakeEngine) -> None:
    first.behaviour = cut
    for _ in range(FAILURES_TO_OPEN):
        _, _, body = await gateway.ask(STREAM)
        assert b"stream_cut" in body
    assert gateway.breaker("one").state is Circuit.OPEN
    assert await answered_by(gateway) == b"two"


async def test_a_success_between_failures_keeps_it_closed(gateway: LocalGateway, first: FakeEngine) -> None:
    for _ in range(3):
        first.behaviour = BOOM
        for _ in range(FAILURES_TO_OPEN - 1):
            await answered_by(gateway)
        first.behaviour = says(whole())
        assert await answered_by(gateway) == b"one"
    assert gateway.breaker("one").closed


async def test_a_refused_connection_opens_it_at_once(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine
) -> None:
    gateway.apply(over(first, second, port=REFUSING_PORT))
    assert (await gateway.ask(ASK))[1][b"x-aigw-attempts"] == b"2"
    assert gateway.breaker("one").state is Circuit.OPEN
    assert (await gateway.ask(ASK))[1][b"x-aigw-attempts"] == b"1"


@pytest.mark.usefixtures("soon")
async def test_after_its_time_one_request_tries_it_and_closes_it(gateway: LocalGateway, first: FakeEngine) -> None:
    await open_circuit(gateway, first)
    first.behaviour = says(whole())
    await eventually(lambda: gateway.breaker("one").state is Circuit.HALF_OPEN, seconds=3.0, what="its time to be over")
    assert await answered_by(gateway) == b"one"
    assert gateway.breaker("one").closed


@pytest.mark.usefixtures("soon")
async def test_no_circuit_stays_open_when_its_timer_rings_early(
    gateway: LocalGateway, first: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Event loops count in milliseconds: a timer may ring a little before the time that it was set for."""
    loop = asyncio.get_running_loop()
    exact = loop.call_later
    early = 0.05

    def rings_early(delay: float, *arguments: Any, **options: Any) -> asyncio.TimerHandle:
        return exact(delay - early if delay > early else delay, *arguments, **options)

    await open_circuit(gateway, first)
    monkeypatch.setattr(loop, "call_later", rings_early)
    await gateway.ask(ASK)
    gateway.breaker("one").limited(gateway.breaker("one").permit, 0.4, monotonic())
    await eventually(lambda: gateway.breaker("one").state is Circuit.HALF_OPEN, seconds=3.0, what="its time to be over")


@pytest.mark.usefixtures("soon")
async def test_while_one_request_tries_it_the_others_go_elsewhere(gateway: LocalGateway, first: FakeEngine) -> None:
    await open_circuit(gateway, first)
    first.behaviour = hangs
    await eventually(lambda: gateway.breaker("one").state is Circuit.HALF_OPEN, seconds=3.0, what="its time to be over")
    asked = len(first.requests)
    async with gateway.asking(ASK):
        await first.request(asked + 1)
        for _ in range(5):
            assert await answered_by(gateway) == b"two"
        assert len(first.requests) == asked + 1
    # The one that tried it has left: nothing was learnt, so the next may try.
    first.behaviour = says(whole())
    await eventually(lambda: gateway.lane("one").in_flight == 0, what="the slot")
    assert await answered_by(gateway) == b"one"
    assert gateway.breaker("one").closed


@pytest.mark.usefixtures("soon")
async def test_of_many_at_once_one_tries_it(gateway: LocalGateway, first: FakeEngine) -> None:
    await open_circuit(gateway, first)
    await eventually(lambda: gateway.breaker("one").state is Circuit.HALF_OPEN, seconds=3.0, what="its time to be over")
    asked = len(first.requests)
    first.behaviour = hangs
    async with asyncio.TaskGroup() as tasks:
        crowd = [tasks.create_task(gateway.ask(ASK, "x-aigw-timeout: 2")) for _ in range(20)]
    assert len(first.requests) == asked + 1
    assert sorted(task.result()[0] for task in crowd) == [200] * 19 + [504]


@pytest.mark.usefixtures("soon")
async def test_a_stream_that_begins_closes_it_before_it_ends(gateway: LocalGateway, first: FakeEngine) -> None:
    await open_circuit(gateway, first)
    await eventually(lambda: gateway.breaker("one").state is Circuit.HALF_OPEN, seconds=3.0, what="its time to be over")

    async def begins(_request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunk(HELLO))
        await asyncio.Event().wait()

    first.behaviour = begins
    async with gateway.asking(STREAM) as asking:
        await asking.until(HELLO)
        assert gateway.breaker("one").closed


async def test_the_last_one_is_asked_though_its_circuit_is_open(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine
) -> None:
    await open_circuit(gateway, first)
    gateway.apply(with_state(over(first, second), "two", State.FAILED))
    first.behaviour = says(whole())
    assert await answered_by(gateway) == b"one"


async def test_a_limited_backend_is_let_be_as_long_as_it_says(gateway: LocalGateway, first: FakeEngine) -> None:
    first.behaviour = LIMITED
    assert await answered_by(gateway) == b"two"
    assert gateway.breaker("one").state is Circuit.COOLING
    assert await answered_by(gateway) == b"two"
    assert len(first.requests) == 1


async def test_a_new_process_has_a_closed_circuit(gateway: LocalGateway, first: FakeEngine, second: FakeEngine) -> None:
    await open_circuit(gateway, first)
    first.behaviour = says(whole())
    gateway.apply(with_state(over(first, second), "one", State.STARTING))
    gateway.apply(over(first, second))
    assert await answered_by(gateway) == b"one"


async def test_a_successful_probe_closes_nothing(gateway: LocalGateway, first: FakeEngine, second: FakeEngine) -> None:
    await open_circuit(gateway, first)
    gateway.apply(with_state(over(first, second), "one", State.DEGRADED))
    gateway.apply(over(first, second))
    assert gateway.breaker("one").state is Circuit.OPEN


@pytest.mark.parametrize("body", [ASK, STREAM])
async def test_clients_that_leave_count_for_nothing(gateway: LocalGateway, first: FakeEngine, body: bytes) -> None:
    first.behaviour = hangs
    for number in range(FAILURES_TO_OPEN + 2):
        async with gateway.asking(body):
            await first.request(number + 1)
        await eventually(lambda: gateway.lane("one").in_flight == 0, what="the slot")
    assert (gateway.breaker("one").failures, gateway.breaker("one").closed) == (0, True)


@pytest.mark.parametrize("status", [400, 401, 404, 422, 429, 501])
async def test_what_is_not_its_fault_counts_for_nothing(gateway: LocalGateway, first: FakeEngine, status: int) -> None:
    first.behaviour = says(whole(b'{"error":"no"}', status))
    for _ in range(FAILURES_TO_OPEN + 1):
        await gateway.ask(ASK)
    assert (gateway.breaker("one").failures, gateway.breaker("one").closed) == (0, True)


async def test_the_daemon_hears_why_a_backend_is_not_asked(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine
) -> None:
    await open_circuit(gateway, first)
    loads = await eventually(lambda: [load for load in gateway.said(Load) if load.broken], what="a load that says so")
    assert loads[0].broken["one"].startswith(f"circuit open after {FAILURES_TO_OPEN} failures (answered 5xx)")
    gateway.apply(with_state(over(first, second), "one", State.STARTING))
    gateway.apply(over(first, second))
    await eventually(lambda: not gateway.said(Load)[-1].broken, what="a load that says that it is well")


async def test_a_flapping_backend_gets_no_more_retries_than_the_budget(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine
) -> None:
    """Fault 31, flapping: asking the same backend again has an end over all traffic (rule B4)."""
    gateway.apply(with_state(over(first, second), "two", State.FAILED))
    requests, all_here = 60, asyncio.Event()
    came = again = most = 0

    async def flaps(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        """Every first attempt fails, all at once; every other one takes its time."""
        nonlocal came, again, most
        came += 1
        if came <= requests:
            if came == requests:
                all_here.set()
            await all_here.wait()
            await BUSY(request, writer)
            return
        again += 1
        most = max(most, again)
        await asyncio.sleep(0.3)
        again -= 1
        await says(whole())(request, writer)

    first.behaviour = flaps
    async with asyncio.TaskGroup() as tasks:
        crowd = [tasks.create_task(gateway.ask(ASK, seconds=20)) for _ in range(requests)]
    answers = [task.result() for task in crowd]
    assert {status for status, _, _ in answers} == {200, 500}
    assert most <= max(LEAST_EXTRA, requests * EXTRA_PERCENT // 100)
    refused = [(headers, sentence(body)) for status, headers, body in answers if status == 500]
    assert all("the retry budget is spent" in said for _, said in refused)
    # A client's own retry comes later, and may find room.
    assert all(b"x-should-retry" not in headers and b"retry-after" in headers for headers, _ in refused)


async def test_a_fallback_goes_by_the_other_backends_lane_and_never_by_the_budget(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine
) -> None:
    two = msgspec.structs.replace(backend("two", second.port, models=["m2"]), max_concurrency=4)
    plain = over(first, second)
    gateway.apply(msgspec.structs.replace(plain, backends=(plain.backends[0], two)))
    first.behaviour, second.behaviour = BOOM, in_turn((0.05, whole()))
    async with asyncio.TaskGroup() as tasks:
        crowd = [tasks.create_task(gateway.ask(ASK, seconds=20)) for _ in range(60)]
    assert {(task.result()[0], task.result()[1][b"x-aigw-backend"]) for task in crowd} == {(200, b"two")}


async def test_nothing_that_can_be_reached_is_503_within_a_second(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine
) -> None:
    """Fault 31, all down: the first requests and those that meet open circuits alike."""
    down = over(first, second, port=REFUSING_PORT)
    refusing = msgspec.structs.replace(down.backends[1], port=REFUSING_PORT)
    gateway.apply(msgspec.structs.replace(down, backends=(down.backends[0], refusing)))
    for body in (ASK, STREAM) * 4:
        began = monotonic()
        status, headers, _ = await gateway.ask(body)
        assert (status, int(headers[b"retry-after"]) >= 1) == (503, True)
        assert headers[b"content-type"] == b"application/json"
        assert monotonic() - began < 1.0


async def test_whole_streams_close_nothing_and_open_nothing(gateway: LocalGateway, first: FakeEngine) -> None:
    first.behaviour = says(stream(HELLO, FINISH, DONE))
    for _ in range(FAILURES_TO_OPEN + 1):
        assert await answered_by(gateway, STREAM) == b"one"
    assert gateway.breaker("one").failures == 0
