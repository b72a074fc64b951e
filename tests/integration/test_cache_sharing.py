"""One upstream call for equal requests: who comes when, who leaves when, and whose clock, failure and answer it is."""

import asyncio
import gc
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import msgspec
import pytest

from aigw_daemon.gateway import heartbeat
from aigw_daemon.link.messages import CacheView, GatewayView, Snapshot
from aigw_daemon.words import State
from tests.support.fake_engine import (
    CHAT_ANSWER,
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
    hangs,
    says,
    stream,
    whole,
)
from tests.support.gateway import backend, route, snapshot, unchunked
from tests.support.local_gateway import Answer, Asking, LocalGateway, local_gateway, with_state
from tests.support.wait import eventually

FAILURE = whole(b'{"error":{"message":"boom"}}', 500)
REFUSAL = whole(b'{"error":{"message":"top_p is wrong"}}', 400)
ASK = b'{"model":"m","messages":[]}'
SOLO = ASK.replace(b'"m"', b'"solo"')
STREAM = b'{"model":"m","messages":[],"stream":true}'
WITH_USAGE = b'{"model":"m","messages":[],"stream":true,"stream_options":{"include_usage":true}}'
LAST = DONE + b"\r\n" + STREAM_END
LONG = 30.0


@pytest.fixture
async def first() -> AsyncIterator[FakeEngine]:
    async with fake_engine(says(whole())) as running:
        yield running


@pytest.fixture
async def second() -> AsyncIterator[FakeEngine]:
    async with fake_engine(says(whole())) as running:
        yield running


@pytest.fixture
async def gateway(first: FakeEngine, second: FakeEngine) -> AsyncIterator[LocalGateway]:
    async with local_gateway(over(first, second)) as running:
        yield running


def over(first: FakeEngine, second: FakeEngine, seconds: float = LONG, cache: CacheView | None = None) -> Snapshot:
    """A route over two engines, and one to the first alone."""
    views = (backend("one", first.port), backend("two", second.port, models=["m2"]))
    routes = [route("m", ("one", "m"), ("two", "m2")), route("solo", ("one", "m"))]
    return snapshot(*views, routes=routes, gateway=GatewayView(request_timeout=seconds), cache=cache or CacheView())


def after(go: asyncio.Event, *answers: bytes) -> Behaviour:
    """The first request gets the first answer when it is time, the next ones theirs at once, the last one repeats."""
    left = list(answers)

    async def send(_request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        answer = left.pop(0) if len(left) > 1 else left[0]
        await go.wait()
        writer.write(answer)

    return send


def streaming(go: asyncio.Event, *rest: bytes, begin: bytes = HELLO) -> Behaviour:
    """A stream that begins at once and goes on when it is time."""

    async def send(_request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunk(begin))
        await go.wait()
        writer.write(b"".join(map(chunk, rest)) + STREAM_END)

    return send


def aboard(gateway: LocalGateway) -> int:
    """How many clients wait for shared calls now."""
    return sum(len(account._calls) for account in gateway.gateway.cached._accounts.values())


async def all_aboard(gateway: LocalGateway, count: int) -> None:
    await eventually(lambda: aboard(gateway) == count, what=f"{count} clients aboard")


def word(answer: Answer) -> str:
    return answer[1][b"x-aigw-cache"].decode()


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
    go, large = asyncio.Event(), HELLO.replace(b"Hi", b"x" * 2 * 1024 * 1024)
    first.behaviour = streaming(go, FINISH, DONE, begin=large)
    async with gateway.asking(STREAM) as leader:
        await leader.until(b'"}')
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


# Whose clock it is.


async def test_a_followers_own_timeout_is_its_alone(gateway: LocalGateway, first: FakeEngine) -> None:
    go = asyncio.Event()
    first.behaviour = after(go, whole())
    async with asyncio.TaskGroup() as tasks:
        leader = tasks.create_task(gateway.ask(ASK))
        await all_aboard(gateway, 1)
        hasty = await gateway.ask(ASK, "x-aigw-timeout: 200ms")
        go.set()
    assert (hasty[0], leader.result()[0], len(first.requests)) == (504, 200, 1)
    assert b"within 0.2 s" in hasty[2]


async def test_a_leaders_own_timeout_is_its_alone(gateway: LocalGateway, first: FakeEngine) -> None:
    go = asyncio.Event()
    first.behaviour = after(go, whole())
    async with asyncio.TaskGroup() as tasks:
        hasty = tasks.create_task(gateway.ask(ASK, "x-aigw-timeout: 300ms"))
        await all_aboard(gateway, 1)
        follower = tasks.create_task(gateway.ask(ASK))
        await all_aboard(gateway, 2)
        await hasty
        go.set()
    assert (hasty.result()[0], follower.result()[0], len(first.requests)) == (504, 200, 1)


async def test_who_will_wait_longer_than_usual_may(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine
) -> None:
    gateway.apply(over(first, second, seconds=0.2))
    go = asyncio.Event()
    first.behaviour = after(go, whole())
    async with asyncio.TaskGroup() as tasks:
        patient = tasks.create_task(gateway.ask(SOLO, "x-aigw-timeout: 20s"))
        await asyncio.wait([patient], timeout=0.5)
        go.set()
    assert patient.result()[0] == 200


async def test_the_deadline_of_the_call_is_the_leaders_and_a_follower_has_what_is_left_of_its_own(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine
) -> None:
    gateway.apply(over(first, second, seconds=0.6))
    first.behaviour = hangs
    async with asyncio.TaskGroup() as tasks:
        leader = tasks.create_task(gateway.ask(SOLO))
        await all_aboard(gateway, 1)
        await asyncio.wait([leader], timeout=0.3)
        began = time.monotonic()
        follower = tasks.create_task(gateway.ask(SOLO))
    assert (leader.result()[0], follower.result()[0], len(first.requests)) == (504, 504, 2)
    assert 0.4 < time.monotonic() - began < 1.5
    assert b"within 0.6 s" in leader.result()[2]


async def test_who_goes_alone_is_held_to_a_deadline(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine
) -> None:
    gateway.apply(over(first, second, seconds=1.0))
    go = asyncio.Event()

    async def fails_then_hangs(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        if request is first.requests[0]:
            await after(go, FAILURE)(request, writer)
        else:
            await hangs(request, writer)

    first.behaviour = fails_then_hangs
    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(gateway.ask(SOLO)) for _ in range(3)]
        await all_aboard(gateway, 3)
        go.set()
    assert sorted(task.result()[0] for task in asked) == [500, 504, 504]


async def test_a_cold_start_stops_the_clock_of_all_and_every_stream_gets_signs_of_life(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 0.05)
    warm = over(first, second, seconds=0.3)
    gateway.apply(with_state(warm, "one", State.STARTING))
    first.behaviour = says(stream(HELLO, FINISH, DONE))
    body = STREAM.replace(b'"m"', b'"solo"')
    async with AsyncExitStack() as clients:
        waiting: list[Asking] = [await clients.enter_async_context(gateway.asking(body)) for _ in range(3)]
        for client in waiting:
            for _ in range(10):
                await client.until(b": loading one")
        gateway.apply(warm)
        rests = [await client.rest() for client in waiting]
    assert all(rest.endswith(LAST) and b'"Hi"' in rest for rest in rests)
    assert len(first.requests) == 1


async def test_after_a_cold_start_that_was_in_vain_a_follower_still_has_its_time(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine
) -> None:
    warm, go = over(first, second, seconds=0.5), asyncio.Event()
    gateway.apply(with_state(warm, "one", State.STARTING))
    first.behaviour = after(go, FAILURE, whole())
    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(gateway.ask(SOLO)) for _ in range(2)]
        await all_aboard(gateway, 2)
        await asyncio.wait(asked, timeout=0.8)
        gateway.apply(warm)
        await first.request()
        go.set()
    assert sorted(task.result()[0] for task in asked) == [200, 500]


# Whose failure it is.


async def test_who_goes_alone_says_so(gateway: LocalGateway, first: FakeEngine) -> None:
    go = asyncio.Event()
    first.behaviour = after(go, FAILURE, whole())
    async with asyncio.TaskGroup() as tasks:
        leader = tasks.create_task(gateway.ask(SOLO))
        await all_aboard(gateway, 1)
        follower = tasks.create_task(gateway.ask(SOLO))
        await all_aboard(gateway, 2)
        go.set()
    failed, alone = leader.result(), follower.result()
    assert [(answer[0], word(answer), answer[1][b"x-aigw-attempts"]) for answer in (failed, alone)] == [
        (500, "miss", b"1"),
        (200, "miss", b"1"),
    ]
    record = await gateway.record_of(alone[1])
    assert (record.cache, record.backend, record.attempts, record.completion_tokens) == ("miss", "one", 1, 2)
    counts = gateway.gateway.cached.cache.report().models["solo"]
    assert (counts.misses, counts.coalesced, counts.hits) == (2, 0, 0)


async def test_a_failed_chain_tells_its_leader_all_that_was_tried(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine
) -> None:
    first.behaviour = second.behaviour = says(FAILURE)
    status, headers, body = await gateway.ask(ASK)
    assert (status, headers[b"x-aigw-attempts"], headers[b"x-aigw-cache"]) == (500, b"2", b"miss")
    assert b"one: it answered 500: boom; two: it answered 500: boom" in body
    record = await gateway.record_of(headers)
    assert (record.attempts, record.backend, record.cache) == (2, "two", "miss")


async def test_a_refusal_of_the_same_bytes_is_told_to_everybody(gateway: LocalGateway, first: FakeEngine) -> None:
    go = asyncio.Event()
    first.behaviour = after(go, REFUSAL, whole())
    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(gateway.ask(ASK)) for _ in range(100)]
        await all_aboard(gateway, 100)
        go.set()
    assert {task.result()[0] for task in asked} == {400}
    assert all(b"top_p is wrong" in task.result()[2] for task in asked)
    assert (len(first.requests), gateway.breaker("one").closed) == (1, True)


async def test_a_refusal_of_other_bytes_may_not_be_this_ones(gateway: LocalGateway, first: FakeEngine) -> None:
    go = asyncio.Event()
    first.behaviour = after(go, REFUSAL, whole())
    async with asyncio.TaskGroup() as tasks:
        leader = tasks.create_task(gateway.ask(b'{"model":"m","messages":[],"user":5}'))
        await all_aboard(gateway, 1)
        follower = tasks.create_task(gateway.ask(ASK))
        await all_aboard(gateway, 2)
        go.set()
    assert (leader.result()[0], follower.result()[0]) == (400, 200)


async def test_a_stream_that_is_cut_is_cut_for_all_and_not_kept(gateway: LocalGateway, first: FakeEngine) -> None:
    go = asyncio.Event()
    first.behaviour = streaming(go)
    async with gateway.asking(STREAM) as leader, gateway.asking(STREAM) as follower:
        await all_aboard(gateway, 2)
        go.set()
        bodies = [unchunked((await client.answer())[2]) for client in (leader, follower)]
    assert all(body.startswith(HELLO) and b"stream_cut" in body and DONE not in body for body in bodies)
    first.behaviour = says(stream(HELLO, FINISH, DONE))
    assert word(await gateway.ask(STREAM)) == "miss"


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


async def test_a_change_of_its_size_empties_the_cache_and_forgets_no_count(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine
) -> None:
    await gateway.ask(ASK)
    gateway.apply(over(first, second, cache=CacheView(memory=8_000_000)))
    assert word(await gateway.ask(ASK)) == "miss"
    assert gateway.gateway.cached.cache.report().models["m"].misses == 2
