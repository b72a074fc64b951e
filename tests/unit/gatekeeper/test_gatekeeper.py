"""The gatekeeper with real sockets and real workers: crashes that are too many, workers that come by themselves."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace

import httpx
import pytest

from aigw_daemon.gatekeeper.crew import MOST_OWED
from aigw_daemon.gatekeeper.gatekeeper import Gatekeeper
from aigw_daemon.gatekeeper.listeners import AddressUnusable, bind
from aigw_daemon.gatekeeper.timing import Timing
from aigw_daemon.home import Home
from aigw_daemon.identity import Identity
from aigw_daemon.link.daemon import LinkServer
from aigw_daemon.link.messages import Demand, GatewayView, Load, Records, Snapshot, Started
from aigw_daemon.supervisor.process import LocalLauncher
from aigw_daemon.words import State
from tests.support.aigw import free_port
from tests.support.living import is_gone
from tests.support.supervision import fresh_home
from tests.support.wait import eventually

COOKIE = "c00c1e"
QUICK = Timing(adoption=3.0, drain=2.0, leaving=1.0, retry=1.0)
WATCHFUL = replace(QUICK, sign_of_life=1.0)


class Deaf:
    """Hears nothing."""

    def on_records(self, message: Records) -> None: ...

    def on_started(self, message: Started) -> None: ...

    def on_demand(self, message: Demand) -> None: ...

    def on_load(self, total: Load) -> None: ...

    def on_change(self) -> None: ...


@pytest.fixture
def home() -> Iterator[Home]:
    with fresh_home() as made:
        yield made


@asynccontextmanager
async def keeping(home: Home, *, leave: bool = False, timing: Timing = QUICK) -> AsyncIterator[Gatekeeper]:
    """A gatekeeper that runs, with its link; at the end it is closed, or cut off as by a kill."""
    remembered: list[Identity | None] = []
    keeper = Gatekeeper(home, LocalLauncher(COOKIE), Deaf(), remember=remembered.append, timing=timing)
    keeper.publish(Snapshot(revision=1, profile="test", gateway=GatewayView(), backends=(), routes=()))
    async with asyncio.TaskGroup() as tasks:
        running = [
            tasks.create_task(keeper.run()),
            tasks.create_task(LinkServer(home.link_socket, COOKIE, keeper.accept).run()),
        ]
        try:
            yield keeper
        finally:
            if not leave:
                await keeper.close()
            for task in running:
                task.cancel()


async def serves(keeper: Gatekeeper, but: int | None = None) -> int:
    """The PID of the worker, once one (another than ``but``) serves."""
    await eventually(
        lambda: keeper.state is State.READY and keeper.pid not in {None, but}, seconds=20, what="a worker that serves"
    )
    assert keeper.pid is not None
    return keeper.pid


@contextmanager
def stray(home: Home, port: int, version: str | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A worker that outlived its daemon; of another version, if one is given."""
    (listener,) = bind([("127.0.0.1", port)])
    number = str(listener.fileno())
    program = "import sys, aigw_daemon.gateway.worker as worker\n"
    program += f"worker.AIGW_VERSION = {version!r} or worker.AIGW_VERSION\nsys.exit(worker.main())"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "--link", str(home.link_socket), "--listen", number],
        pass_fds=[listener.fileno()],
        env={**os.environ, "AIGW_INSTANCE": COOKIE, "AIGW_BACKEND": "gateway"},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    listener.close()
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
async def test_five_crashes_in_a_minute_are_told_with_503_until_a_worker_stays(home: Home) -> None:
    port = free_port()
    async with keeping(home) as keeper:
        await keeper.open("127.0.0.1", port, None)
        pid = None
        for _ in range(5):
            pid = await serves(keeper, but=pid)
            os.kill(pid, signal.SIGKILL)
        async with httpx.AsyncClient() as client:
            answer = await client.post(f"http://127.0.0.1:{port}/v1/chat/completions", json={"model": "m"})
        assert answer.status_code == 503
        assert f"worker {pid} ended unexpectedly (was killed by SIGKILL" in answer.json()["error"]["message"]
        assert answer.headers["retry-after"] == "1"
        assert keeper.state is State.FAILED
        await serves(keeper, but=pid)
        assert keeper.restarts == 5
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"http://127.0.0.1:{port}/health/live")).status_code == 200


async def test_a_frozen_worker_is_replaced_and_who_waits_at_the_door_is_served(home: Home) -> None:
    port = free_port()
    async with keeping(home, timing=WATCHFUL) as keeper:
        await keeper.open("127.0.0.1", port, None)
        frozen = await serves(keeper)
        os.kill(frozen, signal.SIGSTOP)
        async with httpx.AsyncClient(timeout=20) as client:
            assert (await client.get(f"http://127.0.0.1:{port}/health/live")).status_code == 200
        assert await serves(keeper, but=frozen)
        assert keeper.restarts == 1
        assert is_gone(frozen)


async def test_an_adopted_worker_that_freezes_is_replaced_as_well(home: Home) -> None:
    port = free_port()
    with stray(home, port) as worker:
        async with keeping(home, timing=WATCHFUL) as keeper:
            await keeper.open("127.0.0.1", port, None)
            assert await serves(keeper) == worker.pid
            worker.send_signal(signal.SIGSTOP)
            await serves(keeper, but=worker.pid)
            await eventually(lambda: worker.poll() is not None, what="the end of the frozen one")


async def test_a_worker_that_gives_signs_of_life_is_left_alone(home: Home) -> None:
    port = free_port()
    async with keeping(home, timing=replace(QUICK, sign_of_life=0.2)) as keeper:
        await keeper.open("127.0.0.1", port, None)
        pid = await serves(keeper)
        (worker,) = keeper._crew.members
        asked_at = worker.asked
        await eventually(lambda: worker.asked > asked_at + 2 * MOST_OWED, what="so many questions")
        assert (keeper.pid, keeper.restarts) == (pid, 0)


async def test_a_worker_that_nobody_wrote_down_is_adopted_with_its_socket(home: Home) -> None:
    port = free_port()
    with stray(home, port) as worker:
        async with keeping(home) as keeper:
            await keeper.open("127.0.0.1", port, None)
            assert await serves(keeper) == worker.pid
        assert worker.wait(5) == 0


async def test_a_worker_of_another_version_serves_until_its_successor_does(home: Home) -> None:
    port = free_port()
    with stray(home, port, "0.0.1") as worker:
        async with keeping(home) as keeper:
            await keeper.open("127.0.0.1", port, None)
            socket.create_connection(("127.0.0.1", port), timeout=2).close()
            assert await serves(keeper) != worker.pid
            await eventually(lambda: worker.poll() is not None, what="the end of the older one")
            assert worker.returncode == 0


async def test_what_is_left_at_a_closed_door_is_sent_away(home: Home) -> None:
    port = free_port()
    with stray(home, port) as worker:
        async with keeping(home) as keeper:
            await keeper.clear()
            assert worker.wait(5) == 0
            assert keeper.state is State.STOPPED


async def test_an_address_that_overlaps_the_present_one_is_refused_and_nothing_changes(home: Home) -> None:
    port = free_port()
    async with keeping(home) as keeper:
        await keeper.open("127.0.0.1", port, None)
        pid = await serves(keeper)
        with pytest.raises(AddressUnusable, match=r"overlaps the present address.*'aigw down' first"):
            await keeper.open("0.0.0.0", port, None)
        assert (keeper.url, keeper.pid, keeper.state) == (f"http://127.0.0.1:{port}", pid, State.READY)


async def test_port_0_keeps_the_port_of_the_worker_that_is_adopted(home: Home) -> None:
    port = free_port()
    with stray(home, port) as worker:
        async with keeping(home) as keeper:
            await eventually(lambda: keeper._crew.strays, seconds=20, what="the worker's hello")
            await keeper.open("127.0.0.1", 0, None)
            assert await serves(keeper) == worker.pid
            assert keeper.url == f"http://127.0.0.1:{port}"


async def test_a_worker_acknowledges_each_snapshot(home: Home) -> None:
    async with keeping(home) as keeper:
        assert not keeper.is_current
        assert not await keeper.caught_up(5)  # nobody is there to wait for
        await keeper.open("127.0.0.1", free_port(), None)
        pid = await serves(keeper)
        assert await keeper.caught_up(5)
        keeper.publish(Snapshot(revision=2, profile="test", gateway=GatewayView(), backends=(), routes=()))
        assert not keeper.is_current
        assert await keeper.caught_up(5)
        os.kill(pid, signal.SIGSTOP)
        try:
            keeper.publish(Snapshot(revision=3, profile="test", gateway=GatewayView(), backends=(), routes=()))
            assert not await keeper.caught_up(0.2)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert await keeper.caught_up(5)
