"""`redis: managed` in a whole aigw: it goes with the profile, survives the daemon, and nobody waits for it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aigw_daemon.control.client import ControlError
from aigw_daemon.control.schema import BackendStatus, CacheStatus
from aigw_daemon.words import State
from tests.support.aigw import Aigw
from tests.support.fast_upstream import FastUpstream
from tests.support.living import Living, fast_profile, kill
from tests.support.load import under_load
from tests.support.wait import eventually_now

CACHE = "cache: {redis: managed, redis_memory: 16MiB}\n"


@pytest.fixture
def managed(aigw: Aigw, upstream: FastUpstream) -> Path:
    """A profile whose cache has a Redis of aigw's own."""
    return aigw.write_profile(fast_profile(aigw.port, upstream.port) + CACHE, name="managed")


@pytest.fixture
async def living(aigw: Aigw, managed: Path) -> AsyncIterator[Living]:
    whole = Living(aigw)
    try:
        await asyncio.to_thread(whole.start)
        await asyncio.to_thread(whole.up, managed)
        yield whole
    finally:
        await asyncio.to_thread(whole.end)


def cache(living: Living) -> CacheStatus:
    found = living.status().cache
    assert found is not None
    return found


def server(living: Living) -> BackendStatus:
    redis = cache(living).redis
    assert redis is not None
    assert redis.server is not None
    return redis.server


def serving(living: Living, *, pid_not: int | None = -1) -> BackendStatus:
    """Redis once it is ready, as another process than ``pid_not``."""

    def found() -> BackendStatus | None:
        try:
            if living.status().cache is None:  # a new daemon, which has not taken up the profile yet
                return None
            now = server(living)
        except ControlError:  # the daemon before has not quite gone
            return None
        return now if now.state == State.READY and now.pid != pid_not else None

    ready = eventually_now(found, seconds=20, what="Redis being ready")
    assert ready is not None
    return ready


async def test_it_is_shown_by_its_name_and_is_no_backend(living: Living, aigw: Aigw) -> None:
    ready = await asyncio.to_thread(serving, living)
    assert [backend["name"] for backend in aigw.status()["backends"]] == ["fast"]
    assert [process.pid for process in aigw.processes("redis")] == [ready.pid]
    assert f"Redis ready  PID {ready.pid}" in aigw.run("status").stdout
    assert "redis has been ready" in aigw.run("why", "redis").stdout
    assert "ready to accept connections" in aigw.run("logs", "redis").stdout
    assert [event["event"] for event in aigw.events("events", "redis")] == ["start", "ready"]
    assert aigw.json("test-routing", "redis/x", code=None).get("candidates", []) == []
    aigw.run("stop", "redis")
    assert aigw.processes("redis") == []
    aigw.run("up")
    again = await asyncio.to_thread(serving, living)
    assert aigw.run("restart", "redis").stdout.startswith("redis")
    assert (await asyncio.to_thread(serving, living, pid_not=again.pid)).restarts == 0


async def test_killed_under_load_it_is_started_again_and_no_request_fails(living: Living, aigw: Aigw) -> None:
    first = await asyncio.to_thread(serving, living)
    assert first.pid is not None
    async with under_load(aigw.port, 8) as load:
        await load.more()
        kill(first.pid)
        again = await asyncio.to_thread(serving, living, pid_not=first.pid)
        await load.more()
    assert load.faults == []
    assert again.restarts == 1


async def test_the_next_daemon_adopts_it_and_down_leaves_nothing(living: Living, aigw: Aigw) -> None:
    first = await asyncio.to_thread(serving, living)
    await asyncio.to_thread(living.restart)
    assert (await asyncio.to_thread(serving, living)).pid == first.pid
    await asyncio.to_thread(living.kill)
    await asyncio.to_thread(living.start)
    assert (await asyncio.to_thread(serving, living)).pid == first.pid
    assert [event["event"] for event in aigw.events("events", "redis")][-2:] == ["adopt", "ready"]
    assert living.home.redis_socket.exists()
    await asyncio.to_thread(aigw.run, "down")
    assert aigw.processes() == []
    assert not living.home.redis_socket.exists()


async def test_down_without_a_daemon_ends_it_as_well(living: Living, aigw: Aigw) -> None:
    await asyncio.to_thread(serving, living)
    await asyncio.to_thread(living.kill)
    assert len(aigw.processes("redis")) == 1
    assert "redis" in (await asyncio.to_thread(aigw.run, "down")).stdout
    assert aigw.processes() == []


async def test_a_profile_without_it_ends_it(living: Living, aigw: Aigw, upstream: FastUpstream) -> None:
    await asyncio.to_thread(serving, living)
    plain = aigw.write_profile(fast_profile(aigw.port, upstream.port), name="plain")
    await asyncio.to_thread(living.up, plain)
    assert aigw.processes("redis") == []
    assert cache(living).redis is None


async def test_without_the_program_all_else_serves_and_status_says_what_to_install(
    aigw: Aigw, managed: Path, tmp_path: Path
) -> None:
    aigw.env["PATH"] = str(tmp_path / "empty")
    living = Living(aigw)
    try:
        await asyncio.to_thread(living.start)
        await asyncio.to_thread(living.up, managed)
        await asyncio.to_thread(
            eventually_now, lambda: server(living).state == State.FAILED, what="Redis having failed"
        )
        told = aigw.run("status").stdout
    finally:
        await asyncio.to_thread(living.end)
    assert "neither redis-server nor valkey-server is on the PATH: install one" in told
    assert "answers are kept in the gateway's process alone meanwhile" in told
