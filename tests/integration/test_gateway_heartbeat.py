"""Signs of life on a stream that waits: only for the last candidate, never in a line, and clients read past them."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from openai import APIError, AsyncOpenAI

from aigw_daemon.gateway import heartbeat
from aigw_daemon.link.messages import Demand, GatewayView, Snapshot
from aigw_daemon.words import State
from tests.support.fake_engine import (
    DONE,
    FINISH,
    HELLO,
    STREAM_HEAD,
    FakeEngine,
    chunk,
    fake_engine,
    hangs,
    in_turn,
    says,
    stream,
    whole,
)
from tests.support.gateway import backend, data_of, route, snapshot, unchunked
from tests.support.local_gateway import LocalGateway, local_gateway, with_state
from tests.support.wait import eventually

STREAM = b'{"model":"m","messages":[],"stream":true}'
ASK = b'{"model":"m","messages":[]}'
BEAT = 0.05
LONG = 8 * BEAT


@pytest.fixture(autouse=True)
def quick_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty a second."""
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", BEAT)


@pytest.fixture
async def first() -> AsyncIterator[FakeEngine]:
    async with fake_engine(says(stream(HELLO, FINISH, DONE))) as running:
        yield running


@pytest.fixture
async def second() -> AsyncIterator[FakeEngine]:
    async with fake_engine(says(stream(HELLO, FINISH, DONE))) as running:
        yield running


@pytest.fixture
async def gateway(first: FakeEngine, second: FakeEngine) -> AsyncIterator[LocalGateway]:
    async with local_gateway(over(first, second)) as running:
        yield running


def over(first: FakeEngine, second: FakeEngine, **changes: Any) -> Snapshot:
    """A route over two engines, and one to the first alone."""
    targets = msgspec.structs.replace(route("m", ("one", "m"), ("two", "m2")), **changes)
    alone = msgspec.structs.replace(route("alone", ("one", "m")), **changes)
    views = (backend("one", first.port), backend("two", second.port, models=["m2"]))
    return snapshot(*views, routes=[targets, alone], gateway=GatewayView(request_timeout=30.0))


ALONE = STREAM.replace(b'"m"', b'"alone"')


async def test_a_long_prefill_of_the_only_candidate_is_kept_alive(gateway: LocalGateway, first: FakeEngine) -> None:
    first.behaviour = in_turn((LONG, stream(HELLO, FINISH, DONE)))
    status, headers, body = await gateway.ask(ALONE)
    assert (status, headers[b"content-type"], headers[b"x-accel-buffering"]) == (200, b"text/event-stream", b"no")
    events = unchunked(body)
    assert events.startswith(b": waiting for the first token of one, 0 s\n\n")
    assert events.count(b": waiting") >= 3
    assert events.endswith(HELLO + FINISH + DONE)


async def test_the_wait_for_an_engine_is_not_called_the_gateways_own(gateway: LocalGateway, first: FakeEngine) -> None:
    first.behaviour = in_turn((LONG, stream(HELLO, FINISH, DONE)))
    _, headers, _ = await gateway.ask(ALONE)
    assert float(headers[b"x-aigw-overhead-ms"]) < BEAT * 500
    record = await gateway.record_of(headers)
    assert record.overhead_ms < BEAT * 500
    assert record.duration_ms >= LONG * 1000
    assert (record.status, record.error, record.finish_reason) == (200, None, "stop")


async def test_a_cold_start_is_kept_alive_and_says_so(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine
) -> None:
    gateway.apply(with_state(over(first, second), "one", State.STARTING))
    async with gateway.asking(ALONE) as asking:
        got = await asking.until(b": loading one, 0 s\n\n")
        assert b"HTTP/1.1 200 OK" in got
        gateway.apply(over(first, second))
        assert (await asking.until(DONE)).count(HELLO) == 1


async def test_nobody_is_promised_a_stream_while_another_could_answer(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine
) -> None:
    first.behaviour = in_turn((LONG, whole(b'{"error":"boom"}', 500)))
    status, headers, body = await gateway.ask(STREAM)
    assert (status, headers[b"x-aigw-backend"], headers[b"x-aigw-attempts"]) == (200, b"two", b"2")
    assert unchunked(body) == HELLO + FINISH + DONE


async def test_the_last_of_several_is_kept_alive_under_its_own_name(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine
) -> None:
    first.behaviour = says(whole(b'{"error":"boom"}', 500))
    second.behaviour = in_turn((LONG, stream(HELLO, FINISH, DONE)))
    _, headers, body = await gateway.ask(STREAM)
    assert (headers[b"x-aigw-backend"], headers[b"x-aigw-attempts"]) == (b"two", b"2")
    assert b": waiting for the first token of two" in unchunked(body)


@pytest.fixture
def slow_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time for something to change before the first one."""
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 0.5)


@pytest.mark.usefixtures("slow_beats")
async def test_a_cold_candidate_that_is_lost_is_not_named(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine
) -> None:
    """It was the only one when the wait began; another has come instead before the first sign of life."""
    gateway.apply(with_state(with_state(over(first, second), "one", State.STOPPED), "two", State.FAILED))
    second.behaviour = in_turn((1.0, stream(HELLO, FINISH, DONE)))
    async with gateway.asking(STREAM) as asking:
        await eventually(lambda: gateway.said(Demand), what="the wait for the first")
        gateway.apply(with_state(over(first, second), "one", State.FAILED))
        _, headers, body = await asking.answer()
    assert headers[b"x-aigw-backend"] == b"two"
    assert b": waiting for the first token of two" in unchunked(body)


@pytest.mark.usefixtures("slow_beats")
async def test_a_promise_is_taken_back_when_somebody_else_can_answer_again(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine
) -> None:
    """Nothing was sent yet; and the first of two is no longer the last one."""
    gateway.apply(with_state(with_state(over(first, second), "one", State.STOPPED), "two", State.FAILED))
    first.behaviour = in_turn((1.0, whole(b'{"error":"boom"}', 500)))
    async with gateway.asking(STREAM) as asking:
        await eventually(lambda: gateway.said(Demand), what="the wait for the first")
        gateway.apply(over(first, second))
        status, headers, body = await asking.answer()
    assert (status, headers[b"x-aigw-backend"]) == (200, b"two")
    assert unchunked(body) == HELLO + FINISH + DONE


@pytest.mark.parametrize(
    ("late", "code"),
    [
        pytest.param(whole(b'{"error":"boom"}', 500), "provider_failure", id="500"),
        pytest.param(whole(b'{"error":"too hot"}', 400), "invalid_request", id="400"),
        pytest.param(stream(HELLO), "stream_cut", id="cut"),
    ],
)
async def test_a_failure_after_a_sign_of_life_is_one_error_event(
    gateway: LocalGateway, first: FakeEngine, late: bytes, code: str
) -> None:
    first.behaviour = in_turn((LONG, late))
    status, headers, body = await gateway.ask(ALONE)
    assert status == 200
    events = unchunked(body)
    assert b"[DONE]" not in events
    assert msgspec.json.decode(data_of(events)[-1])["error"]["code"] == code
    assert (await gateway.record_of(headers)).error


async def test_an_answer_in_one_piece_after_a_sign_of_life_is_the_stream_that_was_promised(
    gateway: LocalGateway, first: FakeEngine
) -> None:
    first.behaviour = in_turn((LONG, whole()))
    _, _, body = await gateway.ask(ALONE)
    events = unchunked(body)
    assert (events.startswith(b": "), events.endswith(DONE), b'"content":"Hi"' in events) == (True, True, True)


async def test_a_deadline_after_a_sign_of_life_is_one_error_event(gateway: LocalGateway, first: FakeEngine) -> None:
    first.behaviour = hangs
    _, _, body = await gateway.ask(ALONE, "x-aigw-timeout: 400ms")
    (last,) = data_of(unchunked(body))
    assert msgspec.json.decode(last)["error"]["code"] == "timeout"


async def test_an_answer_in_one_piece_is_never_kept_alive(gateway: LocalGateway, first: FakeEngine) -> None:
    first.behaviour = in_turn((LONG, whole()))
    status, _, body = await gateway.ask(ASK, "x-aigw-fallback: off")
    assert (status, body.startswith(b"{")) == (200, True)


async def test_no_sign_of_life_comes_after_the_first_event(gateway: LocalGateway, first: FakeEngine) -> None:
    first.behaviour = in_turn(
        (LONG, STREAM_HEAD + chunk(HELLO)), (LONG, stream(FINISH, DONE).removeprefix(STREAM_HEAD))
    )
    _, _, body = await gateway.ask(ALONE)
    assert unchunked(body).endswith(HELLO + FINISH + DONE)


async def test_a_client_that_leaves_between_two_signs_stops_the_generation(
    gateway: LocalGateway, first: FakeEngine
) -> None:
    first.behaviour = hangs
    async with gateway.asking(ALONE) as asking:
        await asking.until(b"\n\n")
        await asking.until(b"\n\n")
    await asyncio.wait_for((await first.request()).gone.wait(), 1.0)
    await eventually(lambda: gateway.lane("one").in_flight == 0, seconds=1.0, what="the slot")
    record = await gateway.record_where(lambda record: record.stream)
    assert (record.error or "").startswith("client_left")


async def test_an_http_1_0_client_is_kept_alive_too(gateway: LocalGateway, first: FakeEngine) -> None:
    first.behaviour = in_turn((LONG, stream(HELLO, FINISH, DONE)))
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(b"POST /v1/chat/completions HTTP/1.0\r\ncontent-length: %d\r\n\r\n%b" % (len(ALONE), ALONE))
    got = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    assert b": waiting for the first token of one" in got
    assert got.endswith(HELLO + FINISH + DONE)


class Openai:
    """The openai client against a gateway."""

    def __init__(self, gateway: LocalGateway) -> None:
        self._client = AsyncOpenAI(base_url=f"http://127.0.0.1:{gateway.port}/v1", api_key="x", max_retries=0)

    async def says(self) -> str:
        """The text of a stream."""
        async with self._client as client:
            chunks = await client.chat.completions.create(model="alone", messages=[], stream=True)
            return "".join([piece.choices[0].delta.content or "" async for piece in chunks])


async def test_the_openai_client_reads_past_signs_of_life(gateway: LocalGateway, first: FakeEngine) -> None:
    first.behaviour = in_turn((LONG, stream(HELLO, FINISH, DONE)))
    assert await Openai(gateway).says() == "Hi"


async def test_the_openai_client_raises_the_error_that_follows_them(gateway: LocalGateway, first: FakeEngine) -> None:
    first.behaviour = in_turn((LONG, whole(b'{"error":"boom"}', 500)))
    with pytest.raises(APIError, match="boom"):
        await Openai(gateway).says()


async def test_what_is_waited_for_is_said_anew(gateway: LocalGateway, first: FakeEngine, second: FakeEngine) -> None:
    first.behaviour = in_turn((LONG, stream(HELLO, FINISH, DONE)))
    gateway.apply(with_state(over(first, second), "one", State.STARTING))
    async with gateway.asking(ALONE) as asking:
        await asking.until(b": loading one, 0 s\n\n")
        gateway.apply(over(first, second))
        await asking.until(b": waiting for the first token of one, 0 s\n\n")
        await asking.until(DONE)
