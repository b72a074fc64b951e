"""How a call that several share ends: whose clock and whose failure it is, cold starts, a worker that has to stop."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from aigw_daemon.gateway import heartbeat
from aigw_daemon.link.messages import CacheView, Drain, Snapshot
from aigw_daemon.words import State
from tests.support.fake_engine import (
    DONE,
    FINISH,
    HELLO,
    EngineRequest,
    FakeEngine,
    hangs,
    says,
    stream,
    whole,
)
from tests.support.gateway import backend, gateway_process, post, snapshot, unchunked
from tests.support.local_gateway import Asking, LocalGateway, local_gateway, with_state
from tests.support.sharing import (
    ASK,
    FAILURE,
    LAST,
    REFUSAL,
    SOLO,
    STREAM,
    after,
    all_aboard,
    over,
    streaming,
    word,
)

LIMITS = ("the gateway's", "the route's")
"""Whose deadline a test is about."""


def limited(first: FakeEngine, second: FakeEngine, seconds: float, whose: str) -> Snapshot:
    """Both engines under such a deadline."""
    if whose == "the route's":
        return over(first, second, route_seconds=seconds)
    return over(first, second, seconds=seconds)


@pytest.fixture
async def gateway(first: FakeEngine, second: FakeEngine) -> AsyncIterator[LocalGateway]:
    async with local_gateway(over(first, second)) as running:
        yield running


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


@pytest.mark.parametrize("whose", LIMITS)
async def test_who_goes_alone_is_held_to_a_deadline(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine, whose: str
) -> None:
    gateway.apply(limited(first, second, 1.0, whose))
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


async def test_a_route_that_allows_more_than_the_gateway_allows_it_to_who_goes_alone_as_well(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine
) -> None:
    gateway.apply(over(first, second, seconds=0.3, route_seconds=10.0))
    go = asyncio.Event()
    first.behaviour = after(go, FAILURE, whole())
    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(gateway.ask(SOLO)) for _ in range(2)]
        await all_aboard(gateway, 2)
        await asyncio.wait(asked, timeout=0.6)
        go.set()
    assert sorted(task.result()[0] for task in asked) == [200, 500]


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


@pytest.mark.parametrize("whose", LIMITS)
async def test_after_a_cold_start_that_was_in_vain_a_follower_still_has_its_time(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine, whose: str
) -> None:
    warm, go = limited(first, second, 0.5, whose), asyncio.Event()
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
    counts = gateway.gateway.cached.cache.report().models["m"]
    assert (counts.misses, counts.coalesced) == (1, 99)


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


# When the worker is told to stop.


@pytest.mark.parametrize("grace", [10.0, 0.3], ids=["and they end in time", "and they outlast its grace"])
async def test_clients_of_one_call_are_drained_like_any_other(first: FakeEngine, grace: float) -> None:
    go = asyncio.Event()
    first.behaviour = streaming(go, FINISH, DONE)
    wanted = snapshot(backend("one", first.port), cache=CacheView())
    async with gateway_process(wanted) as worker, AsyncExitStack() as stack:
        clients = [await asyncio.open_connection("127.0.0.1", worker.port) for _ in range(20)]
        for reader, writer in clients:
            stack.callback(writer.close)
            writer.write(post(STREAM))
            await reader.readuntil(b'"Hi"')
        worker.push(Drain(grace=grace))
        if grace > 1:
            go.set()
        rests = [await asyncio.wait_for(reader.read(), 10.0) for reader, _ in clients]
        assert await worker.ended() == 0
    assert len(first.requests) == 1
    last = LAST if grace > 1 else b"shutting down"
    assert all(last in rest for rest in rests)
    assert all((DONE in rest) == (grace > 1) for rest in rests)
