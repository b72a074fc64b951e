"""The gateway's rules on a real llama-server: its line, its limits, and how it dies."""

from collections.abc import AsyncIterator
from time import monotonic
from typing import Any

import httpx
import msgspec
import pytest

from aigw_daemon.link.messages import CacheView, GatewayView, Snapshot, TargetView
from tests.support.fake_engine import (
    DONE,
    FINISH,
    HELLO,
    FakeEngine,
    fake_engine,
    says,
    stream,
    whole,
)
from tests.support.gateway import backend, data_of, route, snapshot, unchunked
from tests.support.llama_server import SERVED, LlamaServer, llama_server_running
from tests.support.local_gateway import LocalGateway, local_gateway
from tests.support.wait import eventually


@pytest.fixture
async def llama() -> AsyncIterator[LlamaServer]:
    """One place, and room for 512 tokens."""
    async with llama_server_running(context=512) as running:
        yield running


@pytest.fixture
async def other() -> AsyncIterator[FakeEngine]:
    async with fake_engine(says(whole())) as running:
        yield running


@pytest.fixture
async def gateway(llama: LlamaServer, other: FakeEngine) -> AsyncIterator[LocalGateway]:
    async with local_gateway(over(llama, other)) as running:
        yield running


def over(llama: LlamaServer, other: FakeEngine, **changes: Any) -> Snapshot:
    """A route over both, and one to llama.cpp alone; it gets one request at a time."""
    one = msgspec.structs.replace(backend("llama", llama.port, models=[SERVED]), max_concurrency=1)
    views = (one, backend("other", other.port, models=["o"]))
    both = msgspec.structs.replace(route("m", ("llama", SERVED), ("other", "o")), **changes)
    alone = msgspec.structs.replace(route("alone", ("llama", SERVED)), **changes)
    return snapshot(*views, routes=[both, alone], gateway=GatewayView(request_timeout=60.0))


def chat(model: str, words: int = 2, **fields: Any) -> bytes:
    """A request whose prompt has about so many tokens."""
    said = [{"role": "user", "content": "hello " * words}]
    return msgspec.json.encode({"model": model, "messages": said, "max_tokens": 8, **fields})


STREAMS: list[dict[str, Any]] = [
    {},
    {"stream_options": {"include_usage": True}},
    {"stream_options": {"include_usage": False}},
    {"timings_per_token": True, "return_progress": True},
    {"timings_per_token": True, "stream_options": {"include_usage": True}},
    {"logprobs": True, "top_logprobs": 2, "__verbose": True, "stop": ["hello"]},
]
VARYING = frozenset({"id", "created", "timings", "__verbose", "prompt_tokens_details", "time_ms", "cache", "processed"})


def same_each_time(value: Any) -> Any:
    """An event without what two runs of a request say differently; that it is said is kept."""
    match value:
        case dict():
            return {name: None if name in VARYING else same_each_time(each) for name, each in value.items()}
        case list():
            return [same_each_time(each) for each in value]
        case _:
            return value


async def events_of(port: int, body: bytes) -> list[Any]:
    """What a client is told by a stream, event by event."""
    async with httpx.AsyncClient(timeout=60) as client:
        answer = await client.post(f"http://127.0.0.1:{port}/v1/chat/completions", content=body)
    told = data_of(answer.content)
    return [data if data == b"[DONE]" else same_each_time(msgspec.json.decode(data)) for data in told]


@pytest.mark.parametrize("cache", ["off", "on"])
async def test_a_client_is_told_what_the_engine_would_have_told_it(
    gateway: LocalGateway, llama: LlamaServer, other: FakeEngine, cache: str
) -> None:
    gateway.apply(msgspec.structs.replace(over(llama, other), cache=CacheView(mode=cache)))
    for number, options in enumerate(STREAMS):
        fields = {"stream": True, "temperature": 0, "seed": number, "max_tokens": 3, **options}
        direct = await events_of(llama.port, chat(SERVED, **fields))
        assert len(direct) > 2, options
        assert await events_of(gateway.port, chat("alone", **fields)) == direct, options
        if cache == "on":
            assert await events_of(gateway.port, chat("alone", **fields)) == direct, options


async def test_tokens_are_counted_whatever_the_client_says_of_usage(gateway: LocalGateway) -> None:
    counts = set()
    for options in (None, {"include_usage": True}, {"include_usage": False}):
        body = chat("alone", temperature=0, max_tokens=3, stream=True, stream_options=options)
        _, headers, _ = await gateway.ask(body, seconds=60.0)
        record = await gateway.record_of(headers)
        counts.add((record.prompt_tokens, record.completion_tokens))
    assert len(counts) == 1
    assert None not in counts.pop()


ENDLESS = {"ignore_eos": True, "max_tokens": 400, "stream": True}


async def test_the_second_waits_in_our_line_and_not_in_the_engine(gateway: LocalGateway, llama: LlamaServer) -> None:
    async with gateway.asking(chat("alone", **{**ENDLESS, "max_tokens": 100})) as running:
        await running.until(b"data: ")
        async with gateway.asking(chat("alone")) as waiting:
            await eventually(lambda: gateway.lane("llama").waiting == 1, what="a waiter")
            assert await llama.metric("requests_processing") == 1
            assert await llama.metric("requests_deferred") == 0
            await running.until(b"[DONE]", seconds=60.0)
            status, headers, _ = await waiting.answer(60.0)
    assert (status, headers[b"x-aigw-backend"]) == (200, b"llama")
    assert (gateway.lane("llama").in_flight, gateway.lane("llama").waiting) == (0, 0)


async def test_a_client_that_leaves_a_stream_makes_room_for_the_next(gateway: LocalGateway) -> None:
    async with gateway.asking(chat("alone", **ENDLESS)) as running:
        await running.until(b"data: ")
        async with gateway.asking(chat("alone")) as waiting:
            await eventually(lambda: gateway.lane("llama").waiting == 1, what="a waiter")
            running.leave()
            await eventually(lambda: gateway.lane("llama").waiting == 0, seconds=1.0, what="its turn")
            assert (await waiting.answer(60.0))[0] == 200


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_prompt_above_its_context_goes_to_the_chain_for_long_ones(
    gateway: LocalGateway, llama: LlamaServer, other: FakeEngine, streamed: bool
) -> None:
    gateway.apply(over(llama, other, on_context_overflow=(TargetView("other", "o"),)))
    other.behaviour = says(stream(HELLO, FINISH, DONE) if streamed else whole())
    status, headers, _ = await gateway.ask(chat("alone", words=700, stream=streamed))
    assert (status, headers[b"x-aigw-backend"], headers[b"x-aigw-attempts"]) == (200, b"other", b"2")
    assert gateway.breaker("llama").failures == 0


async def test_without_such_a_chain_its_own_words_reach_the_client(gateway: LocalGateway, other: FakeEngine) -> None:
    status, _, body = await gateway.ask(chat("m", words=700))
    error = msgspec.json.decode(body)["error"]
    assert (status, error["type"], other.requests) == (400, "exceed_context_size_error", [])
    assert "exceeds the available context size" in error["message"]
    assert error["code"] == "context_length_exceeded"
    assert (error["n_ctx"], error["n_prompt_tokens"] > 512) == (512, True)


async def test_a_field_that_it_finds_wrong_is_named(gateway: LocalGateway) -> None:
    status, _, body = await gateway.ask(msgspec.json.encode({"model": "alone", "messages": "hello"}))
    error = msgspec.json.decode(body)["error"]
    assert (status, error["param"], error["code"]) == (400, "messages", "invalid_request")


async def test_half_an_emoji_is_its_to_judge(gateway: LocalGateway) -> None:
    body = rb'{"model":"alone","messages":[{"role":"user","content":"cut \ud83d"}],"max_tokens":2}'
    status, _, answer = await gateway.ask(body)
    assert (status, "surrogate" in msgspec.json.decode(answer)["error"]["message"]) == (400, True)


async def test_killed_in_mid_stream_it_ends_with_one_error(
    gateway: LocalGateway, llama: LlamaServer, other: FakeEngine
) -> None:
    async with gateway.asking(chat("m", **ENDLESS)) as running:
        begun = await running.until(b"\n\n")
        llama.kill()
        rest = await running.rest()
    events = unchunked((begun + rest).partition(b"\r\n\r\n")[2])
    assert b"[DONE]" not in events
    assert msgspec.json.decode(data_of(events)[-1])["error"]["code"] == "stream_cut"
    assert other.requests == []
    status, headers, _ = await gateway.ask(chat("m"))
    assert (status, headers[b"x-aigw-backend"]) == (200, b"other")


async def test_frozen_it_costs_a_stream_its_limit_and_no_more(
    gateway: LocalGateway, llama: LlamaServer, other: FakeEngine
) -> None:
    gateway.apply(over(llama, other, first_token_timeout=1.0))
    other.behaviour = says(stream(HELLO, FINISH, DONE))
    llama.freeze()
    began = monotonic()
    status, headers, _ = await gateway.ask(chat("m", stream=True))
    assert (status, headers[b"x-aigw-backend"], headers[b"x-aigw-attempts"]) == (200, b"other", b"2")
    assert monotonic() - began < 3.0


async def test_frozen_in_mid_stream_it_costs_the_deadline_and_no_more(
    gateway: LocalGateway, llama: LlamaServer
) -> None:
    async with gateway.asking(chat("alone", **ENDLESS), "x-aigw-timeout: 3") as running:
        await running.until(b"data: ")
        llama.freeze()
        rest = await running.rest()
    assert b'"code":"timeout"' in rest
    assert gateway.lane("llama").in_flight == 0
