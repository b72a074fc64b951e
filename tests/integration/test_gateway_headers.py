"""Headers that clients of OpenAI read: the request's id under their name, and what a cloud says of itself."""

from collections.abc import AsyncIterator

import openai
import pytest
import pytest_asyncio

from aigw_daemon.link.messages import CacheView
from tests.support.fake_engine import DONE, FINISH, HELLO, STREAM_END, STREAM_HEAD, FakeEngine, chunk, says, whole
from tests.support.gateway import backend, route, snapshot
from tests.support.local_gateway import LocalGateway, local_gateway

ASK = b'{"model":"m","messages":[]}'
STREAM = b'{"model":"m","messages":[],"stream":true}'
CLOUD = ("x-request-id: req-up", "openai-processing-ms: 12", "x-ratelimit-remaining-requests: 59", "set-cookie: a=b")
KEPT = {b"x-upstream-request-id": b"req-up", b"openai-processing-ms": b"12", b"x-ratelimit-remaining-requests": b"59"}
STREAMED = STREAM_HEAD[:-2] + "".join(f"{line}\r\n" for line in CLOUD).encode() + b"\r\n"


@pytest_asyncio.fixture(params=["off", "all"], ids=["not kept", "kept"])
async def gateway(first: FakeEngine, request: pytest.FixtureRequest) -> AsyncIterator[LocalGateway]:
    """A gateway whose answers are kept, or not."""
    one, cache = backend("one", first.port), CacheView(mode=request.param)
    async with local_gateway(snapshot(one, routes=[route("m", ("one", "m"))], cache=cache)) as local:
        yield local


def kept(headers: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Those of an engine's."""
    assert b"set-cookie" not in headers
    assert headers[b"x-request-id"] == headers[b"x-aigw-request-id"]
    return {name: value for name, value in headers.items() if name in KEPT}


@pytest.mark.parametrize("status", [200, 400, 429, 500])
async def test_what_a_cloud_says_of_itself_reaches_the_client(
    gateway: LocalGateway, first: FakeEngine, status: int
) -> None:
    answer = whole(status=status) if status == 200 else whole(b'{"error":{"message":"no"}}', status)
    first.behaviour = says(answer.replace(b"\r\n", "".join(f"\r\n{line}" for line in CLOUD).encode() + b"\r\n", 1))
    got, headers, _ = await gateway.ask(ASK)
    assert (got, kept(headers)) == (status, KEPT)


async def test_it_reaches_the_client_of_a_stream(gateway: LocalGateway, first: FakeEngine) -> None:
    first.behaviour = says(STREAMED + b"".join(map(chunk, (HELLO, FINISH, DONE))) + STREAM_END)
    got, headers, _ = await gateway.ask(STREAM)
    assert (got, kept(headers)) == (200, KEPT)


async def test_a_kept_answer_says_nothing_of_a_limit_of_long_ago(gateway: LocalGateway, first: FakeEngine) -> None:
    first.behaviour = says(STREAMED + b"".join(map(chunk, (HELLO, FINISH, DONE))) + STREAM_END)
    await gateway.ask(STREAM)
    _, headers, _ = await gateway.ask(STREAM)
    hit = headers[b"x-aigw-cache"] == b"hit"
    assert kept(headers) == ({} if hit else KEPT)
    assert hit == (len(first.requests) == 1)


async def test_an_engine_that_was_asked_before_says_nothing_of_the_one_that_answers(
    first: FakeEngine, second: FakeEngine
) -> None:
    first.behaviour = says(whole(b"{}", 500, *CLOUD))
    both = snapshot(
        backend("one", first.port), backend("two", second.port), routes=[route("m", ("one", "m"), ("two", "m"))]
    )
    async with local_gateway(both) as gateway:
        got, headers, _ = await gateway.ask(ASK)
    assert (got, headers[b"x-aigw-backend"], kept(headers)) == (200, b"two", {})


async def test_the_openai_client_knows_the_request_by_its_id(gateway: LocalGateway, first: FakeEngine) -> None:
    first.behaviour = says(whole())
    url = f"http://127.0.0.1:{gateway.port}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="not-needed", max_retries=0) as client:
        answer = await client.chat.completions.create(model="m", messages=[])
        with pytest.raises(openai.NotFoundError) as caught:
            await client.chat.completions.create(model="nosuch", messages=[])
    assert answer._request_id == (await gateway.record_where(lambda record: record.status == 200)).id
    assert caught.value.request_id == (await gateway.record_where(lambda record: record.status == 404)).id
