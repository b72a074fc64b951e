"""Requests outlive the death of their engine: a whole aigw, the openai client, stand-ins and a real llama-server."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator

import psutil
import pytest
from openai import AsyncOpenAI, InternalServerError
from openai.types.chat import ChatCompletionMessageParam

from tests.support.aigw import Aigw, llamacpp_section, profile_text
from tests.support.stub_engine import behind_a_leader, install

CROWDS = {"stand-in": 50, "real": 16}
"""A real engine computes for each of them."""
POISON = "cyanide"
THREADS = '    args: ["--threads-http", "64"]\n'
"""Else a few threads of llama-server serve all connections, and each waits out a keep-alive before the next one."""


def stub(whole: Aigw, name: str, *arguments: str, led: bool = False) -> str:
    """A stand-in; ``led``: as the child of a leader that does not notice its end."""
    program = install(whole.folder / "bin")
    model = program.with_name("model.gguf")
    model.write_bytes(b"GGUF")
    program = behind_a_leader(program, whole.folder) if led else program
    files = f"binary: {program}, model: {model}, max_concurrency: 64"
    return f"  {name}: {{engine: llamacpp, {files}, served_name: {name}, args: {json.dumps(arguments)}}}\n"


@pytest.fixture(scope="module")
def aigw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aigw]:
    """Two engines that take their time, one that dies of a certain word, and a real one."""
    whole = Aigw(tmp_path_factory.mktemp("aigw"))
    backends = [
        stub(whole, "stand-in", "--think", "0.5"),
        stub(whole, "other", "--think", "0.2"),
        stub(whole, "mortal", "--poison", POISON),
        stub(whole, "led", "--think", "0.5", led=True),
        llamacpp_section("binary", "real", model="real") + "    max_concurrency: 64\n" + THREADS,
    ]
    target = "{{backend: {0}, model: {0}}}".format
    routes = "routes:\n"
    for name in ("stand-in", "real"):
        routes += f"  {name}-or-other: {{targets: [{target(name)}, {target('other')}]}}\n"
    try:
        text = profile_text(whole.port, backends="".join(backends), names=(), extra=routes)
        whole.run("up", "--profile", str(whole.write_profile(text)))
        yield whole
    finally:
        whole.end()


@pytest.fixture
async def client(aigw: Aigw) -> AsyncIterator[AsyncOpenAI]:
    """The real client, without retries of its own."""
    made = AsyncOpenAI(base_url=f"{aigw.url}/v1", api_key="not-needed", max_retries=0, timeout=110)
    async with made:
        yield made


async def ask(client: AsyncOpenAI, model: str, prompt: str = "Say hi.", *, stream: bool) -> str | None:
    """Ask, and return how the answer finished."""
    words: list[ChatCompletionMessageParam] = [{"role": "user", "content": prompt}]
    if not stream:
        answer = await client.chat.completions.create(model=model, messages=words, max_tokens=2)
        return answer.choices[0].finish_reason
    finish = None
    pieces = await client.chat.completions.create(model=model, messages=words, max_tokens=2, stream=True)
    async for piece in pieces:
        finish = piece.choices[0].finish_reason if piece.choices else finish
    return finish


async def shown(aigw: Aigw, name: str) -> dict[str, object]:
    return await asyncio.to_thread(aigw.backend, name)


async def busy_with(aigw: Aigw, name: str, least: int) -> int:
    """Wait until so many requests are in flight there; its PID."""
    async with asyncio.timeout(20):
        while True:
            found = await shown(aigw, name)
            if int(str(found["in_flight"])) >= least:
                return int(str(found["pid"]))


async def ready(aigw: Aigw) -> None:
    """Wait until everything is back, and its past forgotten."""
    await asyncio.to_thread(aigw.run, "start", "stand-in", "other", "mortal", "led", "real")


async def frozen(aigw: Aigw, name: str) -> int:
    """Have everything ready and this engine frozen, so that no request gets a byte of its answer; its PID."""
    await ready(aigw)
    pid = await busy_with(aigw, name, 0)
    os.kill(pid, signal.SIGSTOP)
    return pid


@pytest.mark.parametrize("engine", ["stand-in", pytest.param("real", marks=pytest.mark.slow)])
@pytest.mark.parametrize("others", ["", "-or-other"])
async def test_no_request_of_a_crowd_fails_when_the_engine_is_killed(
    aigw: Aigw, client: AsyncOpenAI, engine: str, others: str
) -> None:
    pid, size = await frozen(aigw, engine), CROWDS[engine]
    async with asyncio.TaskGroup() as tasks:
        crowd = [tasks.create_task(ask(client, engine + others, stream=number % 2 == 0)) for number in range(size)]
        await busy_with(aigw, engine, size)
        os.kill(pid, signal.SIGKILL)
    ends = {task.result() for task in crowd}
    assert ends <= {"stop", "length"}, ends


async def lives(aigw: Aigw, name: str) -> int:
    """How often it has become ready."""
    told = await asyncio.to_thread(aigw.events, "events", name)
    return sum(event["event"] == "ready" for event in told)


async def test_a_request_that_kills_its_engine_twice_is_not_tried_again(aigw: Aigw, client: AsyncOpenAI) -> None:
    await ready(aigw)
    before = await lives(aigw, "mortal")
    patient = client.with_options(max_retries=2)
    with pytest.raises(InternalServerError, match="mortal died twice while it was answering this request"):
        await ask(patient, "mortal", POISON, stream=False)
    await ready(aigw)
    # Two deaths, and no third by a retry of the client's.
    assert await lives(aigw, "mortal") == before + 2
    assert await ask(client, "mortal", stream=False) == "stop"


async def test_a_child_that_dies_under_a_leader_that_lives_is_found_out_by_the_requests(
    aigw: Aigw, client: AsyncOpenAI
) -> None:
    """Nobody listens any more: the daemon looks at once, and not at its next probe."""
    await ready(aigw)
    (child,) = psutil.Process(await busy_with(aigw, "led", 0)).children()
    child.suspend()
    async with asyncio.TaskGroup() as tasks:
        asked = tasks.create_task(ask(client, "led", stream=True))
        await busy_with(aigw, "led", 1)
        child.kill()
    assert asked.result() == "stop"
    assert "led: degraded -> stopping (lost)" in aigw.log("aigwd")


async def test_an_operators_restart_now_loses_no_request(aigw: Aigw, client: AsyncOpenAI) -> None:
    await frozen(aigw, "stand-in")
    async with asyncio.TaskGroup() as tasks:
        asked = tasks.create_task(ask(client, "stand-in", stream=False))
        await busy_with(aigw, "stand-in", 1)
        tasks.create_task(asyncio.to_thread(aigw.run, "restart", "stand-in", "--now"))
    assert asked.result() == "stop"


async def test_an_operators_stop_now_is_told_at_once(aigw: Aigw, client: AsyncOpenAI) -> None:
    await frozen(aigw, "stand-in")
    async with asyncio.TaskGroup() as tasks:
        asked = tasks.create_task(told(client, "stand-in"))
        await busy_with(aigw, "stand-in", 1)
        tasks.create_task(asyncio.to_thread(aigw.run, "stop", "stand-in", "--now"))
    assert "stand-in: stop" in asked.result()


async def told(client: AsyncOpenAI, model: str) -> str:
    """The sentence of the error."""
    with pytest.raises(InternalServerError) as found:
        await ask(client, model, stream=False)
    return str(found.value)
