"""What the fixed upstreams say: the same bytes for every proxy."""

import json

MODEL = "fixed"

_TEXT = "The quick brown fox jumps over the lazy dog, and does so again, since a fixed answer has to have some length."

ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": MODEL,
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": _TEXT}, "logprobs": None, "finish_reason": "stop"}
        ],
        "usage": {"prompt_tokens": 20, "completion_tokens": 30, "total_tokens": 50},
    },
    separators=(",", ":"),
)
"""A chat answer of about 0.4 KB."""

MODELS = json.dumps({"object": "list", "data": [{"id": MODEL, "object": "model", "created": 1, "owned_by": "bench"}]})

EVENTS_PER_SECOND = 100
"""In each busy stream."""
IDLE_EVENTS_PER_SECOND = 1 / 120
"""In each idle one: between two events lies more time than its measurement takes."""
EVENT_MARK = b'" fox"'
"""Occurs once in each counted event, also where a proxy writes the JSON anew."""


def _event(delta: dict[str, str], finish_reason: str | None) -> bytes:
    chunk = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": MODEL,
        "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}],
    }
    return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"


EVENT = _event({"content": " fox"}, None)
LAST_EVENT = _event({}, "stop")
USAGE_EVENT = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"fixed","choices":[],'
    b'"usage":{"prompt_tokens":20,"completion_tokens":500,"total_tokens":520}}\n\n'
)
DONE = b"data: [DONE]\n\n"
