"""One upstream call for equal requests: who comes when, who leaves when, and what is written down of each."""

import asyncio
import gc
import random
from collections.abc import AsyncIterator

import msgspec
import pytest

from aigw_daemon.link.messages import CacheView
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
    says,
    stream,
    whole,
)
from tests.support.gateway import unchunked
from tests.support.local_gateway import LocalGateway, local_gateway
from tests.support.sharing import (
    ASK,
    FAILURE,
    LAST,
    SOLO,
    STREAM,
    WITH_USAGE,
    aboard,
    after,
    all_aboard,
    over,
    streaming,
    word,
)
from tests.support.wait import eventually


@pytest.fixture
async def gateway(first: FakeEngine, second: FakeEngine) -> AsyncIterator[LocalGateway]:
    async with local_gateway(over(first, second)) as running:
        yield running


# Who comes when.


async def test_who_comes_while_the_answer_is_being_kept_gets_it_from_the_call(
    gateway: LocalGateway, first: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, kept = gateway.gateway.cached.cache, asyncio.Event()
    keep = cache.keep

    async def slowly(*args: object, **kwargs: object) -> bool:
        await kept.wait()
        return await keep(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(cache, "keep", slowly)
    words = [word(await gateway.ask(ASK)) for _ in range(2)]
    kept.set()
    await eventually(lambda: len(gateway.gateway.cached._flights) == 0, what="the end of the call")
    assert [*words, word(await gateway.ask(ASK))] == ["miss", "coalesced", "hit"]
    assert len(first.requests) == 1


async def test_who_comes_after_a_failure_asks_anew(gateway: LocalGateway, first: FakeEngine) -> None:
    first.behaviour = says(FAILURE)
    failed = await gateway.ask(SOLO)
    first.behaviour = says(whole())
    assert (failed[0], word(failed), word(await gateway.ask(SOLO))) == (500, "miss", "miss")


async def test_who_comes_when_the_beginning_is_gone_asks_anew_and_nothing_is_kept(
    gateway: LocalGateway, first: FakeEngine
) -> None:
    go, large = asyncio.Event(), 8 * HELLO.replace(b"Hi", b"x" * 256 * 1024)
    first.behaviour = streaming(go, FINISH, DONE, begin=large + HELLO)
    async with gateway.asking(STREAM) as leader:
        await leader.until(b'"Hi"')
        async with gateway.asking(STREAM) as late:
            assert b"x-aigw-cache: miss" in await late.until(b"\r\n\r\n")
            go.set()
            answers = [await leader.rest(), await late.rest()]
    assert [answer.endswith(LAST) for answer in answers] == [True, True]
    assert len(first.requests) == 2
    first.behaviour = says(stream(HELLO, FINISH, DONE))
    assert word(await gateway.ask(STREAM)) == "miss"


async def test_the_usage_frame_of_a_shared_stream_is_for_who_asked(gateway: LocalGateway, first: FakeEngine) -> None:
    go = asyncio.Event()
    first.behaviour = streaming(go, FINISH + USAGE + DONE)
    async with gateway.asking(STREAM) as plain, gateway.asking(WITH_USAGE) as counting:
        await all_aboard(gateway, 2)
        go.set()
        without, counted = [unchunked((await client.answer())[2]) for client in (plain, counting)]
    assert (without, counted) == (HELLO + FINISH + DONE, HELLO + FINISH + USAGE + DONE)
    assert len(first.requests) == 1


TIMINGS = b'"timings":{"prompt_n":3,"predicted_n":2}'
LLAMAS_USAGE = USAGE.replace(b"}}", b"}," + TIMINGS + b"}")
LLAMAS_FINISH = FINISH.replace(b"}]}", b"}]," + TIMINGS + b"}")


async def test_timings_reach_everybody_who_shares_a_stream_and_who_gets_it_kept(
    gateway: LocalGateway, first: FakeEngine
) -> None:
    go = asyncio.Event()
    first.behaviour = streaming(go, FINISH, LLAMAS_USAGE, DONE)
    async with gateway.asking(STREAM) as plain, gateway.asking(WITH_USAGE) as counting:
        await all_aboard(gateway, 2)
        go.set()
        live = [unchunked((await client.answer())[2]) for client in (plain, counting)]
    await eventually(lambda: len(gateway.gateway.cached._flights) == 0, what="the end of the call")
    again = [await gateway.ask(body) for body in (STREAM, WITH_USAGE)]
    assert [word(answer) for answer in again] == ["hit", "hit"]
    assert [answer[2] for answer in again] == live
    assert live == [HELLO + LLAMAS_FINISH + DONE, HELLO + FINISH + LLAMAS_USAGE + DONE]
    assert len(first.requests) == 1


UNCOUNTED = b'{"model":"m","messages":[],"stream":true,"stream_options":{"include_usage":false}}'


async def test_a_stream_whose_client_forbids_usage_is_shared_and_kept_for_its_like(
    gateway: LocalGateway, first: FakeEngine
) -> None:
    go = asyncio.Event()
    first.behaviour = streaming(go, FINISH, DONE)
    async with gateway.asking(UNCOUNTED) as one, gateway.asking(UNCOUNTED) as other:
        await all_aboard(gateway, 2)
        async with gateway.asking(WITH_USAGE) as counting:
            await all_aboard(gateway, 3)
            go.set()
            await counting.answer()
        for client in (one, other):
            assert unchunked((await client.answer())[2]) == HELLO + FINISH + DONE
    assert [request.json["stream_options"] for request in first.requests] == [
        {"include_usage": False},
        {"include_usage": True},
    ]


async def test_a_kept_stream_without_usage_is_no_answer_to_who_asks_for_it(
    gateway: LocalGateway, first: FakeEngine
) -> None:
    async def answers(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        options = request.json.get("stream_options")
        usage = [USAGE] if options == {"include_usage": True} else []
        writer.write(stream(HELLO, FINISH, *usage, DONE) if request.json.get("stream") else whole())

    first.behaviour = answers
    words = [word(await gateway.ask(body)) for body in (UNCOUNTED, UNCOUNTED, STREAM, ASK, UNCOUNTED)]
    assert words == ["miss", "hit", "hit", "miss", "hit"]
    solo = UNCOUNTED.replace(b'"m"', b'"solo"'), WITH_USAGE.replace(b'"m"', b'"solo"')
    answers_ = [await gateway.ask(body, "cache-control: no-cache") for body in solo]
    assert [USAGE in answer[2] for answer in answers_] == [False, True]


async def test_an_engine_that_refuses_to_count_usage_is_shared_and_kept(
    gateway: LocalGateway, first: FakeEngine
) -> None:
    async def refuses(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(whole(b"no", 400) if "stream_options" in request.json else stream(HELLO, FINISH, DONE))

    first.behaviour = refuses
    answers = [await gateway.ask(STREAM) for _ in range(2)]
    assert [word(answer) for answer in answers] == ["miss", "hit"]
    assert [unchunked(answer[2]) if answer is answers[0] else answer[2] for answer in answers] == [
        HELLO + FINISH + DONE
    ] * 2
    assert len(first.requests) == 2


async def test_an_answer_in_one_piece_is_shared_as_the_stream_that_each_asked_for(
    gateway: LocalGateway, first: FakeEngine
) -> None:
    go = asyncio.Event()
    first.behaviour = after(go, whole())
    async with gateway.asking(STREAM) as plain, gateway.asking(WITH_USAGE) as counting:
        await all_aboard(gateway, 2)
        go.set()
        without, counted = [(await client.answer())[2] for client in (plain, counting)]
    assert (without.endswith(DONE), b'"usage"' in without) == (True, False)
    assert (counted.endswith(DONE), b'"usage"' in counted) == (True, True)
    assert [word(await gateway.ask(body)) for body in (STREAM, WITH_USAGE, ASK)] == ["hit"] * 3
    assert len(first.requests) == 1


PARALLEL_CALLS = [
    b'data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"%b","type":"function",'
    b'"function":{"name":"f","arguments":"{\\"%b\\":1}"}}]}}]}\n\n' % (name, name)
    for name in (b"a", b"b")
]


async def test_a_kept_stream_of_parallel_calls_is_whole_as_the_engine_meant_it(
    gateway: LocalGateway, first: FakeEngine
) -> None:
    """As Ollama streams them: each call has the index 0."""
    first.behaviour = says(stream(*PARALLEL_CALLS, FINISH.replace(b"stop", b"tool_calls"), USAGE, DONE))
    await gateway.ask(STREAM)
    answer = await gateway.ask(ASK)
    calls = msgspec.json.decode(answer[2])["choices"][0]["message"]["tool_calls"]
    assert (word(answer), [call["function"]["arguments"] for call in calls]) == ("hit", ['{"a":1}', '{"b":1}'])


async def test_a_kept_stream_that_cannot_be_made_whole_for_certain_is_asked_for_again(
    gateway: LocalGateway, first: FakeEngine
) -> None:
    nameless = PARALLEL_CALLS[0].replace(b'"id":"a",', b"")
    first.behaviour = says(stream(nameless, nameless, FINISH.replace(b"stop", b"tool_calls"), USAGE, DONE))
    await gateway.ask(STREAM)
    first.behaviour = says(whole())
    assert [word(await gateway.ask(body)) for body in (STREAM, ASK, ASK)] == ["hit", "miss", "hit"]


async def test_two_tenants_at_once_make_two_calls(gateway: LocalGateway, first: FakeEngine) -> None:
    go = asyncio.Event()
    first.behaviour = after(go, whole())
    async with asyncio.TaskGroup() as tasks:
        lines = [f"authorization: Bearer {key}" for key in ("anna", "bert", "anna", "bert")]
        asked = [tasks.create_task(gateway.ask(ASK, line)) for line in lines]
        await all_aboard(gateway, 4)
        go.set()
    assert sorted(word(task.result()) for task in asked) == ["coalesced", "coalesced", "miss", "miss"]
    assert len(first.requests) == 2


async def test_another_name_for_the_same_model_does_not_share_its_way_to_a_fallback(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine
) -> None:
    go = asyncio.Event()
    first.behaviour = after(go, FAILURE)
    async with asyncio.TaskGroup() as tasks:
        chain, alone = tasks.create_task(gateway.ask(ASK)), tasks.create_task(gateway.ask(SOLO))
        await all_aboard(gateway, 2)
        go.set()
    assert (chain.result()[0], chain.result()[1][b"x-aigw-backend"], alone.result()[0]) == (200, b"two", 500)
    assert len(second.requests) == 1


# Who leaves when.


@pytest.mark.parametrize("begun", [False, True], ids=["before its head", "in its midst"])
async def test_a_leader_that_leaves_takes_nobody_along(gateway: LocalGateway, first: FakeEngine, begun: bool) -> None:
    go, begin = asyncio.Event(), asyncio.Event()

    async def send(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        await begin.wait()
        await streaming(go, FINISH, DONE)(request, writer)

    first.behaviour = send
    if begun:
        begin.set()
    async with gateway.asking(STREAM) as leader, gateway.asking(STREAM) as follower:
        await all_aboard(gateway, 2)
        if begun:
            await leader.until(b'"Hi"')
        leader.leave()
        await all_aboard(gateway, 1)
        begin.set()
        go.set()
        answer = await follower.answer()
    assert unchunked(answer[2]) == HELLO + FINISH + DONE
    assert len(first.requests) == 1
    left = await gateway.record_where(lambda record: record.status != 200 or record.error is not None)
    assert (left.cache, left.backend, left.attempts) == ("miss", "one", 1)
    assert (left.error or "").startswith("client_left")


async def test_a_thousand_calls_whose_clients_leave_at_any_moment_leave_nothing_behind(
    gateway: LocalGateway, first: FakeEngine
) -> None:
    chance = random.Random(35)

    async def sometime(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(chance.random() * 0.004)
        writer.write(whole() if "stream" not in request.json else STREAM_HEAD + chunk(HELLO))
        if "stream" in request.json:
            await asyncio.sleep(chance.random() * 0.004)
            writer.write(chunk(FINISH) + chunk(DONE) + STREAM_END)

    async def come_and_go(number: int) -> None:
        for turn in range(50):
            body = {"model": "m", "messages": [], "seed": chance.randrange(8) + 8 * turn, "stream": number % 2 == 0}
            async with gateway.asking(msgspec.json.encode(body)) as client:
                try:
                    async with asyncio.timeout(chance.random() * 0.02):
                        await client.reader.read()
                except TimeoutError:
                    client.leave()

    first.behaviour = sometime
    async with asyncio.TaskGroup() as tasks:
        for number in range(40):
            tasks.create_task(come_and_go(number))
    cached = gateway.gateway.cached
    await eventually(lambda: not cached._tasks and not cached._flights and aboard(gateway) == 0, what="the end of all")
    gc.collect()
    assert (len(cached._accounts), cached._flights._hold.bytes, gateway.lane("one").in_flight) == (0, 0, 0)
    assert word(await gateway.ask(ASK)) == "miss"
    assert len(first.requests) < 1_500, "equal requests shared calls, and kept answers"


# What is written down.


async def test_each_record_says_what_the_cache_had_to_do_with_it(gateway: LocalGateway, first: FakeEngine) -> None:
    go = asyncio.Event()
    first.behaviour = after(go, whole())
    async with asyncio.TaskGroup() as tasks:
        leader = tasks.create_task(gateway.ask(ASK))
        await all_aboard(gateway, 1)
        follower = tasks.create_task(gateway.ask(ASK))
        await all_aboard(gateway, 2)
        go.set()
    answers = [
        leader.result(),
        follower.result(),
        await gateway.ask(ASK),
        await gateway.ask(ASK, "x-aigw-cache: bypass"),
    ]
    records = [await gateway.record_of(answer[1]) for answer in answers]
    assert [(r.cache, r.backend, r.upstream_model, r.attempts, r.completion_tokens, r.status) for r in records] == [
        ("miss", "one", "m", 1, 2, 200),
        ("coalesced", "one", "m", 0, 2, 200),
        ("hit", "one", "m", 0, 2, 200),
        ("bypass", "one", "m", 1, 2, 200),
    ]
    assert {answer[2] for answer in answers} == {CHAT_ANSWER}
    counts = gateway.gateway.cached.cache.report().models["m"]
    assert (counts.misses, counts.coalesced, counts.hits, counts.saved_tokens) == (1, 1, 1, 5)


async def test_an_answer_that_comes_when_the_cache_is_off_is_not_kept(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine
) -> None:
    go = asyncio.Event()
    first.behaviour = after(go, whole())
    async with asyncio.TaskGroup() as tasks:
        leader = tasks.create_task(gateway.ask(ASK))
        await first.request()
        gateway.apply(over(first, second, cache=CacheView(mode="off")))
        go.set()
    assert (leader.result()[0], gateway.gateway.cached.cache.report().entries) == (200, 0)


async def test_a_call_that_was_begun_before_a_clear_is_joined_by_nobody_and_not_kept(
    gateway: LocalGateway, first: FakeEngine
) -> None:
    go = asyncio.Event()
    first.behaviour = after(go, whole())
    async with asyncio.TaskGroup() as tasks:
        before = tasks.create_task(gateway.ask(ASK))
        await first.request()
        assert await gateway.gateway.cached.cache.clear() == 0
        later = tasks.create_task(gateway.ask(ASK))
        await first.request()
        go.set()
    assert [word(answer.result()) for answer in (before, later)] == ["miss", "miss"]
    await eventually(lambda: len(gateway.gateway.cached._flights) == 0, what="the end of both calls")
    assert gateway.gateway.cached.cache.report().models["m"].stored == 1


async def test_a_change_of_its_size_empties_the_cache_and_forgets_no_count(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine
) -> None:
    await gateway.ask(ASK)
    gateway.apply(over(first, second, cache=CacheView(memory=8_000_000)))
    assert word(await gateway.ask(ASK)) == "miss"
    assert gateway.gateway.cached.cache.report().models["m"].misses == 2
