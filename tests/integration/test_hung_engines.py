"""Engines that hang under load, and stops that let requests finish: a whole aigw, driven as an operator would."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.aigw import MODEL, Aigw, llamacpp_section, profile_text
from tests.support.stub_engine import install
from tests.support.wait import eventually

BODY = {"model": "chat", "messages": [{"role": "user", "content": "Count to a thousand."}], "max_tokens": 1500}


def stub(folder: Path, name: str, *arguments: str, settings: str = "") -> str:
    """A backend with the stub engine, as an entry of ``backends``."""
    program = install(folder / "bin")
    model = program.with_name("model.gguf")
    model.write_bytes(b"GGUF")
    flags = json.dumps(arguments)
    files = f"binary: {program}, model: {model}"
    return f"  {name}: {{engine: llamacpp, {files}, served_name: {name}, args: {flags}{settings}}}\n"


async def bring_up(aigw: Aigw, *, first: str, model: str, backends: str) -> None:
    """The backend ``first`` behind the route ``chat``, and ``backup`` behind that."""
    targets = f'[{{backend: {first}, model: "{model}"}}, {{backend: backup, model: backup}}]'
    text = profile_text(aigw.port, backends=backends, names=())
    path = aigw.write_profile(f"{text}routes:\n  chat: {{targets: {targets}}}\n")
    await asyncio.to_thread(aigw.run, "up", "--profile", str(path))


@pytest.fixture
async def client(aigw: Aigw) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=aigw.url, timeout=60, trust_env=False) as made:
        yield made


async def ask(client: httpx.AsyncClient) -> httpx.Response:
    return await client.post("/v1/chat/completions", json=BODY)


@asynccontextmanager
async def stream(client: httpx.AsyncClient) -> AsyncIterator[AsyncIterator[str]]:
    """The data of each event, and the first of them has come."""
    async with client.stream("POST", "/v1/chat/completions", json=BODY | {"stream": True}) as answer:
        assert answer.status_code == 200, await answer.aread()
        lines = (line.removeprefix("data: ") async for line in answer.aiter_lines() if line.startswith("data: "))
        await anext(lines)
        yield lines


def says(aigw: Aigw, words: str) -> bool:
    return words in aigw.log("aigwd")


async def in_flight(aigw: Aigw, name: str, count: int) -> None:
    """Wait until the daemon knows of so many requests."""

    async def shown() -> int:
        return int((await asyncio.to_thread(aigw.backend, name))["in_flight"])

    async with asyncio.timeout(10):
        while await shown() != count:
            pass  # every question is a process of its own, so this doesn't spin


async def test_frozen_engine_is_replaced_and_the_fallback_answers_meanwhile(
    aigw: Aigw, client: httpx.AsyncClient
) -> None:
    real = llamacpp_section("binary").rstrip("\n") + "\n    hang_timeout: 2s\n"
    await bring_up(aigw, first="llamacpp", model=MODEL, backends=real + stub(aigw.folder, "backup"))
    pid = (await asyncio.to_thread(aigw.backend))["pid"]
    async with stream(client) as events:
        os.kill(pid, signal.SIGSTOP)
        answer = await ask(client)
        assert (answer.status_code, answer.headers["x-aigw-backend"]) == (200, "backup")
        rest = [event async for event in events]
    assert "stream_cut" in rest[-1]
    assert says(aigw, "ready -> stopping (hung): hung: 2 requests in flight and no progress for 2 s")
    await asyncio.to_thread(aigw.run, "start", "llamacpp")
    fresh = await asyncio.to_thread(aigw.backend)
    assert fresh["pid"] != pid
    assert (await ask_shortly(client)).headers["x-aigw-backend"] == "llamacpp"
    assert len(await asyncio.to_thread(aigw.processes, "llamacpp")) == 1


async def ask_shortly(client: httpx.AsyncClient) -> httpx.Response:
    return await client.post("/v1/chat/completions", json=BODY | {"max_tokens": 4})


async def test_stalled_engine_with_a_fine_health_is_replaced(aigw: Aigw, client: httpx.AsyncClient) -> None:
    first = stub(aigw.folder, "first", "--stall", settings=", hang_timeout: 1s")
    await bring_up(aigw, first="first", model="first", backends=first + stub(aigw.folder, "backup"))
    async with asyncio.timeout(15):
        answer = await ask(client)
    assert (answer.status_code, answer.headers["x-aigw-backend"]) == (200, "backup")
    assert answer.headers["x-aigw-attempts"] == "2"
    assert says(aigw, "hung: 1 request in flight and no progress for 1 s")
    await eventually(lambda: aigw.log("aigwd").count("starting -> ready") == 3, what="the fresh engine")
    told = await asyncio.to_thread(aigw.json, "why", "first")
    assert (told["well"], told["failure"]) == (True, "hung")
    assert "was restarted once, the last time" in told["sentence"]
    assert told["sentence"].endswith("hung: 1 request in flight and no progress for 1 s")
    events = await asyncio.to_thread(aigw.events, "events", "first")
    assert [event["event"] for event in events] == ["start", "ready", "hung", "restart", "ready"]
    assert events[2]["text"] == "hung: 1 request in flight and no progress for 1 s"


async def test_long_prefill_is_not_taken_for_a_hung_engine(aigw: Aigw, client: httpx.AsyncClient) -> None:
    first = stub(aigw.folder, "first", "--burn", "5", settings=", hang_timeout: 1s")
    await bring_up(aigw, first="first", model="first", backends=first + stub(aigw.folder, "backup"))
    answer = await ask(client)
    assert (answer.status_code, answer.headers["x-aigw-backend"]) == (200, "first")
    assert not says(aigw, "hung")


async def test_stop_lets_a_stream_finish_and_sends_new_requests_elsewhere(
    aigw: Aigw, client: httpx.AsyncClient
) -> None:
    first = stub(aigw.folder, "first", "--pieces", "12", "--pause", "0.25")
    await bring_up(aigw, first="first", model="first", backends=first + stub(aigw.folder, "backup"))
    async with stream(client) as events, asyncio.TaskGroup() as tasks:
        await in_flight(aigw, "first", 1)
        stopping = tasks.create_task(asyncio.to_thread(aigw.json, "stop", "first"))
        await eventually(lambda: says(aigw, "first: ready -> draining"))
        decision = await asyncio.to_thread(aigw.json, "test-routing", "chat")
        assert reasons(decision)["first"] == "draining"
        assert (await ask(client)).headers["x-aigw-backend"] == "backup"
        rest = [event async for event in events]
    assert rest[-1] == "[DONE]"
    assert [backend["state"] for backend in stopping.result()["backends"]] == ["stopped", "ready"]
    assert says(aigw, "first: draining -> stopping (drained)")


def reasons(decision: dict[str, Any]) -> dict[str, str]:
    return {candidate["backend"]: candidate["reason"] for candidate in decision["candidates"]}


async def test_stop_now_cuts_what_runs(aigw: Aigw, client: httpx.AsyncClient) -> None:
    first = stub(aigw.folder, "first", "--pieces", "200", "--pause", "0.25")
    await bring_up(aigw, first="first", model="first", backends=first + stub(aigw.folder, "backup"))
    async with stream(client) as events:
        await in_flight(aigw, "first", 1)
        async with asyncio.timeout(10):
            await asyncio.to_thread(aigw.run, "stop", "first", "--now")
            rest = [event async for event in events]
    assert "stream_cut" in rest[-1]
