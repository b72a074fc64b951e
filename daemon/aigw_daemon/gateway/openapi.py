"""The OpenAPI description of the hot routes, which FastAPI doesn't serve and so can't describe. Pure data."""

from typing import Any

_NUMBER = {"type": "number"}
_INTEGER = {"type": "integer"}
_STRING = {"type": "string"}
_ERRORS = {
    "400": "The request is invalid; the message says where.",
    "403": "The Host or Origin isn't allowed.",
    "404": "No such model; the message names the nearest.",
    "408": "The request didn't arrive in time.",
    "413": "The body is too large.",
    "415": "The body is compressed.",
    "429": "Every provider is limited.",
    "431": "The headers are too large.",
    "500": "The providers failed.",
    "503": "No provider can be reached.",
    "504": "There was no answer in time.",
}
_SAMPLING: dict[str, Any] = {
    "model": {**_STRING, "maxLength": 512, "description": "A route, an alias, BACKEND/MODEL or a listed model."},
    "stream": {"type": ["boolean", "null"]},
    "stream_options": {"type": ["object", "null"], "properties": {"include_usage": {"type": ["boolean", "null"]}}},
    "n": {"type": ["integer", "null"], "minimum": 1, "maximum": 128},
    "max_tokens": {"type": ["number", "null"], "maximum": 10_000_000},
    "temperature": _NUMBER,
    "top_p": _NUMBER,
    "frequency_penalty": _NUMBER,
    "presence_penalty": _NUMBER,
    "stop": {"oneOf": [_STRING, {"type": "array", "items": _STRING}]},
    "user": _STRING,
}
_USAGE = {
    "type": "object",
    "properties": dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), _INTEGER),
}
_UNTOUCHED = "Parameters that aren't named here reach the engine untouched."
ANSWER_HEADERS = {
    "x-aigw-backend": "Which backend answered.",
    "x-aigw-model": "The name that it knows the model by.",
    "x-aigw-cache": "hit, miss, coalesced, bypass or off.",
    "x-aigw-attempts": "How many candidates were asked.",
    "x-aigw-request-id": "Names this request in the records.",
    "x-aigw-overhead-ms": "What the gateway itself took.",
}


def describe(document: dict[str, Any]) -> dict[str, Any]:
    """Add the hot routes to a document that describes the others."""
    messages = {"type": "array", "items": {"type": "object"}, "maxItems": 100_000}
    for prefix in ("/v1", ""):
        document["paths"][f"{prefix}/chat/completions"] = {
            "post": _operation("Answer a conversation", f"chat{prefix[1:]}", {"messages": messages}, "message")
        }
        document["paths"][f"{prefix}/completions"] = {
            "post": _operation("Continue a text", f"complete{prefix[1:]}", {"prompt": {}}, "text")
        }
    return document


def _operation(summary: str, name: str, own: dict[str, Any], content: str) -> dict[str, Any]:
    properties = {**_SAMPLING, **own}
    schema = {"type": "object", "required": ["model"], "properties": properties, "additionalProperties": True}
    return {
        "summary": summary,
        "description": _UNTOUCHED,
        "operationId": name,
        "tags": ["completions"],
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": {"200": _answer(content)} | {status: _error(text) for status, text in _ERRORS.items()},
    }


def _answer(content: str) -> dict[str, Any]:
    choice = {"type": "object", "properties": {"index": _INTEGER, content: {}, "finish_reason": {}}}
    schema = {
        "type": "object",
        "properties": {
            "id": _STRING,
            "object": _STRING,
            "created": _INTEGER,
            "model": _STRING,
            "choices": {"type": "array", "items": choice},
            "usage": _USAGE,
        },
    }
    return {
        "description": "The engine's answer as it gave it; with `stream`, server-sent events.",
        "headers": {name: {"description": text, "schema": _STRING} for name, text in ANSWER_HEADERS.items()},
        "content": {"application/json": {"schema": schema}, "text/event-stream": {"schema": _STRING}},
    }


def _error(text: str) -> dict[str, Any]:
    reference = {"$ref": "#/components/schemas/Error"}
    return {"description": text, "content": {"application/json": {"schema": reference}}}
