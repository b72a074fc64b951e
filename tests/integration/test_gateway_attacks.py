"""Attacks on memory, and a stop in the midst of it all: on a worker process, where signals and memory are real."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from time import monotonic

import msgspec
import pytest

from aigw_daemon.link.messages import Drain, GatewayView
from tests.support.fake_engine import (
    FakeEngine,
    trickles,
)
from tests.support.gateway import (
    GatewayProcess,
    ask,
    backend,
    gateway_process,
    post,
    route,
    snapshot,
)
from tests.support.load import streaming
from tests.support.wait import eventually

ASK = b'{"model":"m","messages":[]}'
STREAM = b'{"model":"m","messages":[],"stream":true}'


@pytest.fixture
async def worker(first: FakeEngine) -> AsyncIterator[GatewayProcess]:
    """A worker process of its own, for what signals do and memory shows."""
    limits = GatewayView(header_timeout=30.0, body_timeout=30.0)
    alone = snapshot(backend("one", first.port), routes=[route("m", ("one", "m"))], gateway=limits)
    async with gateway_process(alone) as running:
        yield running


def resident(pid: int) -> int:
    """Bytes of memory in use."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_a_head_of_a_gigabyte_is_cut_off_and_costs_no_memory(worker: GatewayProcess) -> None:
    """Fault 38."""
    before = resident(worker.process.pid)
    reader, writer = await asyncio.open_connection("127.0.0.1", worker.port)
    writer.write(b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nx-long: ")
    sent, most = 0, before
    with contextlib.suppress(ConnectionError):
        while sent < 1_000_000_000 and not reader.at_eof():
            writer.write(b"a" * 1_000_000)
            await asyncio.wait_for(writer.drain(), 20)
            sent += 1_000_000
            most = max(most, resident(worker.process.pid))
    answer = b""
    with contextlib.suppress(ConnectionError):
        answer = await reader.read()
    writer.transport.abort()
    assert not answer or answer.startswith(b"HTTP/1.1 431")
    assert most - before < 10_000_000
    assert (await ask(worker.port, post(ASK)))[0] == 200


async def test_a_zip_bomb_is_refused_unopened(worker: GatewayProcess, first: FakeEngine) -> None:
    """Fault 38: nothing compressed is ever opened, so there is nothing to blow up (rule B15)."""
    before = resident(worker.process.pid)
    bomb = bytes(1_000_000)
    status, _, _ = await ask(worker.port, post(bomb, "/v1/chat/completions", "content-encoding: gzip"))
    assert status == 415
    assert resident(worker.process.pid) - before < 10_000_000
    assert first.requests == []


STREAMS = 50
GRACE = 1.0


@pytest.mark.parametrize("told", ["drain", "two signals"])
async def test_fifty_streams_that_outlast_a_stop_end_with_an_error_each_in_time(
    worker: GatewayProcess, first: FakeEngine, told: str
) -> None:
    """Fault 37: within the grace, or at once at the second signal."""
    first.behaviour = trickles
    async with contextlib.AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(streaming(worker.port, STREAM)) for _ in range(STREAMS)]
        began = monotonic()
        async with asyncio.TaskGroup() as tasks:
            reading = [tasks.create_task(running.events()) for running in streams]
            if told == "drain":
                worker.push(Drain(grace=GRACE))
            else:
                worker.process.send_signal(signal.SIGTERM)
                await asyncio.sleep(0.1)  # or both would count as one
                worker.process.send_signal(signal.SIGTERM)
        for task in reading:
            last = task.result()[-1]
            assert "shutting down" in msgspec.json.decode(last)["error"]["message"]
            assert b"[DONE]" not in b"".join(task.result())
    assert await worker.ended() == 0
    assert monotonic() - began < (GRACE if told == "drain" else 0.1) + 3.0
    await eventually(lambda: all(each.gone.is_set() for each in first.requests), what="every upstream closed")
