"""Whose turn it is on a GPU, alone and with whole backends around it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from aigw_daemon.home import Home
from aigw_daemon.state_file import Seat
from aigw_daemon.supervisor.backend import Plan
from aigw_daemon.supervisor.failures import FailureKind, Unrunnable
from aigw_daemon.supervisor.gpu import Placement
from aigw_daemon.supervisor.gpu_turns import LEAVE_SECONDS, GpuTurns
from aigw_daemon.supervisor.managed import ManagedBackend
from aigw_daemon.words import State
from tests.support.fake_clock import FakeClock, settle
from tests.support.fake_engines import FakeWorld
from tests.support.launching import install
from tests.support.recorded_gpus import RecordedGpus, gpu
from tests.support.supervision import fresh_home, profile

NOBODY = {"on_wait": lambda _: None}


@pytest.fixture
def home() -> Iterator[Home]:
    with fresh_home() as made:
        yield made


async def test_two_starts_on_one_gpu_go_one_after_the_other() -> None:
    turns = GpuTurns(RecordedGpus([gpu(0), gpu(1)]), FakeClock())
    heard: list[str] = []
    await turns.take("a", (0,), heard.append)
    await turns.take("c", (1,), heard.append)
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(turns.take("b", (0,), heard.append))
        await settle()
        turns.release("c")
        await settle()
        assert not waiting.done()
        turns.release("a")
    assert waiting.result().count == 1
    assert set(heard) == {"waiting for a to be done on GPU 0"}


async def test_counts_spread_over_gpus_that_rest_and_look_again_after_waiting() -> None:
    gpus = RecordedGpus([gpu(0, free=79), gpu(1, free=40)])
    turns = GpuTurns(gpus, FakeClock())
    first = await turns.take("a", 1, **NOBODY)
    second = await turns.take("b", 1, **NOBODY)
    assert [placement.devices[0].index for placement in (first, second)] == [0, 1]
    async with asyncio.TaskGroup() as tasks:
        third = tasks.create_task(turns.take("c", 1, **NOBODY))
        await settle()
        assert not third.done()
        gpus.change(0, free_bytes=0)
        turns.release("b")
    assert third.result().devices[0].index == 1


async def test_cancelled_wait_holds_nothing() -> None:
    turns = GpuTurns(RecordedGpus([gpu(0)]), FakeClock())
    await turns.take("a", (0,), **NOBODY)
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(turns.take("b", (0,), **NOBODY))
        await settle()
        waiting.cancel()
    turns.release("a")
    assert (await turns.take("c", (0,), **NOBODY)).count == 1


async def test_machine_without_nvml_makes_nobody_wait() -> None:
    turns = GpuTurns(RecordedGpus(None), FakeClock())
    assert await turns.take("a", (0,), **NOBODY) == Placement(("0",), 1)
    assert await turns.take("b", (0,), **NOBODY) == Placement(("0",), 1)
    assert await turns.left({1, 2})


async def test_backend_that_asks_for_no_gpu_reads_no_inventory() -> None:
    gpus = RecordedGpus([gpu(0)])
    await GpuTurns(gpus, FakeClock()).take("a", None, **NOBODY)
    assert gpus.reads == 0


async def test_missing_gpu_is_told_before_anybody_is_waited_for() -> None:
    turns = GpuTurns(RecordedGpus([gpu(0)]), FakeClock())
    with pytest.raises(Unrunnable):
        await turns.take("a", (7,), **NOBODY)


async def test_processes_are_waited_for_until_the_driver_forgets_them_and_no_longer_than_the_bound() -> None:
    clock, gpus = FakeClock(), RecordedGpus([gpu(0, pids=[7, 8]), gpu(1, pids=[9])])
    turns = GpuTurns(gpus, clock)
    async with asyncio.TaskGroup() as tasks:
        leaving = tasks.create_task(turns.left({8, 9, 10}))
        await clock.advance(5)
        gpus.change(0, pids=frozenset({7}))
        await clock.advance(5)
        assert not leaving.done()
        gpus.change(1, pids=frozenset())
        await clock.advance(1)
        assert leaving.result() is True
        stuck = tasks.create_task(turns.left({7}))
        await clock.advance(LEAVE_SECONDS - 1)
        assert not stuck.done()
        await clock.advance(2)
        assert stuck.result() is False


class Pair:
    """Two backends of one world on one GPU."""

    def __init__(self, world: FakeWorld) -> None:
        self.world = world
        text = f"{{engine: llamacpp, binary: {world.program}, model: {world.model}, served_name: m, gpus: [0]}}"
        made = profile(f"backends: {{a: {text}, b: {text}}}")
        self.a, self.b = (ManagedBackend(Plan(name, made.backends[name], made), world.edges) for name in ("a", "b"))


@asynccontextmanager
async def pair(home: Home) -> AsyncIterator[Pair]:
    world = FakeWorld(home)
    world.gpus.gpus = [gpu(0), gpu(1)]
    made = Pair(world)
    async with asyncio.TaskGroup() as tasks:
        for backend in (made.a, made.b):
            tasks.create_task(backend.run())
        await settle()
        try:
            yield made
        finally:
            made.a.retire()
            made.b.retire()
            await settle()
    await world.state.close()


def names(world: FakeWorld) -> list[str]:
    return [leader.name for leader in world.launcher.running()]


async def test_second_engine_starts_when_the_first_is_ready_and_both_show_their_gpu(home: Home) -> None:
    async with pair(home) as made:
        made.world.prober.up = False
        await made.a.start()
        await settle()
        await made.b.start()
        await made.world.clock.advance(10)
        assert names(made.world) == ["a"]
        assert made.b.report().progress == "waiting for a to be done on GPU 0"
        made.world.prober.up = True
        await made.world.clock.advance(2)
        assert names(made.world) == ["a", "b"]
        assert [backend.report().state for backend in (made.a, made.b)] == [State.READY, State.READY]
        assert [backend.report().gpus for backend in (made.a, made.b)] == [(0,), (0,)]
        assert made.world.state.backend("a").gpus == (Seat(0, gpu(0).uuid),)


async def test_stopped_means_gone_from_the_gpu_and_the_next_start_waits_for_it(home: Home) -> None:
    async with pair(home) as made:
        await made.a.start()
        await settle()
        pid = made.a.report().pid
        assert pid is not None
        made.world.gpus.change(0, pids=frozenset({pid}))
        async with asyncio.TaskGroup() as tasks:
            stopping = tasks.create_task(made.a.stop())
            await settle()
            await made.b.start()
            await made.world.clock.advance(10)
            assert made.a.report().state is State.STOPPING
            assert names(made.world) == []
            made.world.gpus.change(0, pids=frozenset())
            await made.world.clock.advance(1)
            assert stopping.done()
        assert made.a.report().state is State.STOPPED
        assert names(made.world) == ["b"]


async def test_stop_of_a_start_that_waits_for_its_turn_is_immediate(home: Home) -> None:
    async with pair(home) as made:
        made.world.prober.up = False
        await made.a.start()
        await settle()
        await made.b.start()
        await settle()
        await made.b.stop()
        assert made.b.report().state is State.STOPPED
        assert names(made.world) == ["a"]


async def test_gpu_that_is_not_there_fails_the_backend_until_it_comes(home: Home) -> None:
    async with pair(home) as made:
        made.world.gpus.gpus = []
        await made.a.start()
        await settle()
        report = made.a.report()
        assert (report.state, report.failure) == (State.FAILED, FailureKind.MISSING_GPU)
        assert (
            report.why
            == "there is no GPU 0: this machine has none: remove gpus from the profile, or see what nvidia-smi says"
        )
        made.world.gpus.gpus = [gpu(0)]
        await made.world.clock.advance(6)
        assert made.a.report().state is State.READY


async def test_engine_whose_memory_was_measured_at_another_moment_is_adopted_as_what_the_profile_asks_for(
    home: Home,
) -> None:
    program = install(home.state / "bin", "vllm")
    said = f"{{engine: vllm, command: [{program}, serve], model: m, gpus: 1, memory: 60GiB}}"
    world = FakeWorld(home, backend=said)
    world.gpus.gpus = [gpu(0, free=30), gpu(1, free=40)]
    first, second = world.managed(), world.managed()
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(first.run())
        await first.start()
        await settle()
        started = first.report()
        running.cancel()
        world.gpus.change(1, free_bytes=0)
        again = tasks.create_task(second.run())
        await second.start()
        await settle()
        adopted = second.report()
        assert (adopted.pid, adopted.gpus, adopted.stale) == (started.pid, (1,), False)
        again.cancel()
    await world.state.close()
