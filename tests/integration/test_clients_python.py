"""The Python `openai` client against the whole of aigw, on real answers of a real model."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.support.aigw import MODEL, Aigw
from tests.support.llamacpp import ENDLESS, chat, forgotten, stops, works

YES_OR_NO = {"grammar": 'root ::= "yes" | "no"'}
"""A parameter that only llama.cpp knows."""


@pytest.fixture(scope="module")
def client(either: Aigw) -> Iterator[OpenAI]:
    with either.openai() as open_client:
        yield open_client


def asynchronous(whole: Aigw) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{whole.url}/v1", api_key="not-needed", max_retries=0, timeout=60)


def asking(prompt: str = "Say hi.", **options: Any) -> dict[str, Any]:
    """Keyword arguments of `chat.completions.create`."""
    return dict(chat(prompt, **options))


def endless(**options: Any) -> dict[str, Any]:
    """The same for an answer that doesn't end by itself."""
    return asking("Count.", extra_body=ENDLESS, stream=True, **options)


def test_a_chat_is_answered(client: OpenAI) -> None:
    answer = client.chat.completions.create(**asking("What is the capital of France?", temperature=0))
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_text_is_continued(client: OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt="The capital of France is", max_tokens=6, temperature=0)
    assert "Paris" in answer.choices[0].text


def test_a_text_is_continued_as_a_stream(client: OpenAI) -> None:
    stream = client.completions.create(
        model=MODEL, prompt="The capital of France is", max_tokens=6, temperature=0, stream=True
    )
    assert "Paris" in "".join(chunk.choices[0].text for chunk in stream if chunk.choices)


def test_a_stream_says_the_same_as_the_whole_answer(client: OpenAI) -> None:
    exact = asking("Name a colour.", temperature=0, seed=1, max_tokens=12)
    whole = client.chat.completions.create(**exact)
    chunks = list(client.chat.completions.create(**exact, stream=True))
    assert len(chunks) > 3
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason


def test_usage_ends_a_stream_only_when_it_was_asked_for(client: OpenAI) -> None:
    plain = list(client.chat.completions.create(**asking(stream=True)))
    assert all(chunk.choices and chunk.usage is None for chunk in plain)
    counted = list(client.chat.completions.create(**asking(stream=True, stream_options={"include_usage": True})))
    assert counted[-1].usage is not None
    assert counted[-1].usage.completion_tokens > 0
    assert counted[-1].choices == []


def test_parameters_of_the_engine_alone_reach_it(client: OpenAI) -> None:
    answer = client.chat.completions.create(**asking("Is the sky blue?", extra_body=YES_OR_NO))
    assert answer.choices[0].message.content in {"yes", "no"}


def test_an_alias_is_answered_by_its_model(client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(**asking() | {"model": "chat"})
    assert raw.headers["x-aigw-model"] == MODEL
    assert raw.parse().choices[0].finish_reason


def test_a_conversation_of_any_script_goes_through(client: OpenAI) -> None:
    messages = [
        {"role": "system", "content": "Antworte höflich. \N{SNOWMAN}"},
        {"role": "user", "content": "日本語、עברית, \U0001f600 and \u0000 zero"},
        {"role": "assistant", "content": 'He said "no\\yes".'},
        {"role": "user", "content": [{"type": "text", "text": "Go on."}]},
    ]
    answer = client.chat.completions.create(**asking() | {"messages": messages})
    assert answer.choices[0].finish_reason


def test_models_are_listed_and_retrieved(client: OpenAI) -> None:
    assert {model.id for model in client.models.list()} == {"chat", MODEL}
    assert client.models.retrieve(MODEL).owned_by == "llamacpp"


def test_an_unknown_model_is_the_clients_not_found(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(**asking() | {"model": "smollm2"})
    assert caught.value.code == "model_not_found"
    assert MODEL in caught.value.message


@pytest.mark.parametrize("wrong", [{"n": 0}, {"messages": "hello"}, {"max_tokens": 10_000_001}, {"temperature": "hot"}])
def test_what_is_invalid_is_the_clients_bad_request(client: OpenAI, wrong: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**asking() | wrong)
    assert caught.value.type
    assert caught.value.response.headers["x-aigw-request-id"]


def test_a_prompt_that_is_too_long_is_told_by_the_engine(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="context"):
        client.chat.completions.create(**asking("word " * 5_000))


def test_a_closed_stream_ends_the_generation(either: Aigw, client: OpenAI, engine: httpx.Client) -> None:
    with client.chat.completions.create(**endless()) as stream:
        next(iter(stream))
        works(engine)
    stops(either, engine)


def test_a_client_that_runs_out_of_time_is_let_go(either: Aigw, client: OpenAI, engine: httpx.Client) -> None:
    # llama.cpp itself notices only while it streams that nobody listens, so this answer has an end; the fastest machine
    # must not reach it in that time, and the slowest not take longer than is waited.
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.3).chat.completions.create(
            **asking("Count.", extra_body={**ENDLESS, "max_tokens": 300})
        )
    forgotten(either)
    works(engine, 0, seconds=60)


async def test_the_asynchronous_client_is_answered_many_at_once(either: Aigw) -> None:
    async with asynchronous(either) as client, asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(client.chat.completions.create(**asking(max_tokens=4))) for _ in range(8)]
    assert all(task.result().choices[0].finish_reason for task in asked)


async def test_the_asynchronous_client_streams(either: Aigw) -> None:
    async with asynchronous(either) as client:
        stream = await client.chat.completions.create(**asking(stream=True))
        chunks = [chunk async for chunk in stream]
    assert chunks[-1].choices[0].finish_reason


async def test_a_cancelled_task_ends_the_generation(either: Aigw, engine: httpx.Client) -> None:
    began = asyncio.Event()

    async def read() -> None:
        async with asynchronous(either) as client:
            async for _ in await client.chat.completions.create(**endless()):
                began.set()

    async with asyncio.TaskGroup() as tasks:
        reader = tasks.create_task(read())
        await began.wait()
        works(engine)
        reader.cancel()
    stops(either, engine)


async def test_one_that_leaves_does_not_disturb_the_others(either: Aigw, engine: httpx.Client) -> None:
    async with asynchronous(either) as client, asyncio.TaskGroup() as tasks:
        leaving = await client.chat.completions.create(**endless())
        await anext(leaving)
        # Where the engine has one slot, this one waits for it; where it has several, it runs beside the other.
        staying = tasks.create_task(client.chat.completions.create(**asking("Count.", max_tokens=20)))
        await leaving.close()
        answer = await staying
    assert answer.choices[0].finish_reason
    stops(either, engine)
