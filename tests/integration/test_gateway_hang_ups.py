"""Clients that hang up as soon as they have what they asked for: a whole answer is none that its client left."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from itertools import count

import openai
import pytest
import pytest_asyncio
from openai.types.chat import ChatCompletionMessageParam

from aigw_daemon.link.messages import CacheView, RequestRecord
from tests.support.fake_engine import (
    DONE,
    FINISH,
    HELLO,
    STREAM_END,
    STREAM_HEAD,
    USAGE,
    Behaviour,
    EngineRequest,
    FakeEngine,
    chunk,
    fake_engine,
    in_turn,
    says,
    whole,
)
from tests.support.gateway import (
    GatewayProcess,
    ask,
    backend,
    data_of,
    gateway_process,
    post,
    route,
    snapshot,
    unchunked,
)
from tests.support.wait import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

ASK = b'{"model":"m","messages":[]}'
STREAM = b'{"model":"m","messages":[],"stream":true}'
TWO = b'{"model":"m","messages":[],"stream":true,"n":2}'
SECOND = FINISH.replace(b'"index":0', b'"index":1')
NUMBERS = count()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[FakeEngine]:
    async with fake_engine(says(whole())) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def worker() -> AsyncIterator[GatewayProcess]:
    async with gateway_process(snapshot()) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module", params=["off", "all"], ids=["not kept", "kept"])
async def gateway(worker: GatewayProcess, engine: FakeEngine, request: pytest.FixtureRequest) -> GatewayProcess:
    """A worker whose answers are kept, or not."""
    cache = CacheView(mode=request.param)
    await worker.start_over(snapshot(backend("one", engine.port), routes=[route("m", ("one", "m"))], cache=cache))
    return worker


def holds(*events: bytes) -> Behaviour:
    """Stream these events, and then neither end the stream nor close."""

    async def send(_request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        for event in events:
            writer.write(chunk(event))
            await writer.drain()
            await asyncio.sleep(0.001)
        await asyncio.Event().wait()

    return send


def another(body: bytes) -> bytes:
    """The same request with another question."""
    return body.replace(b"[]", b'[{"role":"user","content":"%d"}]' % next(NUMBERS))


async def hang_up(port: int, body: bytes, after: bytes, how: str) -> None:
    """Ask, read until these bytes have come, and leave at once."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(post(body, close=False))
    async with asyncio.timeout(10):
        await reader.readuntil(after)
    if how == "reset":
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
    writer.close()


async def new_records(gateway: GatewayProcess, count: int) -> list[RequestRecord]:
    """The last records, as soon as there are so many."""
    await eventually(lambda: len(gateway.records) >= count, what=f"{count} records")
    return gateway.records[-count:]


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize(
    ("events", "after", "body"),
    [
        pytest.param((HELLO, FINISH, USAGE, DONE), b"[DONE]\n\n", STREAM, id="behind the end"),
        pytest.param((HELLO, FINISH), b'"stop"}]}\n\n', STREAM, id="behind the last choice, no end comes"),
        pytest.param((HELLO, FINISH, HELLO), b'"stop"}]}\n\n', STREAM, id="behind the last choice, more comes"),
        pytest.param((HELLO + FINISH + DONE,), b"[DONE]\n\n", STREAM, id="all in one piece"),
        pytest.param((HELLO, FINISH + SECOND), b'"index":1,"delta":{},"finish_reason":"stop"}]}\n\n', TWO, id="two"),
    ],
)
async def test_who_has_the_last_event_may_hang_up(  # noqa: PLR0917  # its examples
    gateway: GatewayProcess, engine: FakeEngine, events: tuple[bytes, ...], after: bytes, body: bytes, how: str
) -> None:
    engine.behaviour = holds(*events)
    gateway.messages.clear()
    for _ in range(5):
        await hang_up(gateway.port, another(body), after, how)
    for record in await new_records(gateway, 5):
        assert (record.status, record.error, record.finish_reason) == (200, None, "stop")


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize(
    ("events", "after", "body"),
    [
        pytest.param((HELLO,), HELLO, STREAM, id="in its midst"),
        pytest.param((HELLO, FINISH), b'"stop"}]}\n\n', TWO, id="behind the first of two choices"),
    ],
)
async def test_who_leaves_before_that_has_left(  # noqa: PLR0917  # its examples
    gateway: GatewayProcess, engine: FakeEngine, events: tuple[bytes, ...], after: bytes, body: bytes, how: str
) -> None:
    engine.behaviour = holds(*events)
    gateway.messages.clear()
    await hang_up(gateway.port, another(body), after, how)
    (record,) = await new_records(gateway, 1)
    assert (record.error or "").startswith("client_left")


async def test_a_client_that_doesnt_take_the_end_has_left(gateway: GatewayProcess, engine: FakeEngine) -> None:
    """The last events were written, and stand in the gateway: the kernel's buffers are full."""
    engine.behaviour = holds(*[HELLO * 1000] * 200, FINISH, DONE)
    gateway.messages.clear()
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, limit=1024)
    writer.write(post(another(STREAM)))
    await reader.readuntil(HELLO)
    await asyncio.sleep(0.3)  # until nothing moves any more
    writer.transport.abort()
    (record,) = await new_records(gateway, 1)
    assert (record.error or "").startswith("client_left")


async def test_those_who_share_a_stream_may_hang_up_one_by_one(gateway: GatewayProcess, engine: FakeEngine) -> None:
    engine.behaviour = in_turn((0, STREAM_HEAD + chunk(HELLO)), (0.3, chunk(FINISH)), (0.3, chunk(DONE) + STREAM_END))
    gateway.messages.clear()
    same = another(STREAM)
    async with asyncio.TaskGroup() as tasks:
        for _ in range(3):
            tasks.create_task(hang_up(gateway.port, same, b'"stop"}]}\n\n', "close"))
        tasks.create_task(hang_up(gateway.port, same, HELLO, "close"))
    records = await new_records(gateway, 4)
    assert sorted(record.error or "" for record in records)[:3] == [""] * 3
    assert sum((record.error or "").startswith("client_left") for record in records) == 1


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_who_has_a_whole_answer_may_hang_up(gateway: GatewayProcess, engine: FakeEngine, how: str) -> None:
    engine.behaviour = says(whole())
    gateway.messages.clear()
    for asked in [another(ASK) for _ in range(5)] * 2:
        await hang_up(gateway.port, asked, b"}}", how)
    for record in await new_records(gateway, 10):
        assert (record.status, record.error, record.finish_reason) == (200, None, "stop")


async def test_streams_of_the_openai_client_are_never_left(gateway: GatewayProcess, engine: FakeEngine) -> None:
    """It closes the connection when it has read the end, whatever still comes."""
    engine.behaviour = in_turn(
        (0, STREAM_HEAD + chunk(HELLO)), (0, chunk(FINISH)), (0, chunk(USAGE)), (0, chunk(DONE)), (0.01, STREAM_END)
    )
    gateway.messages.clear()

    def ask() -> None:
        for _ in range(20):
            with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="not-needed", max_retries=0) as client:
                asked: list[ChatCompletionMessageParam] = [{"role": "user", "content": str(next(NUMBERS))}]
                list(client.chat.completions.create(model="m", messages=asked, stream=True))

    await asyncio.to_thread(ask)
    assert {record.error for record in await new_records(gateway, 20)} == {None}


async def test_an_engine_that_holds_a_stream_that_has_ended_spoils_it_for_nobody(
    gateway: GatewayProcess, engine: FakeEngine
) -> None:
    """Its client has every event when its time is up: no error follows them."""
    engine.behaviour = holds(HELLO, FINISH, DONE)
    asked = post(another(STREAM), "/v1/chat/completions", "x-aigw-timeout: 500ms")
    status, headers, body = await ask(gateway.port, asked)
    assert (status, data_of(unchunked(body))[-1]) == (200, b"[DONE]")
    record = await gateway.record_of(headers)
    assert (record.status, record.error, record.finish_reason) == (200, None, "stop")
