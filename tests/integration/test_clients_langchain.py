"""langchain-openai against the whole of aigw: chats, streams, tools, typed answers, and vectors of token arrays."""

from collections.abc import Iterator
from typing import Any, Literal

import pytest
import tiktoken
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel, SecretStr
from tiktoken import registry

from tests.support.aigw import MODEL, Aigw
from tests.support.kinds import EMBEDDER, WEATHER, sections, weather_in

KEY = SecretStr("not-needed")
ENCODING = "cl100k_base"
"""What langchain splits texts with when it doesn't know a model."""


class Place(BaseModel):
    """A typed answer."""

    city: Literal["Paris", "Rome"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aigw]:
    """An aigw that chats, calls tools and makes vectors."""
    found = Aigw(tmp_path_factory.mktemp("langchain"))
    try:
        found.up(backends=sections())
        yield found
    finally:
        found.end()


@pytest.fixture
def byte_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token for each byte in place of the encoding, whose words tiktoken would fetch from the network."""
    bytes_alone = {bytes([number]): number for number in range(256)}
    made = tiktoken.Encoding(ENCODING, pat_str=r"[\s\S]", mergeable_ranks=bytes_alone, special_tokens={})
    monkeypatch.setitem(registry.ENCODINGS, ENCODING, made)


def chat_model(whole: Aigw, **options: Any) -> ChatOpenAI:
    common: dict[str, Any] = {"base_url": f"{whole.url}/v1", "api_key": KEY, "max_retries": 0, "timeout": 60}
    return ChatOpenAI(model=MODEL, **{**common, "max_tokens": 8, "temperature": 0, **options})


def embedder(whole: Aigw, **options: Any) -> OpenAIEmbeddings:
    return OpenAIEmbeddings(model=EMBEDDER, base_url=f"{whole.url}/v1", api_key=KEY, max_retries=0, **options)


def test_a_chat_is_answered(whole: Aigw) -> None:
    answer = chat_model(whole).invoke("Say hi.")
    assert answer.text
    assert answer.usage_metadata is not None
    assert 0 < answer.usage_metadata["output_tokens"] <= 8


def test_a_chat_is_streamed_with_its_usage(whole: Aigw) -> None:
    chunks = list(chat_model(whole, stream_usage=True).stream("Count to ten."))
    assert len([chunk for chunk in chunks if chunk.text]) > 1
    assert sum(chunk.usage_metadata["output_tokens"] for chunk in chunks if chunk.usage_metadata) > 0


def test_a_tool_is_called(whole: Aigw) -> None:
    model = chat_model(whole, max_tokens=60).bind_tools([WEATHER], parallel_tool_calls=False)
    answer = model.invoke(weather_in("Paris", "Rome", "Oslo"))
    assert [(call["name"], call["args"]) for call in getattr(answer, "tool_calls", [])] == [
        ("get_weather", {"city": "Paris"})
    ]


def test_an_answer_has_the_type_that_was_asked_for(whole: Aigw) -> None:
    model = chat_model(whole, max_tokens=60).with_structured_output(Place, method="json_schema")
    assert isinstance(model.invoke("Name a city."), Place)


@pytest.mark.usefixtures("byte_encoding")
def test_texts_that_it_sends_as_token_arrays_become_vectors(whole: Aigw) -> None:
    one, other = embedder(whole).embed_documents(["A town by the sea.", "A hill."])
    assert len(one) == len(other) > 0
    assert one != other


def test_texts_that_it_sends_as_they_are_become_vectors(whole: Aigw) -> None:
    plain = embedder(whole, check_embedding_ctx_length=False)
    assert plain.embed_query("A hill.") == pytest.approx(plain.embed_documents(["A hill."])[0], abs=1e-6)
