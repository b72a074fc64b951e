"""Faults with the time that each may take: dead workers, deaf engines, strangers, clocks that jump, no resources."""

import asyncio
import errno
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aigw_daemon.home import Home
from aigw_daemon.supervisor import liveness, proctable
from aigw_daemon.supervisor.backend import Backend
from aigw_daemon.supervisor.failures import Exit, FailureKind
from aigw_daemon.supervisor.happenings import Happening
from aigw_daemon.words import State
from tests.support import stub_engine
from tests.support.fake_clock import settle
from tests.support.fake_engines import FakeWorld, running
from tests.support.supervision import Supervised, fresh_home, kill, profile, supervised
from tests.support.wait import eventually

HOUR = 3600.0
GRACE = 0.3


@pytest.fixture
def home() -> Iterator[Home]:
    with fresh_home() as made:
        yield made


@pytest.fixture
def world(home: Home) -> FakeWorld:
    return FakeWorld(home)


def stub(home: Home, *faults: str, more: str = "") -> str:
    """A profile with the stub as its backend ``a``."""
    settings = stub_engine.settings(home.state / "bin", home.models)
    return f"backends: {{a: {settings}, args: {json.dumps(faults)}{more}}}}}"


def of(pid: int) -> set[int]:
    """A process and all that it has started."""
    return {pid} | proctable.descendants(proctable.table(), {pid})


async def test_engine_whose_worker_is_killed_leaves_ready_and_is_replaced_as_a_whole(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "INTERVAL", 0.3)
    monkeypatch.setattr("aigw_daemon.supervisor.managed.LOOK_SECONDS", 0.1)
    program = stub_engine.install(home.state / "bin")
    leader = stub_engine.behind_a_leader(program, home.state / "bin")
    async with supervised(home) as made:
        await made.supervisor.apply(profile(stub(home).replace(f"binary: {program}", f"binary: {leader}")))
        first = of((await made.reaches("a", State.READY)).pid or 0)
        (worker,) = first - {made.pid("a")}
        kill(worker)
        await eventually(lambda: made.report("a").state is not State.READY, seconds=liveness.ALLOWED * 0.3 + 1)
        await eventually(lambda: made.report("a").restarts == 1)
        await made.reaches("a", State.READY)
        assert not first & made.processes()
        assert made.processes() == of(made.pid("a"))


async def test_stop_while_it_loads_leaves_nothing(home: Home) -> None:
    async with supervised(home) as made:
        await made.supervisor.apply(profile(stub(home, "--load", "60", "--child", "session")))
        await eventually(lambda: len(made.processes()) == 2)
        assert made.report("a").state is State.STARTING
        async with asyncio.timeout(5):
            await made.supervisor.stop(["a"])
        assert made.report("a").state is State.STOPPED
        assert made.processes() == set()


async def test_deaf_engine_is_killed_at_the_grace_and_that_is_told(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aigw_daemon.supervisor.takedown.STOP_GRACE", GRACE)
    async with supervised(home) as made:
        await made.supervisor.apply(profile(stub(home, "--ignore-term")))
        await made.reaches("a", State.READY)
        began = time.monotonic()
        async with asyncio.timeout(GRACE + 5):
            await made.supervisor.stop(["a"])
        assert time.monotonic() - began >= GRACE
        assert made.processes() == set()
        told = "it did not end on SIGTERM and was killed (SIGKILL)"
        assert (made.report("a").state, made.report("a").why) == (State.STOPPED, told)
        assert made.told[-1] == ("a", Happening.STOP, told)


async def test_engine_that_dies_every_twenty_seconds_is_waited_with_ever_longer_and_never_given_up(
    world: FakeWorld,
) -> None:
    backend = world.managed()
    async with running(world, backend):
        await backend.start()
        await settle()
        for wait in (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0):
            await world.clock.advance(20)
            world.launcher.running()[0].end(Exit(code=3))
            await settle()
            await world.clock.advance(wait - 0.1)
            assert backend.report().state is State.BACKOFF
            await world.clock.advance(0.2)
            assert backend.report().state is State.READY


async def test_child_that_holds_the_log_open_keeps_no_stop_waiting(home: Home) -> None:
    async with supervised(home) as made:
        await made.supervisor.apply(profile(stub(home, "--child", "session")))
        await made.reaches("a", State.READY)
        (child,) = made.processes() - {made.pid("a")}
        assert Path(f"/proc/{child}/fd/1").readlink() == made.supervisor.log_path("a")
        async with asyncio.timeout(5):
            await made.supervisor.stop(["a"])
        assert made.processes() == set()


async def test_answer_of_a_stranger_on_its_port_does_not_make_it_ready(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with supervised(home) as made:
        port = made.launcher.free_port()
        stranger = await a_stranger(made, port)
        try:
            # It came between the look at the port and the start.
            monkeypatch.setattr(made.launcher, "port_owner", lambda _: None)
            await made.supervisor.apply(profile(stub(home, "--mute", more=f", port: {port}, start_timeout: 1s")))
            failed = await made.reaches("a", State.BACKOFF)
            assert failed.failure is FailureKind.START_TIMEOUT
            assert f"port {port} is answered by another process, not by our engine" in (failed.why or "")
            assert not [word for _, word, _ in made.told if word is Happening.READY]
            await made.supervisor.stop()
            assert stranger.returncode is None
        finally:
            stranger.kill()
            await stranger.wait()


async def a_stranger(made: Supervised, port: int) -> asyncio.subprocess.Process:
    """Somebody else's engine of the same model, up."""
    program = stub_engine.install(made.home.state / "bin")
    stranger = await asyncio.create_subprocess_exec(program, "--port", str(port), "--host", "127.0.0.1", "--alias", "m")
    await eventually(lambda: made.launcher.port_owner(port))
    return stranger


@pytest.mark.parametrize("step", [HOUR, -HOUR])
async def test_clock_that_is_set_while_it_starts_waits_and_stops_moves_no_timer(world: FakeWorld, step: float) -> None:
    world.prober.up, world.launcher.stop_seconds = False, 10.0
    backend = world.managed()
    async with running(world, backend):
        await backend.start()
        await world.clock.advance(5)
        world.clock.stepped += step
        await world.clock.advance(590)
        assert backend.report().state is State.STARTING
        await until(world, backend, State.STOPPING, seconds=6)
        await until(world, backend, State.BACKOFF, seconds=10)
        world.clock.stepped -= step
        world.prober.up = True
        await world.clock.advance(1)
        assert backend.report().state is State.READY
        world.clock.stepped += step
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(backend.stop())
            await world.clock.advance(9.9)
            assert backend.report().state is State.STOPPING
            await world.clock.advance(1)
        assert backend.report().state is State.STOPPED


async def until(world: FakeWorld, backend: Backend, state: State, *, seconds: float) -> None:
    """Let time pass up to this state, and no longer than that."""
    end = world.clock.now + seconds
    while backend.state is not state:
        assert world.clock.now < end
        await world.clock.advance(0.1)


@pytest.mark.parametrize("step", [HOUR, -HOUR])
async def test_engine_is_recognised_after_the_clock_was_set(
    home: Home, monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    text = profile(stub(home))
    async with supervised(home, stop=False) as first:
        await first.supervisor.apply(text)
        pid = (await first.reaches("a", State.READY)).pid
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + step)
    async with supervised(home) as second:
        await second.supervisor.apply(text)
        assert (await second.reaches("a", State.READY)).pid == pid


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EMFILE, errno.ENOMEM])
async def test_system_that_can_start_nothing_now_is_waited_for(
    home: Home, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, "injected")

    async with supervised(home) as made:
        with monkeypatch.context() as patched:
            patched.setattr(subprocess, "Popen", refuse)
            await made.supervisor.apply(profile(stub(home)))
            waiting = await made.reaches("a", State.BACKOFF)
            assert waiting.failure is FailureKind.NO_RESOURCES
        await made.reaches("a", State.READY)
