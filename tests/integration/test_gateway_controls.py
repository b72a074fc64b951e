"""What clients and routes say about how a request is handled: deadlines, fallback, retries."""

import asyncio
from collections.abc import AsyncIterator
from time import monotonic
from typing import Any

import msgspec
import pytest

from aigw_daemon.gateway import walk
from aigw_daemon.link.messages import (
    Demand,
    GatewayView,
    Snapshot,
)
from aigw_daemon.words import State
from tests.support.fake_engine import (
    CHAT_ANSWER,
    DONE,
    FINISH,
    HELLO,
    Behaviour,
    EngineRequest,
    FakeEngine,
    hangs,
    in_turn,
    says,
    stream,
    whole,
)
from tests.support.gateway import backend, route, snapshot
from tests.support.local_gateway import LocalGateway, local_gateway, over_two, sentence, with_state
from tests.support.wait import eventually

ASK = b'{"model":"m","messages":[]}'
STREAM = b'{"model":"m","messages":[],"stream":true}'
BOOM = says(whole(b'{"error":"boom"}', 500))
BUSY = says(whole(b'{"error":"busy"}', 502))
REFUSING_PORT = 1


@pytest.fixture
async def gateway(first: FakeEngine, second: FakeEngine) -> AsyncIterator[LocalGateway]:
    async with local_gateway(over_two(first, second)) as running:
        yield running


# Deadlines.


@pytest.mark.parametrize("body", [ASK, STREAM])
async def test_a_clients_own_timeout_ends_the_request_with_504(
    gateway: LocalGateway, first: FakeEngine, body: bytes
) -> None:
    first.behaviour = hangs
    began = monotonic()
    status, headers, answer = await gateway.ask(body, "x-aigw-timeout: 300ms")
    assert (status, headers[b"x-aigw-attempts"], headers[b"x-should-retry"]) == (504, b"1", b"false")
    assert "within 0.3 s" in sentence(answer)
    assert monotonic() - began < 2.0
    assert (await gateway.record_of(headers)).status == 504


@pytest.mark.parametrize("body", [ASK, STREAM])
async def test_a_routes_timeout_stands_in_place_of_the_gateways(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine, body: bytes
) -> None:
    gateway.apply(over_two(first, second, request_timeout=0.3))
    assert (await gateway.ask(ASK))[0] == 200  # so that the way is known, and the next request is a usual one
    first.behaviour = hangs
    began = monotonic()
    status, _, answer = await gateway.ask(body)
    assert (status, "within 0.3 s" in sentence(answer)) == (504, True)
    assert monotonic() - began < 2.0


async def test_a_clients_timeout_stands_in_place_of_the_routes(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine
) -> None:
    gateway.apply(over_two(first, second, request_timeout=0.1))
    first.behaviour = in_turn((0.6, whole()))
    status, _, _ = await gateway.ask(ASK, "x-aigw-timeout: 5")
    assert status == 200


async def test_the_time_of_a_cold_start_is_not_the_requests(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine
) -> None:
    ready = over_two(first, second, request_timeout=0.5)
    gateway.apply(with_state(ready, "one", State.STARTING))
    async with gateway.asking(ASK) as asking:
        await eventually(lambda: gateway.gateway.server.connections == 1, what="the client")
        began = monotonic()
        await eventually(lambda: monotonic() - began > 1.0, what="more than the request's own time")
        gateway.apply(ready)
        status, headers, _ = await asking.answer()
    assert (status, headers[b"x-aigw-backend"]) == (200, b"one")


async def test_after_a_cold_start_the_requests_clock_goes_on(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine
) -> None:
    ready = over_two(first, second, request_timeout=0.5)
    gateway.apply(with_state(ready, "one", State.STARTING))
    first.behaviour = hangs
    async with gateway.asking(ASK) as asking:
        await eventually(lambda: gateway.gateway.server.connections == 1, what="the client")
        gateway.apply(ready)
        status, _, _ = await asking.answer(3.0)
    assert status == 504


async def test_a_start_that_takes_too_long_falls_back(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine
) -> None:
    gateway.apply(cold_for(over_two(first, second), 0.3))
    status, headers, answer = await gateway.ask(ASK)
    assert {demand.backend for demand in gateway.said(Demand)} == {"one", "two"}
    assert (status, headers[b"x-aigw-attempts"]) == (504, b"0")
    assert sentence(answer).count("it did not start within 0.3 s") == 2


async def test_each_backend_gets_its_own_time_to_start(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine
) -> None:
    cold = cold_for(over_two(first, second), 0.5)
    gateway.apply(cold)
    async with gateway.asking(ASK) as asking:
        await eventually(lambda: gateway.said(Demand)[-1:] == [Demand("two", "m2")], what="a demand for the second")
        began = monotonic()
        await eventually(lambda: monotonic() - began > 0.2, what="a part of the second's time")
        gateway.apply(with_state(cold, "two", State.READY))
        status, headers, _ = await asking.answer()
    assert (status, headers[b"x-aigw-backend"]) == (200, b"two")


async def test_a_demand_is_repeated_while_the_backend_stays_down(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walk, "REPEAT_DEMAND_SECONDS", 0.05)
    gateway.apply(cold_for(over_two(first, second), 60.0))
    async with gateway.asking(ASK):
        await eventually(lambda: len(gateway.said(Demand)) >= 3, what="the demand again")
    assert {demand.backend for demand in gateway.said(Demand)} == {"one"}


def cold_for(wanted: Snapshot, seconds: float) -> Snapshot:
    """The same with all backends stopped, and so much patience for their starts."""
    views = (msgspec.structs.replace(view, state=State.STOPPED, cold_timeout=seconds) for view in wanted.backends)
    return msgspec.structs.replace(wanted, backends=tuple(views))


async def test_a_stream_that_does_not_begin_in_time_falls_back(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine
) -> None:
    """Fault 22, the stream's half: the limit of the attempt, not of the request."""
    gateway.apply(over_two(first, second, first_token_timeout=0.3))
    first.behaviour = hangs
    second.behaviour = says(stream(HELLO, FINISH, DONE))
    began = monotonic()
    status, headers, _ = await gateway.ask(STREAM)
    assert (status, headers[b"x-aigw-backend"], headers[b"x-aigw-attempts"]) == (200, b"two", b"2")
    assert monotonic() - began < 1.5
    await asyncio.wait_for(first.requests[0].gone.wait(), 1.0)
    assert gateway.breaker("one").failures == 1


async def test_a_first_token_limit_does_not_hold_for_an_answer_in_one_piece(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine
) -> None:
    gateway.apply(over_two(first, second, first_token_timeout=0.1))
    first.behaviour = in_turn((0.5, whole()))
    _, headers, _ = await gateway.ask(ASK)
    assert headers[b"x-aigw-backend"] == b"one"


# Which candidates.


@pytest.mark.parametrize("failing", [BOOM, BUSY])
async def test_without_fallback_nobody_but_the_first_answers(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine, failing: Behaviour
) -> None:
    first.behaviour = failing
    status, headers, _ = await gateway.ask(ASK, "x-aigw-fallback: off")
    assert status in {500, 503}
    assert second.requests == []
    assert int(headers[b"x-aigw-attempts"]) == len(first.requests)


async def test_without_fallback_a_refused_first_is_the_end(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine
) -> None:
    """A refused connection opens the circuit, which makes the second the first of those that are left."""
    wanted = over_two(first, second)
    refusing = msgspec.structs.replace(wanted.backends[0], port=REFUSING_PORT)
    gateway.apply(msgspec.structs.replace(wanted, backends=(refusing, wanted.backends[1])))
    for _ in range(2):
        status, _, answer = await gateway.ask(ASK, "x-aigw-fallback: off")
        assert (status, second.requests) == (503, [])
        assert "one: " in sentence(answer)


async def test_without_fallback_a_first_that_is_down_is_the_end(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine
) -> None:
    gateway.apply(with_state(over_two(first, second), "one", State.FAILED))
    status, _, answer = await gateway.ask(ASK, "x-aigw-fallback: off")
    assert (status, second.requests) == (503, [])
    assert "one: failed" in sentence(answer)


async def test_without_fallback_any_of_equal_targets_may_be_the_one(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine
) -> None:
    down = with_state(over_two(first, second, balance="least_busy"), "one", State.FAILED)
    gateway.apply(down)
    _, headers, _ = await gateway.ask(ASK, "x-aigw-fallback: off")
    assert headers[b"x-aigw-backend"] == b"two"


async def test_a_client_may_name_the_backend(gateway: LocalGateway, first: FakeEngine, second: FakeEngine) -> None:
    _, headers, _ = await gateway.ask(ASK, "x-aigw-backend: two")
    assert (headers[b"x-aigw-backend"], first.requests) == (b"two", [])
    second.behaviour = BOOM
    status, headers, _ = await gateway.ask(ASK, "x-aigw-backend: two")
    assert (status, headers[b"x-aigw-attempts"], first.requests) == (500, b"1", [])


async def test_a_backend_that_does_not_serve_the_model_is_400_with_the_choices(gateway: LocalGateway) -> None:
    status, _, answer = await gateway.ask(ASK, "x-aigw-backend: three")
    assert status == 400
    assert "choose from one, two" in sentence(answer)


@pytest.mark.parametrize(
    ("line", "choices"),
    [
        ("x-aigw-timeout: soon", "500ms, 30s or 10m"),
        ("x-aigw-timeout: 0", "above 0"),
        ("x-aigw-timeout: 25h", "at most 24h"),
        ("x-aigw-fallback: maybe", "on or off"),
        ("x-aigw-priority: urgent", "low, normal, high"),
        ("x-aigw-priority: 101", "from -100 to 100"),
    ],
)
async def test_a_header_that_says_nonsense_is_400_with_the_choices(
    gateway: LocalGateway, first: FakeEngine, line: str, choices: str
) -> None:
    status, headers, answer = await gateway.ask(ASK, line)
    assert (status, headers[b"x-aigw-attempts"]) == (400, b"0")
    assert choices in sentence(answer)
    assert line.partition(":")[0] in sentence(answer)
    assert first.requests == []


# Trying again.


async def test_a_failure_that_may_pass_is_tried_again_after_a_pause(gateway: LocalGateway, first: FakeEngine) -> None:
    gateway.apply(alone(first))
    first.behaviour = one_after_another(BUSY, says(whole()))
    status, headers, body = await gateway.ask(ASK)
    assert (status, headers[b"x-aigw-attempts"], body) == (200, b"2", CHAT_ANSWER)


async def test_the_time_of_an_attempt_that_failed_late_is_counted_once(
    gateway: LocalGateway, first: FakeEngine
) -> None:
    """The overhead is what the gateway itself took: what is left when every wait is taken off."""
    first.behaviour = in_turn((0.0, whole(b"<html>")[:-3]), (0.4, b"ml>"))
    status, headers, _ = await gateway.ask(ASK)
    assert (status, headers[b"x-aigw-backend"]) == (200, b"two")
    assert 0 < float(headers[b"x-aigw-overhead-ms"]) < 400


async def test_an_engines_retry_after_is_waited_for(gateway: LocalGateway, first: FakeEngine) -> None:
    gateway.apply(alone(first))
    first.behaviour = one_after_another(says(whole(b'{"error":"slow"}', 429, "retry-after: 1")), says(whole()))
    began = monotonic()
    status, headers, _ = await gateway.ask(ASK)
    assert (status, headers[b"x-aigw-attempts"]) == (200, b"2")
    assert monotonic() - began >= 1.0


async def test_a_retry_after_that_does_not_fit_is_told_to_the_client(gateway: LocalGateway, first: FakeEngine) -> None:
    gateway.apply(alone(first))
    first.behaviour = says(whole(b'{"error":"slow"}', 429, "retry-after: 5"))
    began = monotonic()
    status, headers, _ = await gateway.ask(ASK, "x-aigw-timeout: 2")
    assert (status, headers[b"retry-after"], headers[b"x-aigw-attempts"]) == (429, b"5", b"1")
    assert monotonic() - began < 1.0


async def test_nobody_is_asked_before_its_own_retry_after(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine
) -> None:
    """The second fails for a moment and may be asked again soon; the first said when."""
    first.behaviour = says(whole(b'{"error":"loading"}', 503, "retry-after: 7"))
    second.behaviour = one_after_another(BUSY, says(whole()))
    status, headers, _ = await gateway.ask(ASK)
    assert (status, headers[b"x-aigw-backend"]) == (200, b"two")
    assert len(first.requests) == 1


async def test_no_request_makes_more_attempts_than_allowed(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine
) -> None:
    gateway.apply(over_two(first, second, limits=GatewayView(request_timeout=30.0, max_attempts=2)))
    first.behaviour = second.behaviour = BUSY
    status, headers, answer = await gateway.ask(ASK)
    assert (status, headers[b"x-aigw-attempts"]) == (500, b"2")
    assert len(first.requests) + len(second.requests) == 2
    assert "one: it answered 502" in sentence(answer)
    assert (await gateway.record_of(headers)).attempts == 2


@pytest.mark.parametrize("retry_after", ["9" * 5_000, "-1", "soon", "Wed, 21 Oct 2026 07:28:00 GMT"])
async def test_an_odd_retry_after_is_no_reason_to_stumble(
    gateway: LocalGateway, first: FakeEngine, retry_after: str
) -> None:
    first.behaviour = says(whole(b'{"error":"slow"}', 429, f"retry-after: {retry_after}"))
    _, headers, _ = await gateway.ask(ASK)
    assert headers[b"x-aigw-backend"] == b"two"


def alone(engine: FakeEngine) -> Snapshot:
    """One engine and nobody else."""
    return snapshot(backend("one", engine.port), routes=[route("m", ("one", "m"))])


def one_after_another(*behaviours: Behaviour) -> Behaviour:
    """Each request meets the next behaviour; the last one stays."""
    left = list(behaviours)

    async def act(request: EngineRequest, writer: Any) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(request, writer)

    return act
