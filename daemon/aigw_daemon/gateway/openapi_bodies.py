"""What the hot routes take and answer, as JSON Schema for the OpenAPI description. Pure data.

Bounds stand here only where the gateway holds them; what an engine minds is told in words, for engines differ.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from aigw_daemon.gateway.cache.policy import LONGEST_TTL
from aigw_daemon.gateway.requests import LONGEST_NAME, MAX_CHOICES, MAX_MESSAGES, MAX_TOKENS
from aigw_daemon.link.messages import CHAT, COMPLETIONS, EMBEDDINGS, RERANK

Schema = dict[str, Any]

STRING: Final[Schema] = {"type": "string"}
_NUMBER: Final[Schema] = {"type": "number"}
_INTEGER: Final[Schema] = {"type": "integer"}
_STRINGS: Final[Schema] = {"type": "array", "items": STRING}
_TOKENS: Final[Schema] = {"type": "array", "items": _INTEGER, "minItems": 1}


class Endpoint(NamedTuple):
    """One thing that can be asked of a model."""

    summary: str
    takes: Schema
    answers: Schema
    """The whole answer; ``streams`` says whether there are streamed ones."""
    streams: bool = False


def _object(properties: Mapping[str, Any], *required: str) -> Schema:
    """An object with these properties, and any other ones."""
    shape: Schema = {"type": "object", "properties": dict(properties)}
    return {**shape, "required": list(required)} if required else shape


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _or_null(kind: str, **more: Any) -> Schema:
    return {"type": [kind, "null"], **more}


_CHECKED: Final[Schema] = {
    "model": {
        **STRING,
        "minLength": 1,
        "maxLength": LONGEST_NAME,
        "description": "A route, an alias, BACKEND/MODEL or a listed model.",
    },
    "stream": _or_null("boolean", description="Answer as server-sent events."),
    "stream_options": _or_null(
        "object",
        properties={"include_usage": _or_null("boolean", description="A last event with the token counts.")},
    ),
    "n": _or_null("integer", minimum=1, maximum=MAX_CHOICES, description="How many answers."),
    "max_tokens": _or_null("number", maximum=MAX_TOKENS, description="The longest answer, in tokens."),
    "max_completion_tokens": _or_null("number", maximum=MAX_TOKENS, description="The newer name of max_tokens."),
    "messages": _or_null("array", maxItems=MAX_MESSAGES),
    "cache": _or_null(
        "object",
        properties={
            "no-cache": _or_null("boolean", description="No kept answer."),
            "no-store": _or_null("boolean", description="Keep none."),
            "ttl": _or_null("number", minimum=0, maximum=LONGEST_TTL, description="Seconds to keep it."),
            "s-maxage": _or_null("number", minimum=0, maximum=LONGEST_TTL, description="The oldest one, in seconds."),
        },
        additionalProperties=False,
        description="Of kept answers; no engine sees it.",
    ),
}
"""What the gateway itself looks at, on every hot route: anything else of these kinds is a 400."""

_SAMPLING: Final[Schema] = {
    "temperature": {**_NUMBER, "description": "0.0 to 2.0: how random the answer is."},
    "top_p": {**_NUMBER, "description": "0.0 to 1.0: nucleus sampling."},
    "frequency_penalty": {**_NUMBER, "description": "-2.0 to 2.0: against words that came often."},
    "presence_penalty": {**_NUMBER, "description": "-2.0 to 2.0: against words that came at all."},
    "seed": {**_INTEGER, "description": "The same one gives the same answer again, as far as the engine can."},
    "stop": {"oneOf": [STRING, _STRINGS], "description": "Where to stop."},
    "user": {**STRING, "description": "Whom the request is for."},
}

_CONVERSING: Final[Schema] = {
    **_CHECKED,
    "messages": {
        **_list(_object({"role": STRING}, "role")),
        "maxItems": MAX_MESSAGES,
        "description": "The conversation so far: objects with role and content.",
    },
    **_SAMPLING,
    "tools": {**_list(_object({})), "description": "Functions that the model may call."},
    "tool_choice": {"description": "none, auto, required, or the function that it must call."},
    "response_format": {
        **_object({"type": STRING}, "type"),
        "description": "text, json_object, or json_schema with its schema.",
    },
    "logprobs": {"type": "boolean", "description": "How likely each token was."},
    "top_logprobs": {**_INTEGER, "description": "The likeliest others for each token, so many."},
}
_CONTINUING: Final[Schema] = {
    **_CHECKED,
    "prompt": {"oneOf": [STRING, _STRINGS, _TOKENS], "description": "What to continue."},
    **_SAMPLING,
    "logprobs": {**_INTEGER, "description": "How likely each token was, and the likeliest others, so many."},
}
_EMBEDDING: Final[Schema] = {
    **_CHECKED,
    "input": {
        "oneOf": [STRING, _STRINGS, _TOKENS, _list(_TOKENS)],
        "description": "A text, several, or their tokens.",
    },
    "encoding_format": {"enum": ["float", "base64"], "description": "base64 is shorter; by default float."},
    "dimensions": {**_INTEGER, "description": "Of each vector, where the model can shorten them."},
    "user": STRING,
}
_RANKING: Final[Schema] = {
    **_CHECKED,
    "query": {**STRING, "description": "What the documents should be about."},
    "documents": {**_list({"type": ["string", "object"]}), "description": "What is put in order."},
    "texts": {**_STRINGS, "description": "In place of documents, for engines that know TEI's form."},
    "top_n": {**_INTEGER, "description": "Only the best so many."},
}

_USAGE: Final[Schema] = _object(dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), _INTEGER))


def _choices(content: str) -> Schema:
    choice = _object({"index": _INTEGER, content: {}, "finish_reason": {"type": ["string", "null"]}, "logprobs": {}})
    shown = {"id": STRING, "object": STRING, "created": _INTEGER, "model": STRING, "usage": _USAGE}
    return _object({**shown, "choices": _list(choice)}, "choices")


_VECTOR: Final[Schema] = _object({"index": _INTEGER, "embedding": {"oneOf": [_list(_NUMBER), STRING]}}, "embedding")
_RANKED: Final[Schema] = _object({"index": _INTEGER, "relevance_score": _NUMBER}, "index", "relevance_score")
_RANKS: Final[Schema] = _object({"model": STRING, "results": _list(_RANKED), "usage": _USAGE}, "results")
_RANKS_OF_TEXTS: Final[Schema] = _list(_object({"index": _INTEGER, "score": _NUMBER}, "index", "score"))

ENDPOINTS: Final[Mapping[str, Endpoint]] = {
    CHAT: Endpoint("Answer a conversation", _object(_CONVERSING, "model", "messages"), _choices("message"), True),
    COMPLETIONS: Endpoint("Continue a text", _object(_CONTINUING, "model", "prompt"), _choices("text"), True),
    EMBEDDINGS: Endpoint(
        "Turn texts into vectors",
        _object(_EMBEDDING, "model", "input"),
        _object({"model": STRING, "data": _list(_VECTOR), "usage": _USAGE}, "data"),
    ),
    RERANK: Endpoint(
        "Put documents in the order of a query",
        {
            **_object(_RANKING, "model", "query"),
            "anyOf": [{"required": ["documents"]}, {"required": ["texts"]}],
        },
        {"oneOf": [_RANKS, _RANKS_OF_TEXTS]},
    ),
}
"""By the words of `link.messages.ENDPOINTS`."""
