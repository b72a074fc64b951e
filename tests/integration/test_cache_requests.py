"""Which requests share an answer, and in which form they get it: every endpoint, every shape, every kind of client."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from aigw_daemon.gateway.cache.flight import FINISH_SECONDS
from aigw_daemon.link.messages import CacheView, ModelView, Snapshot
from aigw_daemon.words import State
from tests.support.fake_engine import (
    CHAT_ANSWER,
    DONE,
    FINISH,
    HELLO,
    STREAM_END,
    STREAM_HEAD,
    USAGE,
    EngineRequest,
    FakeEngine,
    chunk,
    hangs,
    says,
    stream,
    whole,
)
from tests.support.gateway import ask, backend, data_of, parse_answer, post, route, snapshot, unchunked
from tests.support.local_gateway import Answer, LocalGateway, local_gateway, with_state
from tests.support.wait import eventually

PICTURE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]}]
TOOLS = [{"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}]
SEES = ("chat", "completions", "vision", "tools")
CALLED = whole(
    b'{"id":"1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant",'
    b'"content":null,"tool_calls":[{"id":"c1","type":"function","function":{"name":"now","arguments":"{}"}}]},'
    b'"finish_reason":"tool_calls"}],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}'
)


@pytest.fixture
async def gateway(first: FakeEngine, second: FakeEngine) -> AsyncIterator[LocalGateway]:
    async with local_gateway(over(first, second)) as running:
        yield running


def over(first: FakeEngine, second: FakeEngine, **changes: Any) -> Snapshot:
    """A route from a model that only chats to one that can see as well."""
    one = msgspec.structs.replace(
        backend("one", first.port), models=(ModelView("m", 1, context=4096, capabilities=("chat", "completions")),)
    )
    two = msgspec.structs.replace(
        backend("two", second.port), models=(ModelView("m2", 1, context=100_000, capabilities=SEES),)
    )
    targets = msgspec.structs.replace(route("m", ("one", "m"), ("two", "m2")), **changes)
    return snapshot(one, two, routes=[targets], cache=CacheView())


def body(**fields: object) -> bytes:
    return msgspec.json.encode({"model": "m", "messages": [{"role": "user", "content": "Hello"}], **fields})


def word(answer: Answer) -> str:
    return answer[1][b"x-aigw-cache"].decode()


async def words(gateway: LocalGateway, *bodies: bytes, path: str = "chat/completions") -> list[str]:
    return [word(await gateway.ask(each, path=path)) for each in bodies]


# Whose answer it is.


@pytest.mark.parametrize(
    "special",
    [
        pytest.param(body(messages=PICTURE), id="a picture"),
        pytest.param(body(tools=TOOLS), id="tools"),
        pytest.param(body(messages=[{"role": "user", "content": "word " * 20_000}]), id="a long prompt"),
    ],
)
async def test_the_first_choice_of_a_request_is_who_is_able_to_answer_it(
    gateway: LocalGateway, second: FakeEngine, special: bytes
) -> None:
    assert await words(gateway, special, special) == ["miss", "hit"]
    assert len(second.requests) == 1


async def test_a_backend_that_is_down_stays_the_first_choice(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine
) -> None:
    gateway.apply(with_state(over(first, second), "one", State.FAILED))
    assert await words(gateway, body(), body()) == ["miss", "miss"]
    gateway.apply(over(first, second))
    assert await words(gateway, body(), body()) == ["miss", "hit"]
    assert (len(first.requests), len(second.requests)) == (1, 2)


async def test_targets_that_a_route_draws_from_are_equal(first: FakeEngine, second: FakeEngine) -> None:
    async with local_gateway(over(first, second, balance="least_busy")) as gateway:
        for seed in range(8):
            assert await words(gateway, body(seed=seed), body(seed=seed)) == ["miss", "hit"]
    assert len(first.requests) + len(second.requests) == 8


async def test_no_fallback_and_a_backend_by_name_bypass_the_cache(gateway: LocalGateway, first: FakeEngine) -> None:
    await gateway.ask(body())
    for line in ("x-aigw-fallback: off", "x-aigw-backend: one"):
        assert word(await gateway.ask(body(), line)) == "bypass"
    assert len(first.requests) == 3


# Which form it has.


EMBEDDING = b'{"object":"list","model":"m","data":[{"object":"embedding","index":0,"embedding":[0.1,-2.50,3e-07,1]}]}'
RANKS = (
    b'{"model":"m","results":[{"index":1,"relevance_score":0.98765432109876543},{"index":0,"relevance_score":1e-9}]}'
)


@pytest.mark.parametrize(("path", "answer"), [("embeddings", EMBEDDING), ("rerank", RANKS)])
async def test_vectors_and_ranks_come_back_byte_for_byte(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine, path: str, answer: bytes
) -> None:
    del second
    any_kind = msgspec.structs.replace(
        backend("one", first.port), endpoints=("chat/completions", "embeddings", "rerank")
    )
    gateway.apply(snapshot(any_kind, cache=CacheView(mode="deterministic")))
    first.behaviour = says(whole(answer))
    asking = b'{"model":"m","input":["a"],"query":"q","documents":["a","b"]}'
    answers = [await gateway.ask(asking, path=path) for _ in range(2)]
    assert [word(each) for each in answers] == ["miss", "hit"]
    assert answers[0][2] == answers[1][2] == answer


@pytest.mark.parametrize(("path", "answer"), [("embeddings", EMBEDDING), ("rerank", RANKS)])
async def test_vectors_and_ranks_come_in_one_piece_whatever_was_asked_for(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine, path: str, answer: bytes
) -> None:
    both = ("chat/completions", "embeddings", "rerank")
    wanted = over(first, second)
    backends = tuple(
        msgspec.structs.replace(view, endpoints=both, models=(ModelView(view.models[0].id, 1),))
        for view in wanted.backends
    )
    gateway.apply(msgspec.structs.replace(wanted, backends=backends))
    first.behaviour = says(whole(answer))
    for stream_said in (True, True, False):
        asked = body(input=["a"], query="q", documents=["a", "b"], stream=stream_said)
        got = await gateway.ask(asked, path=path)
        assert (got[0], got[2]) == (200, answer)
    assert len(first.requests) == 1


async def test_an_answer_that_has_no_other_form_is_asked_for_again(gateway: LocalGateway, first: FakeEngine) -> None:
    odd = FINISH.replace(b'"delta":{}', b'"delta":{"content":{"text":"Hi"}}')
    first.behaviour = says(stream(HELLO, odd, DONE))
    assert await words(gateway, body(stream=True), body(stream=True)) == ["miss", "hit"]
    first.behaviour = says(whole())
    answer = await gateway.ask(body())
    assert (answer[0], word(answer), answer[2]) == (200, "miss", CHAT_ANSWER)


@pytest.mark.parametrize("seconds", [0.0, 0.002, 0.1])
async def test_a_stream_is_kept_whose_client_leaves_at_its_last_event(
    gateway: LocalGateway, first: FakeEngine, seconds: float
) -> None:
    async def ends_late(_: object, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + b"".join(map(chunk, (HELLO, FINISH, DONE))))
        await asyncio.sleep(seconds)  # many engines take a moment for the body's formal end
        writer.write(STREAM_END)

    first.behaviour = ends_late
    async with gateway.asking(body(stream=True)) as client:
        await client.until(DONE)
    await eventually(lambda: gateway.gateway.cached.cache.report().entries == 1, what="the answer kept")
    assert await words(gateway, body(stream=True)) == ["hit"]


async def test_an_engine_that_never_ends_its_stream_is_let_go_a_second_after_the_last_client(
    gateway: LocalGateway, first: FakeEngine
) -> None:
    async def never_ends(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + b"".join(map(chunk, (HELLO, FINISH, DONE))))
        await hangs(request, writer)

    first.behaviour = never_ends
    async with gateway.asking(body(stream=True)) as client:
        await client.until(DONE)
    request = await first.request()
    await asyncio.wait_for(request.gone.wait(), FINISH_SECONDS + 1)
    await eventually(lambda: len(gateway.gateway.cached._flights) == 0, what="the end of the call")
    assert gateway.lane("one").in_flight == 0


async def test_what_runs_under_the_same_name_now_does_not_give_the_old_ones_answers(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine
) -> None:
    def running(revision: str) -> Snapshot:
        wanted = over(first, second)
        views = (msgspec.structs.replace(view, revision=revision) for view in wanted.backends)
        return msgspec.structs.replace(wanted, backends=tuple(views))

    gateway.apply(running("one model"))
    assert await words(gateway, body(), body()) == ["miss", "hit"]
    gateway.apply(running("another"))
    assert await words(gateway, body(), body()) == ["miss", "hit"]
    gateway.apply(running("one model"))
    assert await words(gateway, body()) == ["hit"]


async def test_the_strictest_of_two_lines_about_the_cache_holds(gateway: LocalGateway) -> None:
    lines = ("cache-control: no-store", "cache-control: max-age=60")
    assert [word(await gateway.ask(body(), *lines)) for _ in range(2)] == ["miss", "miss"]
    assert gateway.gateway.cached.cache.report().entries == 0


async def test_long_api_keys_are_told_apart_and_not_remembered(gateway: LocalGateway) -> None:
    for number in range(3):
        line = f"authorization: Bearer {number}{'x' * 60_000}"
        assert [word(await gateway.ask(body(), line)) for _ in range(3)] == ["miss", "hit", "hit"]
    cached = gateway.gateway.cached
    assert cached._scopes == {}
    assert all(len(scope) == 32 for _, scope, _ in cached._heard)


async def test_the_same_prompt_at_two_endpoints_is_two_requests(gateway: LocalGateway, first: FakeEngine) -> None:
    first.behaviour = says(whole(CHAT_ANSWER.replace(b'"message":{"role":"assistant","content":"Hi"}', b'"text":"Hi"')))
    asking = body(prompt="Hello")
    assert await words(gateway, asking, asking, path="completions") == ["miss", "hit"]
    assert await words(gateway, asking) == ["miss"]


async def test_several_choices_with_likelihoods_go_both_ways(gateway: LocalGateway, first: FakeEngine) -> None:
    likely = {"content": [{"token": "Hi", "logprob": -0.25, "bytes": [72, 105], "top_logprobs": []}]}
    answer = msgspec.json.decode(CHAT_ANSWER)
    answer["choices"] = [{**answer["choices"][0], "index": index, "logprobs": likely} for index in range(2)]
    first.behaviour = says(whole(msgspec.json.encode(answer)))
    assert await words(gateway, body(n=2, logprobs=True)) == ["miss"]
    streamed = await gateway.ask(body(n=2, logprobs=True, stream=True, stream_options={"include_usage": True}))
    again = await gateway.ask(body(logprobs=True, n=2))
    assert (word(streamed), word(again), msgspec.json.decode(again[2])) == ("hit", "hit", answer)
    chunks = [msgspec.json.decode(data) for data in data_of(streamed[2])[:-1]]
    said = [choice for each in chunks for choice in each["choices"]]
    assert {choice["index"]: choice["logprobs"] for choice in said if choice.get("logprobs")} == {0: likely, 1: likely}
    assert chunks[-1]["usage"] == answer["usage"]
    assert await words(gateway, body(logprobs=True)) == ["miss"]


async def test_a_call_of_a_tool_is_kept_and_streams_as_one(gateway: LocalGateway, second: FakeEngine) -> None:
    second.behaviour = says(CALLED)
    assert await words(gateway, body(tools=TOOLS)) == ["miss"]
    status, headers, streamed = await gateway.ask(body(tools=TOOLS, stream=True))
    assert (status, headers[b"x-aigw-cache"], headers[b"x-aigw-backend"]) == (200, b"hit", b"two")
    deltas = [msgspec.json.decode(data)["choices"][0] for data in data_of(streamed)[:-1]]
    assert [delta["delta"]["tool_calls"] for delta in deltas if "tool_calls" in delta["delta"]] == [
        [{"index": 0, "id": "c1", "type": "function", "function": {"name": "now", "arguments": "{}"}}]
    ]
    assert deltas[-1]["finish_reason"] == "tool_calls"


async def test_stream_options_that_change_the_events_are_another_request(
    gateway: LocalGateway, first: FakeEngine
) -> None:
    first.behaviour = says(stream(HELLO, FINISH, USAGE, DONE))
    plain, counted = body(stream=True), body(stream=True, stream_options={"include_usage": True})
    each = body(stream=True, stream_options={"include_usage": True, "continuous_usage_stats": True})
    assert await words(gateway, plain, counted, each, each, plain) == ["miss", "hit", "miss", "hit", "hit"]


async def no_call_left(gateway: LocalGateway) -> None:
    """A large answer is kept in a thread, after it was sent: until then it can still be shared."""
    await eventually(lambda: len(gateway.gateway.cached._flights) == 0, what="the end of all calls")


@pytest.mark.parametrize(("size", "again"), [(1_000_000, "hit"), (2 * 1024 * 1024, "miss")])
async def test_an_answer_is_kept_up_to_its_limit(
    gateway: LocalGateway, first: FakeEngine, size: int, again: str
) -> None:
    large = CHAT_ANSWER.replace(b"Hi", b"x" * size)
    first.behaviour = says(whole(large))
    answers = [await gateway.ask(body())]
    await no_call_left(gateway)
    answers.append(await gateway.ask(body()))
    assert [word(answer) for answer in answers] == ["miss", again]
    assert {answer[2] for answer in answers} == {large}


async def test_a_stream_is_kept_up_to_the_same_limit(first: FakeEngine, second: FakeEngine) -> None:
    wanted = msgspec.structs.replace(over(first, second), cache=CacheView(max_answer=4 * 1024 * 1024))
    pieces = [HELLO.replace(b"Hi", b"x" * 60_000)] * 40
    first.behaviour = says(stream(*pieces, FINISH, DONE))
    async with local_gateway(wanted) as gateway:
        answers = [await gateway.ask(body(stream=True))]
        cached = gateway.gateway.cached.cache
        await eventually(lambda: cached.report().entries == 1, what="the answer being kept")
        answers.append(await gateway.ask(body(stream=True)))
        plain = await gateway.ask(body())
    assert [word(answer) for answer in (*answers, plain)] == ["miss", "hit", "hit"]
    assert unchunked(answers[0][2]) == answers[1][2]
    assert len(msgspec.json.decode(plain[2])["choices"][0]["message"]["content"]) == 40 * 60_000


async def test_large_requests_are_cached_as_well(gateway: LocalGateway, second: FakeEngine) -> None:
    large = body(messages=[{"role": "user", "content": "word " * 80_000}], temperature=0)
    assert await words(gateway, large, large.replace(b'"temperature":0', b'"temperature": 0')) == ["miss", "hit"]
    assert len(second.requests) == 1


async def test_memory_stays_within_its_bound_under_many_large_answers(first: FakeEngine, second: FakeEngine) -> None:
    bound = 8 * 1024 * 1024
    wanted = msgspec.structs.replace(over(first, second), cache=CacheView(memory=bound, max_answer=bound // 8))
    first.behaviour = says(whole(CHAT_ANSWER.replace(b"Hi", b"x" * 900_000)))
    async with local_gateway(wanted) as gateway:
        assert await words(gateway, *(body(seed=seed) for seed in range(30))) == ["miss"] * 30
        await no_call_left(gateway)
        report = gateway.gateway.cached.cache.report()
        assert await words(gateway, body(seed=29), body(seed=0)) == ["hit", "miss"]
    assert bound / 2 < report.bytes <= bound


# Who asks.


async def test_a_client_of_http_1_0_gets_hits_and_shared_streams(gateway: LocalGateway, first: FakeEngine) -> None:
    first.behaviour = says(stream(HELLO, FINISH, DONE))
    old = post(body(stream=True)).replace(b"HTTP/1.1", b"HTTP/1.0", 1)
    miss, hit = await ask(gateway.port, old), await ask(gateway.port, old)
    assert (word(miss), word(hit)) == ("miss", "hit")
    assert miss[2] == hit[2] == HELLO + FINISH + DONE
    assert hit[1][b"content-length"] == str(len(hit[2])).encode()


async def test_hits_follow_each_other_on_one_connection(gateway: LocalGateway, first: FakeEngine) -> None:
    asking = post(body(), close=False)
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(asking * 3 + post(body()))
    async with asyncio.timeout(10):
        received = await reader.read()
    writer.close()
    answers = [parse_answer(b"HTTP/1.1" + each) for each in received.split(b"HTTP/1.1")[1:]]
    assert [word(answer) for answer in answers] == ["miss", "hit", "hit", "hit"]
    assert len(first.requests) == 1


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "DELETE"])
async def test_other_methods_never_meet_the_cache(gateway: LocalGateway, method: str) -> None:
    await gateway.ask(body())
    _, headers, _ = await ask(gateway.port, post(body()).replace(b"POST", method.encode(), 1))
    assert b"x-aigw-cache" not in headers


async def test_every_answer_says_that_nobody_between_may_keep_it(gateway: LocalGateway, first: FakeEngine) -> None:
    answers = [await gateway.ask(body()), await gateway.ask(body()), await gateway.ask(body(stream=True))]
    first.behaviour = says(stream(HELLO, FINISH, DONE))
    answers += [await gateway.ask(body(stream=True, seed=1)), await gateway.ask(b'{"model":"nobody"}')]
    first.behaviour = says(whole(b'{"error":{"message":"no"}}', 400))
    answers += [await gateway.ask(body(seed=2)), await gateway.ask(b"no json")]
    assert [answer[0] for answer in answers] == [200, 200, 200, 200, 404, 400, 400]
    assert {answer[1].get(b"cache-control") for answer in answers} == {b"private, no-store"}
