"""Parsing and classifying engines' errors. Pure.

OpenAI's form is ``{"error": {message, type, param, code}}``. Ollama and TGI send ``{"error": "text"}``, older vLLM and
Mistral the fields at the top level, FastAPI ``{"detail": …}``, and Gemini an array around the object.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from aigw_daemon.gateway.breaker import Failure
from aigw_daemon.gateway.failures import AttemptFailed, Kind, TooLong, failed_status, is_clients_fault, is_dying
from aigw_daemon.gateway.json_text import decode_leniently
from aigw_daemon.gateway.wire import BAD_JSON, ApiError, Scalar

CONTEXT_CODE: Final = "context_length_exceeded"
"""OpenAI's code for a prompt that is too long, which clients check."""

_LONGEST_TEXT: Final = 2_000
_MOST_FIELDS: Final = 16
_FIELD: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
_OWN: Final = frozenset({"message", "type", "param", "code", "error", "error_type", "detail", "object", "status"})
"""Fields that are read here, or tell a client nothing."""
_UNTOLD: Final = frozenset({"stack", "stacktrace", "stack_trace", "trace", "traceback"})
_UPSTREAM_CODE: Final = "upstream_code"
_HTTP_STATUSES: Final = range(100, 600)
_HIGHEST_NUMBER: Final = 2**53
_REFUSED: Final = 400
_FAILED: Final = 500

_TOO_LONG: Final = re.compile(
    # As codes and types.
    "context_length_exceeded|context_window_exceeded|exceed_context_size|prompt_too_long"
    "|max_prompt_tokens_exceeded"
    # OpenAI, vLLM, SGLang, Mistral, DeepSeek, OpenRouter; Ollama says "max context length".
    "|max(?:imum)? context length"
    # llama.cpp, Ollama, vLLM, OpenAI's responses, Anthropic: "exceed context limit".
    "|exceeds? (?:the |this |model's |available |maximum )*context"
    # vLLM, SGLang, Together.
    "|longer than the (?:model's |maximum )+(?:context|model|input) length"
    "|too long to fit into the model"
    # LM Studio, and vLLM again.
    "|context length (?:of|is) only|greater than the context length|when context the overflows"
    # Anthropic, Ollama, Bedrock.
    "|prompt (?:is )?too long|input is too long for (?:the )?requested model"
    # Gemini and Vertex.
    "|input token count.{0,40}(?:exceeds the maximum number of tokens allowed|only supports up to)"
    # TGI and TEI.
    r"|`inputs` (?:tokens \+ `max_new_tokens` must be <=|must have less than)"
    # SGLang, Poolside.
    "|exceeds the maximum allowed (?:input )?length"
    # OpenAI, Azure, Groq, Cerebras.
    "|reduce the length of (?:the|your) (?:input |messages|prompt)|tokens exceed the configured limit"
    # xAI, Copilot, Kimi, MiniMax, Qwen.
    "|maximum prompt length is [0-9]|prompt token count of [0-9]+ exceeds|exceeded model token limit"
    "|context window exceeds limit|range of input length should be"
    # llama.cpp, for embeddings, with a 500.
    r"|tokens\) is too large to process",
    re.IGNORECASE,
)
_FULL_CONTEXT: Final = re.compile("context size has been exceeded", re.IGNORECASE)
"""From LM Studio with a 400. With a 500 it is llama.cpp, whose KV cache other requests may have filled."""
_NAMED_FIELD: Final = re.compile(
    "['\"`](model|messages|prompt|suffix|input|query|documents|texts|top_n|temperature|top_p|top_k|min_p|max_tokens"
    "|max_completion_tokens|n|stream|stream_options|stop|seed|tools|tool_choice|functions|function_call|user|metadata"
    "|parallel_tool_calls|response_format|logprobs|top_logprobs|logit_bias|frequency_penalty|presence_penalty"
    "|encoding_format|dimensions|reasoning_effort|grammar)['\"`]"
)
"""A request field that an error message quotes."""
_LIMITS: Final = frozenset({"rate_limit_exceeded", "rate_limit_error", "rate_limited", "too_many_requests"})
"""Codes and types. Groq answers 413 if a single request exceeds the tokens per minute."""


class Said(NamedTuple):
    """An engine's error, normalized."""

    message: str | None
    type: str | None = None
    code: str | None = None
    """None for a number, which usually repeats the status."""
    param: str | None = None
    extra: Mapping[str, Scalar] = {}
    """Further simple fields, such as llama.cpp's ``n_ctx``."""

    def redacted(self, redact: Callable[[str | None], str | None]) -> "Said":
        """Apply ``redact`` to every text."""
        extra = {name: (redact(value) or "") if isinstance(value, str) else value for name, value in self.extra.items()}
        return Said(redact(self.message), redact(self.type), redact(self.code), redact(self.param), extra)


def upstream_error(body: bytes) -> Said:
    """Parse an engine's error body, whatever its form."""
    try:
        found = decode_leniently(body)
    except BAD_JSON:
        return Said(body[:_LONGEST_TEXT].decode("utf-8", "replace").strip() or None)
    if isinstance(found, list):
        found = next((each for each in found if isinstance(each, dict)), found)
    if not isinstance(found, dict):
        return Said(_text(found))
    outer, error = found, found.get("error")
    if isinstance(error, dict):
        return _of_fields(error)
    if not error and isinstance(detail := found.get("detail"), dict):
        outer = detail
    return _of_fields(outer)


def _of_fields(fields: dict[str, Any]) -> Said:
    detail, param = _detail(fields.get("detail"))
    message = next(filter(None, (_text(fields.get("message")), _text(fields.get("error")), detail)), None)
    kinds = (fields.get(name) for name in ("type", "error_type", "status"))
    kind = next((kind for kind in kinds if isinstance(kind, str) and kind), None)
    code, said_param = fields.get("code"), fields.get("param")
    extra = _extra(fields)
    if isinstance(code, int) and not isinstance(code, bool) and code not in _HTTP_STATUSES:
        extra[_UPSTREAM_CODE] = code
    return Said(
        message,
        _cut(kind),
        _cut(code) if isinstance(code, str) and code else None,
        _cut(said_param) if isinstance(said_param, str) else param,
        extra,
    )


def _detail(detail: Any) -> tuple[str | None, str | None]:
    """Message and first field name of FastAPI's ``detail``: a text, or a list with one entry per invalid field."""
    if not isinstance(detail, list):
        return _text(detail), None
    wrong = [(_place(each.get("loc")), _text(each.get("msg"))) for each in detail if isinstance(each, dict)]
    if not wrong:
        return _text(detail), None
    return _cut("; ".join(f"{place}: {said}" if place else str(said) for place, said in wrong)), _cut(wrong[0][0])


def _place(loc: Any) -> str | None:
    parts = [str(part) for part in loc if part != "body"] if isinstance(loc, list) else []
    return ".".join(parts) or None


def _extra(fields: Mapping[str, Any]) -> dict[str, Scalar]:
    told = (
        (name, value[:_LONGEST_TEXT] if isinstance(value, str) else value)
        for name, value in fields.items()
        if name not in _OWN and name.lower() not in _UNTOLD and _FIELD.fullmatch(name) and _is_scalar(value)
    )
    return {name: value for (name, value), _ in zip(told, range(_MOST_FIELDS), strict=False)}


def _is_scalar(value: Any) -> bool:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return -_HIGHEST_NUMBER <= value <= _HIGHEST_NUMBER
    return isinstance(value, str | bool)


def _text(value: Any) -> str | None:
    """A text as it is, any other value as JSON, and None for an empty one."""
    if isinstance(value, str):
        return _cut(value.strip()) or None
    if value in (None, {}, []):
        return None
    try:
        return _cut(msgspec.json.encode(value).decode())
    except (ValueError, OverflowError, RecursionError):
        return None


def _cut(text: str | None) -> str | None:
    return text[:_LONGEST_TEXT] if text else text


def refusal(status: int, said: Said, wait: float | None) -> AttemptFailed | ApiError:
    """Classify a response with a status other than 200. ``wait`` is the upstream's Retry-After in seconds.

    An ApiError is relayed to the client without asking another candidate.
    """
    if is_limit(status, said):
        return failed_status(status, said.message, wait, limited=True)
    if is_too_long(status, said):
        return TooLong(too_long_error(status, said))
    if is_clients_fault(status):
        return relayed_error(status, said)
    return failed_status(status, said.message, wait)


def refused_inside(said: Said, where: str, missing: str | None = None) -> AttemptFailed:
    """Classify an error that came with status 200. ``missing``: the part without which ``where`` is no answer."""
    if is_too_long(_REFUSED, said):
        return TooLong(too_long_error(_REFUSED, said))
    if missing is not None and said.message is None:
        return AttemptFailed(Kind.FAILED, f"{where} has no {missing}", counts=Failure.BAD_ANSWER)
    what = f"{where} is an error: {said.message or 'it has no text'}"
    if is_limit(_REFUSED, said):
        return AttemptFailed(Kind.LIMITED, what)
    dying = is_dying(said.message)
    return AttemptFailed(Kind.FAILED, what, counts=Failure.SERVER_ERROR, passing=dying, lost=dying)


def is_limit(status: int, said: Said) -> bool:
    """True if an upstream reports a rate limit with a status other than 429."""
    return is_clients_fault(status) and not _LIMITS.isdisjoint({said.code, said.type})


def is_too_long(status: int, said: Said) -> bool:
    """True if an engine refuses a prompt for its length. Some do so with 500: then only the message counts."""
    if status == _FAILED:
        return said.message is not None and _TOO_LONG.search(said.message) is not None
    if not is_clients_fault(status):
        return False
    return any(
        _TOO_LONG.search(text) or _FULL_CONTEXT.search(text) for text in (said.code, said.type, said.message) if text
    )


def too_long_error(status: int, said: Said) -> ApiError:
    """Error for a prompt that is too long, with `CONTEXT_CODE`; the engine's own code moves to ``upstream_code``."""
    extra = dict(said.extra)
    if said.code is not None and said.code != CONTEXT_CODE:
        extra[_UPSTREAM_CODE] = said.code
    shown = status if is_clients_fault(status) else _REFUSED
    kind = said.type if shown == status else None
    return relayed_error(shown, said._replace(type=kind, code=CONTEXT_CODE, extra=extra))


def relayed_error(status: int, said: Said) -> ApiError:
    """An engine's 4xx in OpenAI's envelope. Without a ``param`` of the engine's, the field its message quotes."""
    message = said.message or f"the engine answered {status}"
    named = _NAMED_FIELD.search(message)
    param = said.param or (named[1] if named is not None else None)
    return ApiError(status, message, type_=said.type, code=said.code, param=param, extra=said.extra)
