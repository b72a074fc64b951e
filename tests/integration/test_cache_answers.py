"""What the cache makes of a real engine's answers: kept as they came, and true in their other form."""

from typing import Any

import httpx
import msgspec

from aigw_daemon.gateway.cache.convert import in_form
from aigw_daemon.gateway.cache.entry import Entry, stream_entry, whole_entry
from tests.support.cached import origin
from tests.support.llamacpp import chat

SAME_EACH_TIME: dict[str, Any] = {"temperature": 0, "seed": 7, "max_tokens": 200, "cache_prompt": False}
PROMPT = "Say only the word: yes"
OF_EACH_ANSWER = ("id", "created", "timings")


def asked(engine: httpx.Client, **options: Any) -> bytes:
    """The bytes of an answer that ends by itself."""
    body = chat(PROMPT, **SAME_EACH_TIME, **options)
    return engine.post("/v1/chat/completions", json=body).raise_for_status().content


def streamed(engine: httpx.Client) -> Entry:
    body = asked(engine, stream=True, stream_options={"include_usage": True})
    entry = stream_entry(origin(), body)
    assert entry is not None
    return entry


def whole(engine: httpx.Client) -> Entry:
    entry = whole_entry(origin(), asked(engine), "application/json")
    assert entry is not None
    return entry


def said(entry: Entry) -> dict[str, Any]:
    """A whole answer without what differs between two answers that say the same."""
    answer: dict[str, Any] = msgspec.json.decode(entry.body)
    answer["usage"].pop("prompt_tokens_details", None)
    return {name: value for name, value in answer.items() if name not in OF_EACH_ANSWER}


def test_a_real_stream_is_kept_and_made_whole_as_the_engine_would_have_answered(engine: httpx.Client) -> None:
    entry = streamed(engine)

    assert entry.usage_frame is not None
    assert said(in_form(entry, stream=False)) == said(whole(engine))


def test_a_real_answer_makes_a_stream_that_says_the_same(engine: httpx.Client) -> None:
    entry = whole(engine)

    again = in_form(in_form(entry, stream=True), stream=False)

    assert msgspec.json.decode(again.body) == msgspec.json.decode(entry.body)
