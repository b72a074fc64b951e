"""A stop lets running requests finish: how long, and what cuts it short."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from aigw_daemon.home import Home
from aigw_daemon.supervisor.failures import Exit
from aigw_daemon.supervisor.managed import ManagedBackend
from aigw_daemon.supervisor.traffic import Traffic
from aigw_daemon.words import State
from tests.support.fake_clock import settle
from tests.support.fake_engines import FakeWorld
from tests.support.supervision import fresh_home


@pytest.fixture
def home() -> Iterator[Home]:
    with fresh_home() as made:
        yield made


@pytest.fixture
def world(home: Home) -> FakeWorld:
    return FakeWorld(home)


@asynccontextmanager
async def busy(world: FakeWorld) -> AsyncIterator[tuple[ManagedBackend, asyncio.TaskGroup]]:
    """A ready backend with two requests, and a group for whoever stops it."""
    backend = world.managed()
    world.traffic = Traffic(in_flight=2)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(backend.run())
        await backend.start()
        await settle()
        assert backend.state is State.READY
        yield backend, tasks
        backend.retire()
        await settle()
    await world.state.close()


async def test_stop_waits_for_running_requests_and_serves_nothing_new(world: FakeWorld) -> None:
    async with busy(world) as (backend, tasks):
        stopping = tasks.create_task(backend.stop())
        await world.clock.advance(20)
        assert backend.report().state is State.DRAINING
        assert [model.listed for model in backend.report().models] == [False]
        assert len(world.launcher.running()) == 1
        world.traffic = Traffic()
        await world.clock.advance(0.5)
        assert backend.report().state is State.STOPPED
        assert stopping.done()
        assert world.launcher.running() == []


async def test_grace_is_the_profiles_and_then_over(home: Home) -> None:
    world = FakeWorld(home, settings="drain: 5s")
    async with busy(world) as (backend, tasks):
        tasks.create_task(backend.stop())
        await world.clock.advance(4.9)
        assert backend.report().state is State.DRAINING
        await world.clock.advance(0.2)
        assert backend.report().state is State.STOPPED


async def test_now_skips_the_grace_even_of_a_stop_that_is_under_way(world: FakeWorld) -> None:
    async with busy(world) as (backend, tasks):
        patient = tasks.create_task(backend.stop())
        await world.clock.advance(3)
        hurried = tasks.create_task(backend.stop(now=True))
        await world.clock.advance(0.1)
        assert backend.report().state is State.STOPPED
        assert patient.done()
        assert hurried.done()


async def test_gap_between_two_requests_is_not_taken_for_the_end(world: FakeWorld) -> None:
    async with busy(world) as (backend, tasks):
        tasks.create_task(backend.stop())
        await world.clock.advance(1)
        world.traffic = Traffic()
        await world.clock.advance(0.2)
        world.traffic = Traffic(in_flight=1)
        await world.clock.advance(5)
        assert backend.report().state is State.DRAINING
        world.traffic = Traffic()
        await world.clock.advance(0.5)
        assert backend.report().state is State.STOPPED


async def test_restart_drains_and_then_starts_a_fresh_one(world: FakeWorld) -> None:
    async with busy(world) as (backend, _):
        await backend.restart()
        await world.clock.advance(10)
        assert backend.report().state is State.DRAINING
        world.traffic = Traffic()
        await world.clock.advance(1)
        assert backend.report().state is State.READY
        assert len(world.launcher.leaders) == 2
        assert world.launcher.most_at_once == 1
        await backend.restart(now=True)
        await world.clock.advance(0.1)
        assert len(world.launcher.leaders) == 3


async def test_start_during_a_drain_queues_behind_it(world: FakeWorld) -> None:
    async with busy(world) as (backend, tasks):
        stopping = tasks.create_task(backend.stop())
        await world.clock.advance(1)
        await backend.start()
        await settle()
        assert backend.report().state is State.DRAINING
        assert stopping.done()
        world.traffic = Traffic()
        await world.clock.advance(1)
        assert backend.report().state is State.READY
        assert len(world.launcher.leaders) == 2


async def test_engine_that_dies_while_draining_stays_stopped_and_has_not_failed(world: FakeWorld) -> None:
    async with busy(world) as (backend, tasks):
        tasks.create_task(backend.stop())
        await world.clock.advance(1)
        world.launcher.running()[0].end(Exit(code=1))
        await settle()
        assert (backend.report().state, backend.failure) == (State.STOPPED, None)
