"""The OpenAPI description: the hot routes, which FastAPI doesn't serve and so can't describe, and what all share. Pure.

The hot routes come from the very table that the dispatcher serves, so that none can be missing or too many.
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, Final

from aigw_daemon.gateway.controls import HIGHEST_PRIORITY
from aigw_daemon.gateway.kept_headers import LIMITS, UPSTREAM_ID
from aigw_daemon.gateway.openapi_bodies import ENDPOINTS, STRING, Endpoint, Schema

ANSWER_HEADERS: Final[Mapping[str, str]] = {
    "x-aigw-backend": "Which backend answered.",
    "x-aigw-model": "The name that it knows the model by.",
    "x-aigw-cache": "hit, miss, coalesced, bypass or off.",
    "x-aigw-attempts": "How many times a candidate was asked.",
    "x-aigw-request-id": "Names this request in the records.",
    "x-request-id": "The same, where OpenAI's clients look for it.",
    "x-aigw-overhead-ms": "The milliseconds that the gateway itself took.",
}
"""On what a model answered."""

_IDS: Final = {name: ANSWER_HEADERS[name] for name in ("x-aigw-request-id", "x-request-id")}
"""On every answer."""

_OF_THE_CACHE: Final[Mapping[str, str]] = {
    "x-aigw-cache-key": "The key of the kept answer, where the cache was asked.",
    "x-aigw-cache-hint": "Of a kept answer: how to get a new one.",
    "age": "Of a kept answer: seconds since the engine gave it.",
}
"""On some of it."""

_OF_A_CLOUD: Final[Mapping[str, str]] = {
    UPSTREAM_ID: "The engine's own name for the request, where it has one.",
    "openai-processing-ms": "As a cloud says it.",
    **dict.fromkeys(LIMITS, "As a cloud says it."),
}
"""Likewise."""

EXPOSED_HEADERS: Final = (*ANSWER_HEADERS, *_OF_THE_CACHE, *_OF_A_CLOUD, "retry-after", "x-should-retry")
"""What a page of another origin may read: browsers hide all headers but a few that have nothing to do with us."""

_UNTOUCHED = "Parameters that aren't named here reach the engine untouched, and so does what an engine makes of them."
_EVENTS = (
    "With `stream`, server-sent events: each holds a piece of the answer, the last says `[DONE]`. "
    "A stream that was broken off ends with an event that holds an error, and without `[DONE]`."
)
_EVENT: Final[Schema] = {
    "type": "object",
    "description": "Of each event.",
    "properties": {"data": {**STRING, "description": "JSON, or [DONE]."}},
    "required": ["data"],
}
_DURATION = "^[0-9]{1,9}([.][0-9]{1,9})?(ms|s|m|h)?$"
_PRIORITY = f"^(low|normal|high|[+-]?([0-9]{{1,2}}|{HIGHEST_PRIORITY}))$"

_REQUEST_HEADERS: Final[Mapping[str, tuple[str, Schema]]] = {
    "x-aigw-timeout": (
        "How long the whole request may take: seconds, or 500ms, 30s, 10m; above 0 and at most 24h.",
        {**STRING, "pattern": _DURATION},
    ),
    "x-aigw-fallback": ("Whether another candidate may answer when the first can't.", {"enum": ["on", "off"]}),
    "x-aigw-backend": ("The only backend that may answer; it must be one of the model's candidates.", STRING),
    "x-aigw-priority": (
        f"In the line of a full backend, higher goes first: whole numbers up to {HIGHEST_PRIORITY}, low, normal, high.",
        {**STRING, "pattern": _PRIORITY},
    ),
    "x-aigw-cache": ("bypass: neither a kept answer nor one to keep.", {"enum": ["bypass"]}),
    "cache-control": ("Of kept answers, as RFC 9111 has it: no-cache, no-store, max-age=SECONDS.", STRING),
}
_RETRY_AFTER = {"retry-after": "Seconds until another try may succeed."}
_NO_RETRY = {"x-should-retry": "False where another try of the same request can't help; absent where it may."}
_SHARED: Final[dict[str, tuple[str, Mapping[str, str]]]] = {
    "400": ("The request is invalid; the message says where.", {}),
    "403": ("The Host or Origin isn't allowed.", {}),
    "408": ("The request didn't arrive in time.", {}),
    "413": ("The body is too large.", {}),
    "415": ("The body is compressed.", {}),
    "431": ("The headers are too large.", {}),
}
"""What any request can meet, before anybody looks at its path."""
_HOT: Final[dict[str, tuple[str, Mapping[str, str]]]] = {
    "404": ("No such model; the message names the nearest.", {}),
    "429": ("Every provider is full or limited.", _RETRY_AFTER),
    "500": ("The providers failed; the message says each one's failure.", _NO_RETRY),
    "501": ("Nobody who serves the model does this; the message names models that do.", {}),
    "503": ("No provider can be reached; the message says each one's state.", _RETRY_AFTER),
    "504": ("There was no answer in time.", _NO_RETRY),
}
"""What a request to a model can meet beside those."""

_DESCRIBING: Final[Schema] = {
    "summary": "This description",
    "operationId": "openapi",
    "tags": ["documentation"],
    "responses": {
        "200": {"description": "OpenAPI 3.1.", "content": {"application/json": {"schema": {"type": "object"}}}}
    },
}


def describe(document: dict[str, Any], hot_paths: Mapping[str, str]) -> dict[str, Any]:
    """Complete a document that describes the cold routes. ``hot_paths``: each path, and its endpoint of an engine."""
    schemas = document["components"]["schemas"]
    for unserved in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unserved, None)
    document["components"]["responses"] = {
        f"Error{status}": _error(text, headers) for status, (text, headers) in (_SHARED | _HOT).items()
    }
    document["paths"]["/openapi.json"] = {"get": deepcopy(_DESCRIBING)}
    for operation in (operation for path in document["paths"].values() for operation in path.values()):
        _complete(operation)
    hot = {path: {"post": _operation(path, endpoint, ENDPOINTS[endpoint])} for path, endpoint in hot_paths.items()}
    document["paths"] = hot | document["paths"]
    return document


def _complete(operation: dict[str, Any]) -> None:
    """A cold route: FastAPI counts on refusals of its own (422), which ours has not, and not on the server's."""
    responses = operation["responses"]
    responses.pop("422", None)
    for status in _SHARED:
        responses.setdefault(status, _reference(status))
    for answer in responses.values():
        if "$ref" not in answer:
            answer.setdefault("headers", _headers(_IDS))


def _operation(path: str, name: str, endpoint: Endpoint) -> dict[str, Any]:
    return {
        "summary": endpoint.summary,
        "description": _UNTOUCHED,
        "operationId": path[1:].replace("/", "_"),
        "tags": [name],
        "parameters": [
            {"name": header, "in": "header", "required": False, "description": text, "schema": schema}
            for header, (text, schema) in _REQUEST_HEADERS.items()
        ],
        "requestBody": {"required": True, "content": {"application/json": {"schema": endpoint.takes}}},
        "responses": {"200": _answer(endpoint)} | {status: _reference(status) for status in _SHARED | _HOT},
    }


def _answer(endpoint: Endpoint) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": endpoint.answers}}
    if endpoint.streams:
        content["text/event-stream"] = {"schema": _EVENT}
    text = "The engine's answer as it gave it."
    return {
        "description": f"{text} {_EVENTS}" if endpoint.streams else text,
        "headers": _headers(ANSWER_HEADERS)
        | _headers(_OF_THE_CACHE, required=False)
        | _headers(_OF_A_CLOUD, required=False),
        "content": content,
    }


def _headers(texts: Mapping[str, str], *, required: bool = True) -> dict[str, Any]:
    return {name: {"description": text, "required": required, "schema": STRING} for name, text in texts.items()}


def _error(text: str, headers: Mapping[str, str]) -> dict[str, Any]:
    sometimes = {"x-aigw-attempts": "The same as in an answer, where a model was asked for.", **headers}
    return {
        "description": text,
        "headers": _headers(_IDS) | _headers(sometimes, required=False),
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }


def _reference(status: str) -> dict[str, str]:
    return {"$ref": f"#/components/responses/Error{status}"}
