"""Answers as engines give them, for tests of the cache."""

from typing import Any

import msgspec

from aigw_daemon.gateway.cache.entry import Entry, Origin, stream_entry, whole_entry
from aigw_daemon.link.messages import CHAT

KEY = bytes(range(32))


def origin(key: bytes = KEY, **fields: Any) -> Origin:
    """Where an answer came from."""
    usual: dict[str, Any] = {
        "endpoint": CHAT,
        "backend": "ollama",
        "model": "llama3.1:8b",
        "name": "llama",
        "created": 1_700_000_000.0,
        "seconds": 2.5,
        "ttl": 3600.0,
    }
    return Origin(key, **{**usual, **fields})


def whole(content: str = "Paris.", *, finish: str = "stop") -> bytes:
    """A whole chat answer."""
    return msgspec.json.encode(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1_700_000_000,
            "model": "llama3.1:8b",
            "choices": [
                {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": finish},
            ],
            "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
        }
    )


def event(*choices: dict[str, Any], **fields: Any) -> bytes:
    """One event of a chat stream."""
    common = {"id": "chatcmpl-2", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "llama3.1:8b"}
    return b"data: %b\n\n" % msgspec.json.encode({**common, "choices": list(choices), **fields})


def delta(index: int = 0, finish: str | None = None, **fields: Any) -> dict[str, Any]:
    """A choice of such an event."""
    return {"index": index, "delta": fields, "finish_reason": finish}


USAGE_EVENT = event(usage={"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10})
DONE_EVENT = b"data: [DONE]\n\n"


def stream(*words: str, finish: str = "stop") -> bytes:
    """A chat stream that says these words, with its usage frame."""
    said = [event(delta(content=word)) for word in words or ("Par", "is.")]
    end = event(delta(finish=finish))
    return b"".join([event(delta(role="assistant", content="")), *said, end, USAGE_EVENT, DONE_EVENT])


def whole_answer(content: str = "Paris.", key: bytes = KEY, **fields: Any) -> Entry:
    """Such an answer, kept."""
    entry = whole_entry(origin(key, **fields), whole(content), "application/json")
    assert entry is not None
    return entry


def streamed_answer(*words: str, key: bytes = KEY, **fields: Any) -> Entry:
    """Such a stream, kept."""
    entry = stream_entry(origin(key, **fields), stream(*words))
    assert entry is not None
    return entry
