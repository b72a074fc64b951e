"""What the gateway must know of a request's body, read without touching the rest, and the few bytes it may change.

A typed peek reads the model, whether to stream, and the bounded numbers (rule S10); everything else stays the bytes
that the client sent. A rewrite goes through raw values, so that what isn't rewritten leaves as it came.
"""

import asyncio
import re
from typing import Any, Final

import msgspec

from aigw_daemon.gateway.decision import Ask
from aigw_daemon.gateway.json_text import raw_fields, without_lone_surrogates
from aigw_daemon.gateway.needs import may_see, read_prompt
from aigw_daemon.gateway.parameters import apply
from aigw_daemon.gateway.wire import BAD_JSON, ApiError
from aigw_daemon.link.messages import ParamsView

THREAD_BYTES = 256 * 1024
"""Larger bodies are parsed in a thread: 20 MB of JSON stall the loop for 42 ms."""
MAX_CHOICES = 128
MAX_TOKENS = 10_000_000
MAX_MESSAGES = 100_000
LONGEST_NAME = 512
"""Characters of a model's name."""

COUNTED_BYTES = 16 * 1024
"""Shorter requests fit everywhere, so nobody counts."""

ABSENT: Final = msgspec.Raw()
"""In place of a field that isn't there."""
_FILLED: Final = re.compile(rb"\s*\[\s*[^\s\]]")
"""Start of a non-empty array."""
_MISSING: Final = re.compile("missing required field `([^`]+)`")
_PLACE: Final = re.compile(r" - at `\$\.([^`]+)`")
_NEEDS: Final = {
    (sees, calls): frozenset(word for word, needed in (("vision", sees), ("tools", calls)) if needed)
    for sees in (False, True)
    for calls in (False, True)
}
_INCLUDE_USAGE = b'"stream_options":{"include_usage":true}}'


class StreamOptions(msgspec.Struct):
    """The part of ``stream_options`` that matters here."""

    include_usage: bool | None = None
    continuous_usage_stats: Any = None
    """vLLM's: usage in each event, once ``include_usage`` is true."""


class Facts(msgspec.Struct):
    """What is read of a chat or completion request."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    max_tokens: int | float | None = None
    max_completion_tokens: int | float | None = None
    tools: msgspec.Raw = ABSENT
    functions: msgspec.Raw = ABSENT
    """The older name of tools."""
    cache: msgspec.Raw = ABSENT
    """LiteLLM's field, which is for us and not for the engine."""

    @property
    def has_cache_field(self) -> bool:
        """Whether it says something about the cache."""
        return self.cache is not ABSENT

    @property
    def has_tools(self) -> bool:
        """Whether the model is offered tools."""
        return (self.tools is not ABSENT and _is_filled(self.tools)) or (
            self.functions is not ABSENT and _is_filled(self.functions)
        )

    @property
    def usage_asked(self) -> bool:
        """Whether the client wants the usage frame of a stream."""
        return self.stream_options is not None and self.stream_options.include_usage is True

    @property
    def usage_open(self) -> bool:
        """Whether the client leaves it to us to ask for the usage frame: what it says itself stays as it is."""
        options = self.stream_options
        return options is None or (options.include_usage is None and not options.continuous_usage_stats)


class _Messages(msgspec.Struct):
    messages: list[msgspec.Raw] | None = None


_decode = msgspec.json.Decoder(Facts).decode
_decode_messages = msgspec.json.Decoder(_Messages).decode
_encode = msgspec.json.Encoder().encode


async def read_large(endpoint: str, body: bytes) -> tuple[Facts, Ask]:
    """Run `parse_facts` and `asks` in a thread, for a body above `THREAD_BYTES`. Raises ApiError 400."""
    return await asyncio.to_thread(_read_all, endpoint, body)


def _read_all(endpoint: str, body: bytes) -> tuple[Facts, Ask]:
    facts = parse_facts(body)
    return facts, asks(endpoint, facts, body)


def parse_facts(body: bytes) -> Facts:
    """The facts of a request. Raises ApiError 400, which names the place. Blocks for as long as the body is large."""
    if not body.isascii():
        _check_encoding(body)
    try:
        facts = _decode(body)
        if len(body) > 2 * MAX_MESSAGES:
            # Each takes two bytes at least, so shorter bodies can't have too many.
            _check_messages(_decode_messages(body).messages or [])
    except BAD_JSON as error:
        mended = without_lone_surrogates(body)
        if mended is body:
            raise _unread(error) from error
        # Some engines accept lone surrogates, so the engine decides.
        return parse_facts(mended)
    _check_bounds(facts)
    return facts


def is_special(facts: Facts, body: bytes) -> bool:
    """Return False if the model's name alone decides which backends can answer. See `asks`."""
    return (
        facts.tools is not ABSENT
        or facts.functions is not ABSENT
        or len(body) > COUNTED_BYTES
        or b"image" in body
        or (b"\\" in body and may_see(body))
    )


def asks(endpoint: str, facts: Facts, body: bytes, room: int = COUNTED_BYTES) -> Ask:
    """Everything that decides which backends can answer: the model, the need for vision and tools, the prompt's tokens.

    Tokens are not counted in a body of up to ``room`` bytes.
    """
    calls, counted = facts.has_tools, len(body) > room
    if not counted and not may_see(body):
        return Ask(facts.model, endpoint, _NEEDS[False, calls])
    prompt = read_prompt(endpoint, body, counted=counted)
    return Ask(facts.model, endpoint, _NEEDS[prompt.sees, calls], prompt.tokens)


async def rewritten(
    body: bytes, facts: Facts, model: str, *, add_usage: bool, params: ParamsView | None = None
) -> bytes:
    """The body for a target: its model's name, the route's parameters, and a request for the usage frame.

    The same object if none of them changes it.
    """
    if model == facts.model and params is None and facts.cache is ABSENT:
        if not add_usage:
            return body
        if facts.stream_options is None and b'"stream_options"' not in body:
            return b"%b,%b" % (body.rstrip()[:-1], _INCLUDE_USAGE)
    if len(body) <= THREAD_BYTES:
        return _spliced(body, model, params, add_usage=add_usage)
    return await asyncio.to_thread(_spliced, body, model, params, add_usage=add_usage)


def _spliced(body: bytes, model: str, params: ParamsView | None, *, add_usage: bool) -> bytes:
    try:
        fields = raw_fields(body)
        fields.pop("cache", None)
        if params is not None:
            fields = apply(fields, params)
        raw = fields.get("stream_options") if add_usage else None
        options = raw_fields(bytes(raw)) if raw is not None and bytes(raw) != b"null" else {}
    except BAD_JSON as error:
        raise _not_json(error) from error
    fields["model"] = msgspec.Raw(_encode(model))
    if add_usage:
        options["include_usage"] = msgspec.Raw(b"true")
        fields["stream_options"] = msgspec.Raw(_encode(options))
    return _encode(fields)


def _is_filled(array: msgspec.Raw) -> bool:
    return _FILLED.match(memoryview(array)) is not None


def _check_bounds(facts: Facts) -> None:
    if not facts.model or len(facts.model) > LONGEST_NAME:
        raise _invalid(f"model must be a name of 1 to {LONGEST_NAME} characters", "model")
    if facts.n is not None and not 1 <= facts.n <= MAX_CHOICES:
        raise _invalid(f"n must be from 1 to {MAX_CHOICES}, not {facts.n}", "n")
    if facts.max_tokens is not None:
        _check_tokens("max_tokens", facts.max_tokens)
    if facts.max_completion_tokens is not None:
        _check_tokens("max_completion_tokens", facts.max_completion_tokens)


def _check_messages(messages: list[msgspec.Raw]) -> None:
    if len(messages) > MAX_MESSAGES:
        raise _invalid(f"there can be at most {MAX_MESSAGES} messages, not {len(messages)}", "messages")


def _check_tokens(name: str, value: float) -> None:
    if value > MAX_TOKENS:
        raise _invalid(f"{name} must be at most {MAX_TOKENS}, not {value}", name)


def _check_encoding(body: bytes) -> None:
    try:
        body.decode()
    except UnicodeDecodeError as error:
        detail = f"it is not UTF-8: byte 0x{body[error.start]:02x} at offset {error.start}"
        raise ApiError(400, f"the request's body is not valid JSON: {detail}", code="invalid_json") from error


def _not_json(error: Exception) -> ApiError:
    detail = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
    return ApiError(400, f"the request's body is not valid JSON: {detail}", code="invalid_json")


def _unread(error: Exception) -> ApiError:
    if not isinstance(error, msgspec.ValidationError):
        return _not_json(error)
    said = str(error)
    place, missing = _PLACE.search(said), _MISSING.search(said)
    names = [found[1] for found in (place, missing) if found is not None]
    return _invalid(said, ".".join(names) or None)


def _invalid(message: str, param: str | None = None) -> ApiError:
    return ApiError(400, f"the request is invalid: {message}", param=param)
