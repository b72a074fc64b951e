"""When requests that wait count as a hung engine: the pure rule, and a backend on a clock of its own."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from aigw_daemon.home import Home
from aigw_daemon.supervisor.failures import FailureKind
from aigw_daemon.supervisor.hang import Hang, Look, sentence
from aigw_daemon.supervisor.managed import ManagedBackend
from aigw_daemon.supervisor.traffic import Traffic
from aigw_daemon.words import State
from tests.support.fake_clock import settle
from tests.support.fake_engines import FakeWorld
from tests.support.supervision import fresh_home

STILL = Look(at=0.0, in_flight=2, relayed=7, cpu_seconds=3.0)


def after(seconds: float, **changes: float) -> Look:
    return replace(STILL, at=seconds, **changes)  # type: ignore[arg-type]  # all its fields are numbers


def test_seconds_without_progress_add_up() -> None:
    hang = Hang()
    assert [hang.take(after(at)) for at in (0, 2, 4)] == [0, 2, 4]


@pytest.mark.parametrize("sign", [{"relayed": 8}, {"relayed": 0}, {"cpu_seconds": 3.2}])
def test_any_sign_of_progress_begins_anew(sign: dict[str, float]) -> None:
    hang = Hang()
    assert [hang.take(STILL), hang.take(after(2)), hang.take(after(4, **sign))] == [0, 2, 0]


def test_cpu_time_of_an_engine_that_only_waits_is_no_progress() -> None:
    hang = Hang()
    assert [hang.take(after(at, cpu_seconds=3.0 + at * 0.04)) for at in (0, 2, 4)] == [0, 2, 4]


def test_idle_engine_is_never_hung_and_the_wait_before_is_not_forgotten() -> None:
    hang = Hang()
    hang.take(STILL)
    hang.take(after(5))
    assert [hang.take(after(at, in_flight=0)) for at in (7, 3000)] == [5, 5]
    # The client came again: the first look at it says nothing of how long it has waited.
    assert [hang.take(after(at)) for at in (3002, 3004)] == [5, 7]


def test_time_in_which_nobody_looked_is_not_the_engines_fault() -> None:
    hang = Hang()
    hang.take(STILL)
    assert hang.take(after(3600)) == 10


def test_counter_counts_when_it_moves_and_not_when_it_is_silent_or_heard_first() -> None:
    hang = Hang()
    hang.take(STILL)
    hang.take(after(2))
    assert [hang.hear(None), hang.hear(100.0), hang.hear(100.0), hang.hear(None)] == [2, 2, 2, 2]
    assert hang.hear(101.0) == 0


@pytest.mark.parametrize(
    ("in_flight", "limit", "text"),
    [
        (1, 60.0, "hung: 1 request in flight and no progress for 60 s"),
        (3, 2.5, "hung: 3 requests in flight and no progress for 2.5 s"),
    ],
)
def test_sentence_says_how_many_waited_and_how_long(in_flight: int, limit: float, text: str) -> None:
    assert sentence(in_flight, limit) == text


@pytest.fixture
def home() -> Iterator[Home]:
    with fresh_home() as made:
        yield made


@asynccontextmanager
async def ready(world: FakeWorld) -> AsyncIterator[ManagedBackend]:
    backend = world.managed()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(backend.run())
        await backend.start()
        await settle()
        assert backend.state is State.READY
        yield backend
        backend.retire()
        await settle()
    await world.state.close()


async def test_hung_engine_is_replaced_after_the_limit_although_its_health_is_fine(home: Home) -> None:
    world = FakeWorld(home)
    world.traffic = Traffic(in_flight=2, relayed=5)
    async with ready(world) as backend:
        first = world.launcher.running()[0]
        await world.clock.advance(59)
        assert backend.state is State.READY
        while backend.state is State.READY:
            await world.clock.advance(0.1)
        assert world.clock.now < 1000 + 64
        assert not first.running
        assert backend.failure is not None
        assert backend.failure.kind is FailureKind.HUNG
        assert backend.why == "hung: 2 requests in flight and no progress for 60 s; trying again in 0.5 s"
        world.traffic = Traffic()
        await world.clock.advance(2)
        assert (backend.state, backend.report().restarts) == (State.READY, 1)


async def test_hang_is_explained_by_complaints_and_not_by_the_requests_before_it(home: Home) -> None:
    world = FakeWorld(home)
    world.traffic = Traffic(in_flight=1)
    requests = [
        '(APIServer pid=2) INFO:     127.0.0.1:40444 - "POST /v1/chat/completions HTTP/1.1" 200 OK',
        "[GIN] 2026/11/28 - 10:35:41 | 200 |   12.3ms |       127.0.0.1 | POST     /v1/chat/completions",
        "0.06.353.294 I srv  log_server_r: done request: POST /v1/chat/completions 127.0.0.1 200",
        'INFO:     127.0.0.1:40446 - "GET /error HTTP/1.1" 404 Not Found',
        "srv  update_slots: all slots are idle",
    ]
    world.launcher.log = list(requests)
    async with ready(world) as backend:
        await world.clock.advance(62)
        assert (backend.report().past is not None, backend.report().log_tail) == (True, ())
        world.launcher.log = [*requests, "(Worker pid=4) ERROR 11-28 [x.py:1] RuntimeError: NCCL watchdog", *requests]
        await world.clock.advance(70)
        past = backend.report().past
        assert past is not None
        assert past.failure.lines == ("(Worker pid=4) ERROR 11-28 [x.py:1] RuntimeError: NCCL watchdog",)


async def test_engine_whose_tree_computes_is_left_alone(home: Home) -> None:
    world = FakeWorld(home)
    world.traffic = Traffic(in_flight=1)
    async with ready(world) as backend:
        for _ in range(300):
            world.launcher.cpu_seconds += 0.5
            await world.clock.advance(2)
        assert backend.state is State.READY
        assert len(world.launcher.leaders) == 1


async def test_engine_whose_counters_move_is_left_alone(home: Home) -> None:
    world = FakeWorld(home)
    world.traffic = Traffic(in_flight=1)
    async with ready(world) as backend:
        for done in range(300):
            world.prober.done = float(done)
            await world.clock.advance(2)
        assert backend.state is State.READY
        assert len(world.launcher.leaders) == 1


async def test_off_is_off(home: Home) -> None:
    world = FakeWorld(home, settings="hang_timeout: off")
    world.traffic = Traffic(in_flight=1)
    async with ready(world) as backend:
        await world.clock.advance(3000)
        assert backend.state is State.READY
        assert len(world.launcher.leaders) == 1


async def test_silence_of_the_gateway_itself_is_not_held_against_the_engine(home: Home) -> None:
    world = FakeWorld(home)
    world.traffic, world.gateway_speaks = Traffic(in_flight=1), False
    async with ready(world) as backend:
        await world.clock.advance(3000)
        assert backend.state is State.READY
        assert len(world.launcher.leaders) == 1
