"""What becomes of a request whose engine dies before a byte of its answer (rules B4, B6); the test is the daemon."""

import asyncio
from collections.abc import AsyncIterator
from time import monotonic
from typing import Any, Final

import msgspec
import pytest

from aigw_daemon.gateway import heartbeat, tried
from aigw_daemon.link.messages import BackendView, CacheView, GatewayView, Snapshot
from aigw_daemon.words import State
from tests.support.fake_engine import (
    DONE,
    FINISH,
    HELLO,
    Behaviour,
    EngineRequest,
    FakeEngine,
    hangs,
    resets,
    says,
    says_and_hangs_up,
    stream,
    whole,
)
from tests.support.gateway import backend, route, snapshot
from tests.support.local_gateway import LocalGateway, local_gateway, sentence
from tests.support.wait import eventually

ASK = b'{"model":"m","messages":[]}'
STREAM = b'{"model":"m","messages":[],"stream":true}'
SOLO, SOLO_STREAM = ASK.replace(b'"m"', b'"solo"'), STREAM.replace(b'"m"', b'"solo"')
REFUSING_PORT = 1
VLLM_DIES = b'{"error":{"message":"EngineCore encountered an issue. See stack trace","code":500}}'


@pytest.fixture
async def gateway(first: FakeEngine, second: FakeEngine) -> AsyncIterator[LocalGateway]:
    async with local_gateway(over(first, second)) as running:
        yield running


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that says nothing is not waited for for long."""
    monkeypatch.setattr(tried, "CUT_NOTICE_SECONDS", 0.2)
    monkeypatch.setattr(tried, "REFUSED_NOTICE_SECONDS", 0.4)


def over(first: FakeEngine, second: FakeEngine, *, cold: str = "wait", two: Any = None, **one: Any) -> Snapshot:
    """Two engines that aigw runs, a route over both and one to the first alone; changes to either view."""
    views = (_view("one", first.port, **one), _view("two", second.port, "m2", **(two or {})))
    routes = [route("m", ("one", "m"), ("two", "m2"), cold=cold), route("solo", ("one", "m"), cold=cold)]
    return snapshot(*views, routes=routes, gateway=GatewayView(request_timeout=30.0))


def _view(name: str, listens: int, model: str = "m", **changes: Any) -> BackendView:
    return msgspec.structs.replace(backend(name, listens, models=[model]), **{"pid": 101, **changes})


DYING: Final[dict[str, Any]] = {"state": State.STOPPING, "returning": True}
BACKING_OFF: Final[dict[str, Any]] = {"state": State.BACKOFF, "returning": True, "pid": None}
STARTING: Final[dict[str, Any]] = {"state": State.STARTING, "pid": 102}
BACK: Final[dict[str, Any]] = {"pid": 102}


def answer(request: EngineRequest) -> bytes:
    return stream(HELLO, FINISH, DONE) if request.json.get("stream") else whole()


async def well(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
    writer.write(answer(request))


async def come_back(gateway: LocalGateway, first: FakeEngine, second: FakeEngine, **changes: Any) -> None:
    """What the daemon says from a death to the next process, and what it takes in between."""
    for state in (DYING, BACKING_OFF, STARTING):
        gateway.apply(over(first, second, **state, **changes))
        await asyncio.sleep(0.02)
    first.behaviour = well
    gateway.apply(over(first, second, **BACK, **changes))


@pytest.mark.parametrize("body", [SOLO, SOLO_STREAM])
@pytest.mark.parametrize(
    "dies",
    [
        pytest.param(resets, id="reset"),
        pytest.param(says_and_hangs_up(b""), id="closed"),
        pytest.param(says_and_hangs_up(whole()[:-9]), id="in the midst of an answer in one piece"),
        pytest.param(says(whole(VLLM_DIES, 500)), id="with vLLM's last words"),
    ],
)
async def test_the_only_engine_is_waited_for_and_asked_once_more(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine, dies: Behaviour, body: bytes
) -> None:
    first.behaviour = dies
    async with gateway.asking(body) as asking:
        await first.request()
        await come_back(gateway, first, second)
        status, headers, _ = await asking.answer()
    assert (status, headers[b"x-aigw-attempts"], len(first.requests)) == (200, b"2", 2)
    assert gateway.breaker("one").closed
    assert gateway.lane("one").in_flight == 0


@pytest.mark.parametrize("body", [ASK, STREAM])
async def test_another_engine_answers_at_once(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine, body: bytes
) -> None:
    first.behaviour, second.behaviour = resets, well
    status, headers, _ = await gateway.ask(body, seconds=tried.CUT_NOTICE_SECONDS)
    assert (status, headers[b"x-aigw-backend"]) == (200, b"two")


async def test_another_engine_answers_though_the_first_is_starting_again_already(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine
) -> None:
    go_on = asyncio.Event()

    async def dies_late(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        await go_on.wait()
        await resets(request, writer)

    first.behaviour, second.behaviour = dies_late, well
    async with gateway.asking(ASK) as asking:
        await first.request()
        gateway.apply(over(first, second, **STARTING))
        go_on.set()
        status, headers, _ = await asking.answer()
    assert (status, headers[b"x-aigw-backend"]) == (200, b"two")


async def test_when_both_die_the_first_to_come_back_is_asked(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine
) -> None:
    first.behaviour = second.behaviour = resets
    async with gateway.asking(ASK) as asking:
        await second.request()
        gateway.apply(over(first, second, two=BACKING_OFF, **DYING))
        await asyncio.sleep(0.02)
        second.behaviour = well
        gateway.apply(over(first, second, two=BACK, **BACKING_OFF))
        status, headers, _ = await asking.answer()
    assert (status, headers[b"x-aigw-backend"], headers[b"x-aigw-attempts"]) == (200, b"two", b"3")


async def test_who_wants_no_fallback_waits_for_the_first_candidate(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine
) -> None:
    first.behaviour = resets
    async with gateway.asking(ASK, "x-aigw-fallback: off") as asking:
        await first.request()
        await come_back(gateway, first, second)
        status, headers, _ = await asking.answer()
    assert (status, headers[b"x-aigw-backend"]) == (200, b"one")
    assert second.requests == []


@pytest.mark.parametrize("wish", ["x-aigw-fallback: off", "x-aigw-backend: one"])
async def test_a_crowd_that_wants_one_engine_waits_for_it_though_its_death_opened_the_circuit(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine, wish: str
) -> None:
    go_on = asyncio.Event()

    async def dies_late(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        await go_on.wait()
        await resets(request, writer)

    first.behaviour, second.behaviour = dies_late, well
    async with asyncio.TaskGroup() as tasks:
        crowd = [tasks.create_task(gateway.ask((ASK, STREAM)[number % 2], wish, seconds=20)) for number in range(10)]
        await first.request(10)
        go_on.set()
        await eventually(lambda: not gateway.breaker("one").closed, what="an open circuit")
        await come_back(gateway, first, second)
    assert {task.result()[0] for task in crowd} == {200}
    assert second.requests == []


async def test_a_crowd_is_asked_again_whatever_the_retry_budget_says(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine
) -> None:
    go_on = asyncio.Event()

    async def dies_late(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        await go_on.wait()
        await resets(request, writer)

    first.behaviour = dies_late
    async with asyncio.TaskGroup() as tasks:
        crowd = [tasks.create_task(gateway.ask((SOLO, SOLO_STREAM)[number % 2], seconds=20)) for number in range(50)]
        await first.request(50)
        go_on.set()
        await come_back(gateway, first, second)
    assert {task.result()[0] for task in crowd} == {200}


async def test_requests_that_come_while_it_is_down_wait_as_well(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine
) -> None:
    """The daemon hasn't seen it yet, then it has: nobody is turned away, and a refusal costs no attempt."""
    gateway.apply(over(first, second, port=REFUSING_PORT))
    async with gateway.asking(SOLO) as early:
        await eventually(lambda: not gateway.breaker("one").closed, what="a refused connection")
        gateway.apply(over(first, second, **BACKING_OFF))
        async with gateway.asking(SOLO_STREAM) as late:
            await asyncio.sleep(0.05)
            first.behaviour = well
            gateway.apply(over(first, second, **BACK))
            assert [(await early.answer())[0], (await late.answer())[0]] == [200, 200]
    assert gateway.breaker("one").closed


async def test_a_new_process_that_no_snapshot_announced_has_a_circuit_of_its_own(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine
) -> None:
    """The worker had no daemon while it was replaced."""
    gateway.apply(over(first, second, port=REFUSING_PORT))
    async with gateway.asking(SOLO) as asking:
        await eventually(lambda: not gateway.breaker("one").closed, what="a refused connection")
        first.behaviour = well
        gateway.apply(over(first, second, **BACK))
        assert (await asking.answer())[0] == 200
    assert gateway.breaker("one").closed


@pytest.mark.parametrize("body", [SOLO, SOLO_STREAM])
async def test_a_request_that_is_in_flight_at_two_deaths_is_the_likely_killer(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine, body: bytes
) -> None:
    first.behaviour = resets
    async with gateway.asking(body) as asking:
        await first.request()
        gateway.apply(over(first, second, **DYING))
        gateway.apply(over(first, second, **BACK))
        status, headers, said = await asking.answer()
    assert (status, headers[b"x-should-retry"], len(first.requests)) == (500, b"false", 2)
    assert "one died twice while it was answering this request" in sentence(said)
    assert b'"code":"engine_died"' in said


async def test_a_likely_killer_is_told_to_all_who_asked_the_same(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine
) -> None:
    cached = CacheView()
    gateway.apply(msgspec.structs.replace(over(first, second), cache=cached))
    first.behaviour = resets
    async with asyncio.TaskGroup() as tasks:
        crowd = [tasks.create_task(gateway.ask(SOLO)) for _ in range(5)]
        await first.request()
        for changes in (DYING, BACK):
            gateway.apply(msgspec.structs.replace(over(first, second, **changes), cache=cached))
    assert [(task.result()[0], b"engine_died" in task.result()[2]) for task in crowd] == [(500, True)] * 5
    assert len(first.requests) == 2


async def test_one_that_will_not_come_back_is_told_at_once(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine
) -> None:
    first.behaviour = resets
    async with gateway.asking(SOLO) as asking:
        await first.request()
        gateway.apply(over(first, second, **DYING))
        began = monotonic()
        gateway.apply(over(first, second, state=State.FAILED, why="no such model file", pid=None))
        status, headers, said = await asking.answer()
    assert status == 500
    assert monotonic() - began < tried.CUT_NOTICE_SECONDS
    assert "no such model file" in sentence(said)
    assert b"x-should-retry" not in headers


async def test_one_that_the_operator_stopped_is_not_waited_for(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine
) -> None:
    first.behaviour = resets
    async with gateway.asking(SOLO) as asking:
        await first.request()
        gateway.apply(over(first, second, state=State.STOPPING, wanted=False))
        status, _, said = await asking.answer(seconds=tried.CUT_NOTICE_SECONDS)
    assert (status, "stopping" in sentence(said)) == (500, True)


@pytest.mark.parametrize("changes", [{}, DYING])
async def test_a_route_that_rejects_cold_backends_waits_for_no_restart(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine, changes: dict[str, Any]
) -> None:
    gateway.apply(over(first, second, cold="reject", **{"port": REFUSING_PORT, **changes}))
    status, headers, _ = await gateway.ask(SOLO, seconds=tried.CUT_NOTICE_SECONDS)
    assert (status, b"retry-after" in headers) == (503, True)


async def test_a_daemon_that_says_nothing_is_not_waited_for_for_long(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine, soon: None
) -> None:
    del soon
    gateway.apply(over(first, second, port=REFUSING_PORT))
    status, headers, _ = await gateway.ask(SOLO, seconds=2.0)
    assert (status, b"retry-after" in headers, b"x-should-retry" in headers) == (503, True, False)


async def test_a_connection_that_a_living_engine_cuts_is_tried_again_on_the_same_process(
    gateway: LocalGateway, first: FakeEngine, soon: None
) -> None:
    del soon
    cut = [resets]

    async def once(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        await (cut.pop() if cut else well)(request, writer)

    first.behaviour = once
    status, headers, _ = await gateway.ask(SOLO)
    assert (status, headers[b"x-aigw-attempts"]) == (200, b"2")


async def test_a_restart_that_takes_too_long_ends_with_504(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine
) -> None:
    gateway.apply(over(first, second, cold_timeout=0.3, **BACKING_OFF))
    status, headers, said = await gateway.ask(SOLO)
    assert (status, headers[b"x-should-retry"]) == (504, b"false")
    assert "it did not start within 0.3 s" in sentence(said)


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signs of life come soon."""
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 0.1)


async def test_a_stream_gets_signs_of_life_while_its_only_engine_comes_back(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine, often: None
) -> None:
    del often
    gateway.apply(over(first, second, **BACKING_OFF))
    async with gateway.asking(SOLO_STREAM) as asking:
        await asking.until(b": loading one")
        first.behaviour = well
        gateway.apply(over(first, second, **BACK))
        assert DONE in await asking.rest()


async def test_nothing_is_promised_while_either_of_two_may_come_back(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine, often: None
) -> None:
    del often
    gateway.apply(over(first, second, two=BACKING_OFF, **BACKING_OFF))
    async with gateway.asking(STREAM) as asking:
        await asyncio.sleep(0.4)  # in which a sign of life would have come
        second.behaviour = well
        gateway.apply(over(first, second, two=BACK, **BACKING_OFF))
        status, headers, said = await asking.answer()
    assert (status, headers[b"x-aigw-backend"], b": loading" in said) == (200, b"two", False)


async def test_a_client_that_leaves_while_it_waits_leaves_nothing(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine
) -> None:
    first.behaviour = resets
    async with gateway.asking(SOLO) as asking:
        await first.request()
        gateway.apply(over(first, second, **DYING))
        asking.leave()
    record = await gateway.record_where(lambda found: found.status == 499)
    assert record.backend == "one"
    first.behaviour = hangs
    gateway.apply(over(first, second, **BACK))
    assert (gateway.lane("one").in_flight, len(first.requests)) == (0, 1)
