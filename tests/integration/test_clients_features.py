"""What the real clients can ask for beyond a plain chat: tools, JSON, likelihoods, several answers, vectors, ranks."""

import base64
import json
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from tests.support.aigw import MODEL, Aigw
from tests.support.engines import node, node_clients
from tests.support.kinds import EMBEDDER, RERANKER, WEATHER, sections, weather_in
from tests.support.llamacpp import chat

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
SHAPED = {"type": "json_schema", "json_schema": {"name": "place", "schema": CITY, "strict": True}}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
TOOL: dict[str, Any] = {"tools": [WEATHER], "temperature": 0, "max_tokens": 60, "parallel_tool_calls": False}
DIMENSIONS = 576
"""Of the small model."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aigw]:
    """An aigw with a backend for each kind."""
    found = Aigw(tmp_path_factory.mktemp("kinds"))
    try:
        found.up(backends=sections())
        yield found
    finally:
        found.end()


@pytest.fixture(scope="module")
def client(whole: Aigw) -> Iterator[OpenAI]:
    with whole.openai() as open_client:
        yield open_client


def asking(prompt: str = "Name a city.", **options: Any) -> dict[str, Any]:
    """Keyword arguments of `chat.completions.create`."""
    return dict(chat(prompt, **options))


def calling(**options: Any) -> dict[str, Any]:
    """The same for a conversation that wants a tool called."""
    return asking(**TOOL, **options) | {"messages": weather_in("Paris", "Rome", "Oslo")}


def test_a_tool_is_called_and_its_result_is_taken(client: OpenAI) -> None:
    answer = client.chat.completions.create(**calling())
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls is not None
    (call,) = choice.message.tool_calls
    assert call.type == "function"
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"city": "Paris"}

    result = {"role": "tool", "tool_call_id": call.id, "content": "It is sunny."}
    told = [*weather_in("Paris", "Rome"), choice.message.model_dump(exclude_none=True), result]
    after = client.chat.completions.create(**asking(tools=[WEATHER], max_tokens=4) | {"messages": told})
    assert after.choices[0].finish_reason


def test_a_tool_call_is_streamed_piece_by_piece(client: OpenAI) -> None:
    with client.chat.completions.stream(**calling()) as stream:
        kinds = {event.type for event in stream}
        message = stream.get_final_completion().choices[0].message
    assert "tool_calls.function.arguments.delta" in kinds
    assert message.tool_calls is not None
    assert json.loads(message.tool_calls[0].function.arguments) == {"city": "Paris"}


def test_json_mode_gives_an_object_whatever_was_asked(client: OpenAI) -> None:
    # With llama.cpp's own field for its shape: of an undescribed object the small model finds no end, if it begins one.
    shape = {"type": "json_object", "schema": CITY}
    answer = client.chat.completions.create(**asking("Say hi.", response_format=shape, max_tokens=60))
    assert set(json.loads(answer.choices[0].message.content or "")) == {"city"}


def test_an_answer_keeps_to_a_json_schema(client: OpenAI) -> None:
    answer = client.chat.completions.create(**asking(response_format=SHAPED, max_tokens=60))
    assert json.loads(answer.choices[0].message.content or "")["city"] in {"Paris", "Rome"}


def test_tokens_come_with_their_likelihood(client: OpenAI) -> None:
    answer = client.chat.completions.create(**asking(logprobs=True, top_logprobs=2, max_tokens=3))
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert len(logprobs.content) == 3
    assert all(token.logprob <= 0 and len(token.top_logprobs) == 2 for token in logprobs.content)


def test_several_answers_come_at_once(client: OpenAI) -> None:
    answer = client.chat.completions.create(**asking(n=3, temperature=1.5, max_tokens=3))
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert all(choice.finish_reason == "length" for choice in answer.choices)


def test_several_answers_are_streamed_beside_each_other(client: OpenAI) -> None:
    chunks = list(client.chat.completions.create(**asking(n=2, max_tokens=3, stream=True)))
    ended = [choice.index for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    assert sorted(ended) == [0, 1]


def test_who_cannot_see_is_not_shown_a_picture(client: OpenAI) -> None:
    shown = [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, PICTURE]}]
    with pytest.raises(openai.APIStatusError, match="lacks vision") as caught:
        client.chat.completions.create(**asking() | {"messages": shown})
    assert caught.value.response.headers["x-aigw-attempts"] == "0"


def test_a_text_becomes_a_vector(client: OpenAI) -> None:
    # The client asks for base64 by itself, and gives numbers.
    answer = client.embeddings.create(model=EMBEDDER, input="A small town by the sea.")
    assert len(answer.data[0].embedding) == DIMENSIONS
    assert answer.usage.prompt_tokens > 3


def test_vectors_are_the_same_in_numbers_and_in_base64(client: OpenAI) -> None:
    numbers = client.embeddings.create(model=EMBEDDER, input="Hi", encoding_format="float").data[0].embedding
    packed: Any = client.embeddings.create(model=EMBEDDER, input="Hi", encoding_format="base64").data[0].embedding
    assert struct.unpack(f"<{DIMENSIONS}f", base64.b64decode(packed)) == pytest.approx(numbers, abs=1e-6)


def test_several_texts_and_token_arrays_become_vectors(client: OpenAI) -> None:
    texts = client.embeddings.create(model=EMBEDDER, input=["one", "two"])
    assert [vector.index for vector in texts.data] == [0, 1]
    tokens = client.embeddings.create(model=EMBEDDER, input=[[1, 2, 3], [4]])
    assert tokens.usage.prompt_tokens == 4


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank", "/v2/rerank"])
def test_documents_are_put_in_order(whole: Aigw, path: str) -> None:
    body = {"model": RERANKER, "query": "a town", "documents": ["a", "b c", "d"], "top_n": 2}
    answer = httpx.post(f"{whole.url}{path}", json=body, timeout=60)
    results = answer.json()["results"]
    assert len(results) == 2
    assert results[0]["relevance_score"] >= results[1]["relevance_score"]
    assert answer.headers["x-aigw-backend"] == "reranker"


def test_what_a_model_does_not_do_is_told_with_those_that_do(client: OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        client.embeddings.create(model=MODEL, input="Hi")
    assert caught.value.status_code == 501
    assert caught.value.code == "endpoint_not_supported"
    assert EMBEDDER in caught.value.message
    with pytest.raises(openai.APIStatusError, match=MODEL):
        client.chat.completions.create(**asking() | {"model": EMBEDDER})


NODE = """
import OpenAI from 'openai';
const client = new OpenAI({ baseURL: process.env.URL, apiKey: 'not-needed', maxRetries: 0, timeout: 60000 });
const { calling, shaped, likely, several, model } = JSON.parse(process.env.ASKED);
const runner = client.chat.completions.stream(calling);
const vectors = await client.embeddings.create({ model, input: ['one', 'two'] });
console.log(JSON.stringify({
  call: (await runner.finalMessage()).tool_calls[0].function,
  shaped: JSON.parse((await client.chat.completions.create(shaped)).choices[0].message.content),
  likely: (await client.chat.completions.create(likely)).choices[0].logprobs.content.length,
  several: (await client.chat.completions.create(several)).choices.length,
  dimensions: vectors.data.map((one) => one.embedding.length),
}));
"""


def test_the_node_client_can_ask_for_all_of_it(whole: Aigw, tmp_path: Path) -> None:
    (tmp_path / "node_modules").symlink_to(node_clients() / "node_modules")
    (tmp_path / "client.mjs").write_text(NODE)
    asked = {
        "calling": calling(),
        "shaped": asking(response_format=SHAPED, max_tokens=60),
        "likely": asking(logprobs=True, max_tokens=3),
        "several": asking(n=2, max_tokens=3),
        "model": EMBEDDER,
    }
    done = subprocess.run(
        [str(node()), "client.mjs"],
        cwd=tmp_path,
        env={**whole.env, "URL": f"{whole.url}/v1", "ASKED": json.dumps(asked)},
        stdout=subprocess.PIPE,
        text=True,
        timeout=90,
        check=True,
    )
    told = json.loads(done.stdout)
    assert told["call"]["name"] == "get_weather"
    assert json.loads(told["call"]["arguments"]) == {"city": "Paris"}
    assert told["shaped"]["city"] in {"Paris", "Rome"}
    assert (told["likely"], told["several"], told["dimensions"]) == (3, 2, [DIMENSIONS, DIMENSIONS])


def test_open_webui_lists_the_models_and_streams_with_usage(whole: Aigw) -> None:
    # Its way: a key whatever the gateway says, the list first, then a stream that must end with its usage.
    key = {"Authorization": "Bearer sk-anything"}
    listed = httpx.get(f"{whole.url}/v1/models", headers=key).json()["data"]
    assert {MODEL, EMBEDDER, RERANKER} <= {model["id"] for model in listed}
    body = chat(stream=True, stream_options={"include_usage": True})
    with httpx.stream("POST", f"{whole.url}/v1/chat/completions", json=body, headers=key, timeout=60) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert events[-1] == "[DONE]"
    usage = json.loads(events[-2])["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
