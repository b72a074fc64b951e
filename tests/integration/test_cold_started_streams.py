"""A stream that waited for its engine's start is seen by the daemon: it is shown, drained, and never taken for idle."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from time import monotonic

import httpx
import pytest

from aigw_daemon.supervisor import liveness
from tests.support.aigw import Aigw, llamacpp_section, profile_text
from tests.support.stub_engine import install
from tests.support.wait import eventually

IDLE_SECONDS = 2.0
HANG_SECONDS = 3.0
CUT_AFTER = 2 * IDLE_SECONDS + 1.5
"""An idle stop would have come by then."""
LOST_SECONDS = (liveness.ALLOWED + 1) * liveness.INTERVAL + 2
"""Probes that go unanswered for so long lose an engine, unless something is heard of it."""


@pytest.fixture(scope="module")
def aigw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aigw]:
    """A real llama-server, and a stand-in that does one thing at a time; both start when a request wants them."""
    whole = Aigw(tmp_path_factory.mktemp("aigw"))
    settings = f"    start: on_demand\n    idle_stop: {IDLE_SECONDS:g}s\n    hang_timeout: {HANG_SECONDS:g}s\n"
    real = llamacpp_section("binary", "real", model="real", context=4096) + settings
    program = install(whole.folder / "bin")
    model = program.with_name("model.gguf")
    model.write_bytes(b"GGUF")
    flags = json.dumps(["--single", "--load", "2", "--pieces", str(int(LOST_SECONDS)), "--pause", "1"])
    files = f"binary: {program}, model: {model}, served_name: single"
    single = f"  single: {{engine: llamacpp, {files}, start: on_demand, args: {flags}}}\n"
    try:
        path = whole.write_profile(profile_text(whole.port, backends=real + single, names=()))
        whole.run("up", "--profile", str(path))
        yield whole
    finally:
        whole.end()


@asynccontextmanager
async def stream(aigw: Aigw, model: str, tokens: int = 3000) -> AsyncIterator[AsyncIterator[str]]:
    """The data of each event of a stream; the engine was cold, and the first event is here."""
    assert (await asyncio.to_thread(aigw.backend, model))["state"] == "stopped"
    prompt = [{"role": "user", "content": "Count to a thousand."}]
    body = {"model": model, "messages": prompt, "max_tokens": tokens, "ignore_eos": True, "stream": True}
    async with (
        httpx.AsyncClient(base_url=aigw.url, timeout=60, trust_env=False) as client,
        client.stream("POST", "/v1/chat/completions", json=body) as answer,
    ):
        assert answer.status_code == 200, await answer.aread()
        lines = (line.removeprefix("data: ") async for line in answer.aiter_lines() if line.startswith("data: "))
        await anext(lines)
        yield lines


async def shown(aigw: Aigw, name: str) -> tuple[str, int]:
    found = await asyncio.to_thread(aigw.backend, name)
    return found["state"], found["in_flight"]


async def stopped(aigw: Aigw, name: str) -> None:
    """Wait for the idle stop: the next request meets a cold engine again."""
    async with asyncio.timeout(20):
        while (await shown(aigw, name))[0] != "stopped":
            pass  # every question is a process of its own, so this doesn't spin


async def test_it_is_shown_and_no_idle_stop_cuts_it(aigw: Aigw) -> None:
    async with stream(aigw, "real") as events:
        began = monotonic()
        while monotonic() - began < CUT_AFTER:
            assert await shown(aigw, "real") == ("ready", 1)
            assert "error" not in await anext(events)
    await stopped(aigw, "real")


async def test_a_hang_is_noticed(aigw: Aigw) -> None:
    async with stream(aigw, "real") as events:
        os.kill((await asyncio.to_thread(aigw.backend, "real"))["pid"], signal.SIGSTOP)
        # The rest of what it sent before comes first.
        rest = await asyncio.wait_for(_all(events), HANG_SECONDS + 10)
    assert "stream_cut" in rest[-1]
    words = f"hung: 1 request in flight and no progress for {HANG_SECONDS:g} s"
    await eventually(lambda: words in aigw.log("aigwd"), what="the hang in the log")
    await stopped(aigw, "real")


async def test_a_stop_drains_it(aigw: Aigw) -> None:
    async with stream(aigw, "real", tokens=120) as events, asyncio.TaskGroup() as tasks:
        stopping = tasks.create_task(asyncio.to_thread(aigw.run, "stop", "real"))
        rest = await _all(events)
    assert rest[-1] == "[DONE]"
    assert stopping.result().returncode == 0
    assert "real: draining -> stopping (drained)" in aigw.log("aigwd")


@pytest.mark.slow
async def test_an_engine_that_is_too_busy_for_probes_is_not_lost(aigw: Aigw) -> None:
    async with stream(aigw, "single") as events:
        rest = await asyncio.wait_for(_all(events), LOST_SECONDS + 30)
    assert rest[-1] == "[DONE]"
    assert "single: degraded -> stopping" not in aigw.log("aigwd")


async def _all(events: AsyncIterator[str]) -> list[str]:
    return [event async for event in events]
