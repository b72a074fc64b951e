"""What a request needs of whoever answers it: eyes, and room for its prompt. Pure.

Pictures are content parts of chat messages, nothing else: a tool's schema, ``metadata`` or a text may hold the word
``image_url`` as well. Tokens are estimated from text alone. The estimate is what a prompt has *at least*, so that no
backend is skipped whose context would do.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

import msgspec

from aigw_daemon.gateway.json_text import without_lone_surrogates
from aigw_daemon.gateway.wire import BAD_JSON
from aigw_daemon.link.messages import CHAT, COMPLETIONS, EMBEDDINGS, RERANK

UNITS_PER_TOKEN: Final = 8
"""Bytes of ASCII text that are at least one token. See `_units` for other scripts."""
_IMAGE_TYPES: Final = frozenset({"image_url", "input_image", "image"})
_ESCAPED_ASCII: Final = re.compile(rb"\\u00[4-7]")
"""How the letters of the words above may be spelled as well."""
_SAID: Final = ("text", "refusal", "thinking")
"""Fields of a content part that are text."""


class Prompt(NamedTuple):
    """What was read of a request's prompt."""

    sees: bool = False
    """Whether there are pictures in it."""
    tokens: int = 0
    """At least; 0 where nothing can be said."""


class _Body(msgspec.Struct):
    """Of any shape: what is wrong with a request is the engine's to say."""

    messages: Any = None
    tools: Any = None
    functions: Any = None
    prompt: Any = None
    input: Any = None
    query: Any = None
    documents: Any = None
    texts: Any = None


_decode = msgspec.json.Decoder(_Body).decode
_encode = msgspec.json.Encoder().encode


def may_see(body: bytes) -> bool:
    """Whether there may be pictures: a search of the bytes, never wrong when it says no."""
    return b"image_url" in body or b'image"' in body or (b"\\u00" in body and bool(_ESCAPED_ASCII.search(body)))


def read_prompt(endpoint: str, body: bytes) -> Prompt:
    """What a request's prompt needs. Takes as long as the body is large."""
    said = _read(body)
    match endpoint:
        case _ if endpoint == CHAT:
            messages = _objects(said.messages)
            sees = any(_is_image(part) for message in messages for part in _objects(message.get("content")))
            return Prompt(sees, _units_of(_chat_texts(said, messages)) // UNITS_PER_TOKEN)
        case _ if endpoint == COMPLETIONS:
            return Prompt(tokens=_longest(said.prompt))
        case _ if endpoint == EMBEDDINGS:
            return Prompt(tokens=_longest(said.input))
        case _ if endpoint == RERANK:
            # Each document goes through the model with the query.
            return Prompt(tokens=_longest(said.query) + max(_longest(said.documents), _longest(said.texts)))
        case _:
            return Prompt()


def _read(body: bytes) -> _Body:
    for read in (body, without_lone_surrogates(body)):
        try:
            return _decode(read)
        except BAD_JSON:
            continue
    return _Body()


def _objects(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _is_image(part: dict[str, Any]) -> bool:
    kind = part.get("type")
    # vLLM takes parts without a type.
    return "image_url" in part if kind is None else isinstance(kind, str) and kind in _IMAGE_TYPES


def _chat_texts(said: _Body, messages: Iterable[dict[str, Any]]) -> Iterator[str]:
    for message in messages:
        content = message.get("content")
        if isinstance(content, str):
            yield content
        elif isinstance(content, list):
            yield from (part for part in content if isinstance(part, str))
            yield from (part[name] for part in _objects(content) for name in _SAID if isinstance(part.get(name), str))
        for call in _objects(message.get("tool_calls")):
            function = call.get("function")
            if isinstance(function, dict) and isinstance(arguments := function.get("arguments"), str):
                yield arguments
    # Engines write the schemas of tools into the prompt.
    yield from (_written(tools) for tools in (said.tools, said.functions) if tools)


def _written(value: Any) -> str:
    try:
        return _encode(value).decode()
    except (ValueError, OverflowError, RecursionError):
        return ""


def _longest(value: Any) -> int:
    """Tokens of the longest of several prompts, each of which has the context to itself: texts, or token numbers."""
    if isinstance(value, list) and not (value and isinstance(value[0], int)):
        return max(map(_tokens_of, value), default=0)
    return _tokens_of(value)


def _tokens_of(prompt: Any) -> int:
    match prompt:
        case str(text) | {"text": str(text)}:
            return _units(text) // UNITS_PER_TOKEN
        case [int(), *_]:
            return len(prompt)
        case _:
            return 0


def _units_of(texts: Iterable[str]) -> int:
    return sum(map(_units, texts))


def _units(text: str) -> int:
    """Eight of these are at least one token: bytes, but at most two for a character, and none for blanks.

    Latin letters are one byte, and tokens have hardly more than eight of them. Where letters take two or three bytes,
    four and more of them make a token in some vocabularies. Blanks belong to the word after them, or are many in one.
    """
    blanks = sum(map(text.count, " \n\t\r"))
    size = len(text) if text.isascii() else min(len(text.encode("utf-8", "replace")), 2 * len(text))
    return size - blanks
