"""Faults of the real `llama-server`, each with its limit: deaths, freezes, a load cut short, a port that is taken."""

import asyncio
import os
import signal
import time
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from aigw_daemon.home import Home
from aigw_daemon.supervisor import liveness, proctable
from aigw_daemon.supervisor.backend import BackendReport
from aigw_daemon.supervisor.failures import FailureKind
from aigw_daemon.supervisor.launcher import STOP_GRACE
from aigw_daemon.supervisor.managed import LOOK_SECONDS
from aigw_daemon.words import State
from tests.support.aigw import free_port
from tests.support.engines import llama_server, smollm2
from tests.support.stub_engine import behind_a_leader
from tests.support.supervision import Supervised, fresh_home, kill, profile, supervised
from tests.support.wait import eventually

READY_SECONDS = 60.0
GONE_SECONDS = 10.0
"""For what a killed leader leaves behind (fault 1)."""
PROBE_SECONDS = liveness.INTERVAL + LOOK_SECONDS
"""Between two looks at an engine that nothing is asked of."""

Note = Callable[[str, object], None]


@pytest.fixture
def home() -> Iterator[Home]:
    with fresh_home() as made:
        yield made


def backend(program: Path | None = None, more: str = "") -> str:
    """A profile with the real engine as its backend ``a``."""
    binary = program or llama_server()
    return f"backends: {{a: {{engine: llamacpp, binary: {binary}, model: {smollm2()}, served_name: m{more}}}}}"


@dataclass
class Up:
    """A running engine: its supervisor, its leader, and all its processes."""

    made: Supervised
    pid: int
    tree: set[int]

    async def replaced(self) -> BackendReport:
        """Wait until another one is ready, after one restart."""
        await eventually(lambda: self.made.report("a").restarts == 1, seconds=READY_SECONDS)
        report = await self.made.reaches("a", State.READY, seconds=READY_SECONDS)
        assert report.restarts == 1
        assert not self.tree & self.made.processes()
        return report


@asynccontextmanager
async def up(home: Home, text: str) -> AsyncIterator[Up]:
    async with supervised(home) as made:
        await made.supervisor.apply(profile(text))
        report = await made.reaches("a", State.READY, seconds=READY_SECONDS)
        assert report.pid is not None
        yield Up(made, report.pid, {report.pid} | proctable.descendants(proctable.table(), {report.pid}))


async def test_leader_that_is_killed_leaves_nothing_and_is_started_again_once(
    home: Home, record_property: Note
) -> None:
    async with up(home, backend()) as engine:
        began = time.monotonic()
        kill(engine.pid)
        await eventually(
            lambda: not engine.tree & engine.made.processes() and engine.made.report("a").state is not State.READY,
            seconds=GONE_SECONDS,
            what="the end of all of it",
        )
        record_property("detect_s", round(time.monotonic() - began, 2))
        report = await engine.replaced()
        record_property("recover_s", round(time.monotonic() - began, 2))
        assert engine.made.processes() == {report.pid}


@pytest.mark.slow
async def test_worker_that_is_killed_takes_its_whole_group_along(home: Home, record_property: Note) -> None:
    leader = behind_a_leader(llama_server(), home.state)
    async with up(home, backend(leader)) as engine:
        (worker,) = engine.tree - {engine.pid}
        began = time.monotonic()
        kill(worker)
        await eventually(
            lambda: engine.made.report("a").state is not State.READY, seconds=PROBE_SECONDS, what="a failed probe"
        )
        record_property("detect_s", round(time.monotonic() - began, 2))
        await engine.replaced()
        record_property("recover_s", round(time.monotonic() - began, 2))
        assert len(engine.made.processes()) == 2
        assert engine.pid not in engine.made.processes()


async def test_sigterm_in_the_middle_of_the_load_leaves_nothing(home: Home, record_property: Note) -> None:
    async with supervised(home) as made:
        await made.supervisor.apply(profile(backend()))
        log = made.supervisor.log_path("a")
        await eventually(lambda: log.exists() and "loading model" in log.read_text(), what="the load")
        assert made.report("a").state is State.STARTING
        began = time.monotonic()
        async with asyncio.timeout(STOP_GRACE):
            await made.supervisor.stop(["a"])
        record_property("recover_s", round(time.monotonic() - began, 2))
        assert made.report("a").state is State.STOPPED
        assert made.processes() == set()


async def test_frozen_engine_stops_within_the_grace(home: Home, record_property: Note) -> None:
    async with up(home, backend()) as engine:
        os.kill(engine.pid, signal.SIGSTOP)
        began = time.monotonic()
        async with asyncio.timeout(STOP_GRACE + 5):
            await engine.made.supervisor.stop(["a"])
        record_property("recover_s", round(time.monotonic() - began, 2))
        assert engine.made.report("a").state is State.STOPPED
        assert engine.made.processes() == set()


@pytest.fixture
async def stranger() -> AsyncIterator[tuple[int, str]]:
    """Somebody else's `llama-server`, which answers, and where."""
    port = free_port()
    words = (str(llama_server()), "--model", str(smollm2()), "--host", "127.0.0.1", "--port", str(port))
    process = await asyncio.create_subprocess_exec(*words, stdout=DEVNULL, stderr=DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        await eventually(lambda: answers(url), seconds=READY_SECONDS, what="the stranger's health")
        yield process.pid, url
    finally:
        process.kill()
        await process.wait()


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=10).status_code == 200
    except httpx.TransportError:
        return False


async def test_port_of_a_strangers_engine_is_told_with_its_pid_and_the_stranger_left_alone(
    home: Home, stranger: tuple[int, str], record_property: Note
) -> None:
    pid, url = stranger
    port = int(url.rpartition(":")[2])
    async with supervised(home) as made:
        began = time.monotonic()
        await made.supervisor.apply(profile(backend(more=f", port: {port}")))
        failed = await made.reaches("a", State.FAILED)
        record_property("detect_s", round(time.monotonic() - began, 2))
        assert failed.failure is FailureKind.PORT_TAKEN
        assert f"(PID {pid}, user" in (failed.why or "")
        assert "or attach: to what runs there" in (failed.why or "")
        assert made.processes() == set()
    assert answers(url)
