"""Stopping: by signals, by `down` at any moment, and through a storm of commands."""

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from aigw_daemon.control.client import ControlClient, ControlError, Refused
from aigw_daemon.control.schema import Status, UpRequest
from aigw_daemon.words import State
from tests.support.aigw import Aigw
from tests.support.fast_upstream import FastUpstream
from tests.support.living import Living
from tests.support.load import streaming
from tests.support.stub_engine import install
from tests.support.wait import eventually

SEED = 20261122


def stub_profile(port: int, binary: Path, *faults: str) -> str:
    """One engine of ours that starts at once, and does what ``faults`` say."""
    model = binary.with_name("model.gguf")
    model.write_bytes(b"GGUF")
    return f"""
version: 1
gateway: {{port: {port}}}
restart: {{crash_exits: 1000, failed_starts: 1000}}
backends:
  stub: {{engine: llamacpp, runner: binary, binary: "{binary}", model: "{model}", args: {list(faults)}}}
"""


@pytest.fixture
async def stubbed(aigw: Aigw) -> AsyncIterator[Living]:
    """An aigw with a stub engine, not up yet; its profile is ``test``."""
    living = Living(aigw)
    aigw.write_profile(stub_profile(aigw.port, install(aigw.folder / "bin")))
    try:
        await asyncio.to_thread(living.start)
        yield living
    finally:
        await asyncio.to_thread(living.end)


def profile(living: Living) -> Path:
    return living.aigw.folder / "test.yaml"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_everything_and_the_exit_code_is_0(stubbed: Living, number: signal.Signals) -> None:
    await asyncio.to_thread(stubbed.up, profile(stubbed))
    assert len(stubbed.aigw.processes()) == 2
    assert await asyncio.to_thread(stubbed.kill, number) == 0
    assert stubbed.aigw.processes() == []
    assert not stubbed.home.control_socket.exists()


async def test_in_the_foreground_ctrl_c_stops_everything(aigw: Aigw) -> None:
    living = Living(aigw)
    path = aigw.write_profile(stub_profile(aigw.port, install(aigw.folder / "bin")))
    await asyncio.to_thread(living.start, "--foreground", "--up", "--profile", str(path))
    try:
        await asyncio.to_thread(living.ready)
        assert await asyncio.to_thread(living.kill, signal.SIGINT) == 0
        assert aigw.processes() == []
    finally:
        await asyncio.to_thread(living.end)


async def test_a_second_signal_kills_what_does_not_stop(stubbed: Living) -> None:
    stubborn = stub_profile(stubbed.aigw.port, install(stubbed.aigw.folder / "bin"), "--ignore-term")
    await asyncio.to_thread(stubbed.up, stubbed.aigw.write_profile(stubborn))
    assert stubbed.daemon is not None
    stubbed.daemon.send_signal(signal.SIGTERM)
    await eventually(lambda: stubbed.status().backends[0].state == State.STOPPING, seconds=20, what="the engine's stop")
    began = asyncio.get_running_loop().time()
    await asyncio.to_thread(stubbed.kill, signal.SIGTERM)
    assert asyncio.get_running_loop().time() - began < 8, "less than the grace of a stop"
    assert stubbed.aigw.processes() == []


async def test_down_lets_a_running_stream_finish(living: Living) -> None:
    async with streaming(living.aigw.port) as stream:
        statuses = await asyncio.to_thread(all_of, living)
        assert (await stream.events())[-1] == b"[DONE]"
    assert statuses[-1].gateway.state == State.STOPPED
    assert await asyncio.to_thread(living.ended) == 0
    assert living.aigw.processes() == []


async def test_down_ends_a_stream_that_goes_on_too_long_with_an_error_event(
    living: Living, upstream: FastUpstream
) -> None:
    upstream.events = 10_000
    began = asyncio.get_running_loop().time()
    async with streaming(living.aigw.port) as stream:
        await asyncio.to_thread(living.kill, signal.SIGTERM)
        last = (await stream.events())[-1]
    assert b'"error"' in last
    assert asyncio.get_running_loop().time() - began < 16
    assert living.aigw.processes() == []


async def test_down_while_an_engine_starts_stops_it(stubbed: Living) -> None:
    slow = stub_profile(stubbed.aigw.port, install(stubbed.aigw.folder / "bin"), "--load", "60")
    await asyncio.to_thread(stubbed.up, stubbed.aigw.write_profile(slow), ready=False)
    await asyncio.to_thread(all_of, stubbed)
    assert await asyncio.to_thread(stubbed.ended) == 0
    assert stubbed.aigw.processes() == []


async def test_a_down_whose_caller_leaves_is_carried_through(stubbed: Living) -> None:
    await asyncio.to_thread(stubbed.up, profile(stubbed))
    with stubbed.control() as control:
        next(iter(control.down()))
    assert await asyncio.to_thread(stubbed.ended) == 0
    assert stubbed.aigw.processes() == []


async def test_nothing_is_started_any_more_while_everything_is_being_stopped(stubbed: Living) -> None:
    stubborn = stub_profile(stubbed.aigw.port, install(stubbed.aigw.folder / "bin"), "--ignore-term")
    path = stubbed.aigw.write_profile(stubborn)
    await asyncio.to_thread(stubbed.up, path)
    with stubbed.control() as control:
        next(iter(control.down()))
    refused = 0
    for attempt in (lambda c: c.up(UpRequest(profile=str(path))), lambda c: c.start([]), lambda c: c.daemon_restart()):
        with ThreadPoolExecutor(1) as threads:
            refused += await asyncio.get_running_loop().run_in_executor(threads, is_refused, stubbed, attempt)
    assert refused == 3
    assert await asyncio.to_thread(stubbed.ended) == 0
    assert stubbed.aigw.processes() == []


async def test_a_stop_during_a_start_leaves_it_stopped(stubbed: Living) -> None:
    slow = stub_profile(stubbed.aigw.port, install(stubbed.aigw.folder / "bin"), "--load", "60")
    await asyncio.to_thread(stubbed.up, stubbed.aigw.write_profile(slow), ready=False)
    await eventually(lambda: stubbed.status().backends[0].pid is not None, what="the engine's process")
    with stubbed.control() as control:
        stopped = await asyncio.to_thread(control.stop, ["stub"])
    assert stopped.backends[0].state == State.STOPPED
    assert stubbed.aigw.processes("stub") == []


@pytest.mark.slow
async def test_a_storm_of_commands_is_answered_and_leaves_at_most_one_leader(stubbed: Living) -> None:
    await asyncio.to_thread(stubbed.up, profile(stubbed))
    choose = random.Random(SEED)
    verbs = [choose.choice([ControlClient.start, ControlClient.stop, ControlClient.restart]) for _ in range(200)]

    def command(verb: Callable[[ControlClient, list[str]], object]) -> bool:
        with stubbed.control() as control:
            verb(control, ["stub"])
        return True

    with ThreadPoolExecutor(200) as threads:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(60):
            answers = await asyncio.gather(*(loop.run_in_executor(threads, command, verb) for verb in verbs))
    assert answers == [True] * 200
    assert len(stubbed.aigw.processes("stub")) <= 1
    with stubbed.control() as control:
        await asyncio.to_thread(control.start, ["stub"])
    await asyncio.to_thread(stubbed.ready)
    assert len(stubbed.aigw.processes("stub")) == 1


def all_of(living: Living) -> list[Status]:
    """`aigw down`, followed to its end."""
    with living.control() as control:
        return list(control.down())


def is_refused(living: Living, attempt: Callable[[ControlClient], object]) -> bool:
    """Whether the daemon says that it is stopping."""
    try:
        with living.control() as control:
            attempt(control)
    except Refused as refused:
        return refused.problem.code == "stopping"
    except ControlError:
        return False
    return False
