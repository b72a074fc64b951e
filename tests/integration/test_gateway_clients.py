"""Real clients on a real model: the openai library (sync, async, streamed, cancelled) over a real llama-server."""

import asyncio
import contextlib
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

import httpx
import openai
import pytest
import pytest_asyncio
from openai.types.chat import ChatCompletionMessageParam

from aigw_daemon.gateway.routing import DEFAULT_TAG
from tests.support.engines import llama_server, smollm2
from tests.support.gateway import GatewayProcess, backend, gateway_process, route, snapshot

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODEL = f"smollm2{DEFAULT_TAG}"
SERVED = "smollm2-135m"
HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Say hello."}]
LONG = 7_000
"""Tokens: more than a minute of generation on the machines that tests run on."""

ASK_SECONDS = 1.2
"""llama.cpp looks for a client that left when it has heard nothing for a second, questions about its slots included."""

T = TypeVar("T")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[int]:
    """A llama-server with the small model; its port."""
    process, port = start_engine()
    try:
        async with httpx.AsyncClient() as client:
            await loaded(client, port)
        yield port
    finally:
        process.terminate()
        process.wait(10)


def start_engine() -> tuple[subprocess.Popen[bytes], int]:
    """Start it on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    argv = [
        str(llama_server()), "-m", str(smollm2()), "--alias", SERVED, "--host", "127.0.0.1", "--port", str(port),
        "-c", "16384", "-np", "2", "-t", "2", "--no-webui", "--offline", "--slots",
    ]  # fmt: skip
    quiet = subprocess.DEVNULL
    return subprocess.Popen(argv, stdin=quiet, stdout=quiet, stderr=quiet), port


async def loaded(client: httpx.AsyncClient, port: int) -> None:
    """Ask until the model is there."""
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(httpx.TransportError):
                if (await client.get(f"http://127.0.0.1:{port}/health")).status_code == 200:
                    return
            await asyncio.sleep(0.1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(engine: int) -> AsyncIterator[GatewayProcess]:
    first = snapshot(backend("llamacpp", engine, models=[SERVED]), routes=[route(MODEL, ("llamacpp", SERVED))])
    async with gateway_process(first) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def client(gateway: GatewayProcess) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="not-needed", max_retries=0) as opened:
        yield opened


async def in_thread(gateway: GatewayProcess, use: Callable[[openai.OpenAI], T]) -> T:
    """Use the synchronous client aside, for it would block the test's own loop."""

    def run() -> T:
        with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="not-needed") as client:
            return use(client)

    return await asyncio.to_thread(run)


async def slots_busy(engine: int) -> int:
    """How many of the engine's slots are generating."""
    async with httpx.AsyncClient() as client:
        slots = (await client.get(f"http://127.0.0.1:{engine}/slots")).json()
    return sum(slot["is_processing"] for slot in slots)


async def freed(engine: int) -> None:
    """Wait until no slot generates; it must be long before so many tokens are made."""
    async with asyncio.timeout(25.0):
        while True:
            await asyncio.sleep(ASK_SECONDS)
            if not await slots_busy(engine):
                return


async def test_the_synchronous_client_gets_an_answer(gateway: GatewayProcess) -> None:
    answer = await in_thread(
        gateway,
        lambda client: client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=8, temperature=0.7),
    )
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


async def test_the_synchronous_client_streams(gateway: GatewayProcess) -> None:
    def streamed(client: openai.OpenAI) -> tuple[str, str | None]:
        text, finish = "", None
        for part in client.chat.completions.create(model=MODEL, messages=HELLO, stream=True, max_tokens=8):
            # The reference's own loop: an event without choices, such as a usage frame, would break it here.
            text += part.choices[0].delta.content or ""
            finish = part.choices[0].finish_reason or finish
        return text, finish

    text, finish = await in_thread(gateway, streamed)
    assert text
    assert finish in {"stop", "length"}


async def test_the_asynchronous_client_streams_and_gets_the_usage_it_asks_for(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model=MODEL, messages=HELLO, stream=True, max_tokens=8, stream_options={"include_usage": True}
    )
    parts = [part async for part in stream]
    assert parts[-1].usage is not None
    assert parts[-1].choices == []


async def test_a_text_is_continued(client: openai.AsyncOpenAI) -> None:
    answer = await client.completions.create(model=MODEL, prompt="Once upon a time,", max_tokens=8, temperature=0.8)
    assert answer.choices[0].text
    stream = await client.completions.create(model=MODEL, prompt="The capital of France is", max_tokens=4, stream=True)
    assert "".join([part.choices[0].text async for part in stream])


async def test_models_are_listed_and_retrieved(client: openai.AsyncOpenAI) -> None:
    listed = await client.models.list()
    assert [model.id for model in listed.data] == [MODEL, SERVED]
    model = await client.models.retrieve(MODEL)
    assert (model.id, model.owned_by) == (MODEL, "llamacpp")
    assert model.model_extra is not None
    assert model.model_extra["provider"] == "workspace-backend"


async def test_an_unknown_model_raises_not_found(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await client.chat.completions.create(model="invalid-model", messages=HELLO)
    assert caught.value.code == "model_not_found"
    assert "Model 'invalid-model' not found" in caught.value.message


async def test_an_engines_refusal_raises_bad_request(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(model=MODEL, messages=HELLO, extra_body={"grammar": "not a grammar"})
    assert caught.value.type == "invalid_request_error"


async def test_logprobs_json_mode_and_choices_pass_through(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model=MODEL, messages=HELLO, max_tokens=4, n=2, logprobs=True, top_logprobs=2
    )
    assert len(answer.choices) == 2
    assert answer.choices[0].logprobs is not None
    objects = await client.chat.completions.create(
        model=MODEL, messages=HELLO, max_tokens=40, response_format={"type": "json_object"}
    )
    assert (objects.choices[0].message.content or "").lstrip().startswith("{")


async def test_a_stream_with_several_choices_ends_whole(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=4, n=2, stream=True)
    finished = {
        choice.index for part in [part async for part in stream] for choice in part.choices if choice.finish_reason
    }
    assert finished == {0, 1}


async def test_a_cancelled_stream_frees_the_engine(client: openai.AsyncOpenAI, engine: int) -> None:
    stream = await client.chat.completions.create(model=MODEL, messages=HELLO, stream=True, max_tokens=LONG)
    await anext(aiter(stream))
    assert await slots_busy(engine) == 1
    await stream.close()
    await freed(engine)


async def test_a_cancelled_answer_frees_the_engine(client: openai.AsyncOpenAI, engine: int) -> None:
    async with asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=LONG))
        while not await slots_busy(engine):
            assert not asking.done()
        asking.cancel()
    await freed(engine)


async def test_records_carry_the_engines_counts(gateway: GatewayProcess, client: openai.AsyncOpenAI) -> None:
    raw = await client.chat.completions.with_raw_response.create(model=MODEL, messages=HELLO, max_tokens=4)
    usage = raw.parse().usage
    assert usage is not None
    record = await gateway.record_of({b"x-aigw-request-id": raw.headers["x-aigw-request-id"].encode()})
    assert (record.prompt_tokens, record.completion_tokens) == (usage.prompt_tokens, usage.completion_tokens)
    assert record.upstream_model == SERVED
