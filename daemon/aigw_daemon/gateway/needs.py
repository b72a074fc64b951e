"""What a request needs of whoever answers it: eyes, and room for its prompt. Pure.

Pictures are content parts of chat messages, nothing else: a tool's schema, ``metadata`` or a text may hold the word
``image_url`` as well. Tokens are estimated from text alone. The estimate is what a prompt has *at least*, so that no
backend is skipped whose context would do.
"""

import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import msgspec

from aigw_daemon.gateway.json_text import without_lone_surrogates
from aigw_daemon.gateway.wire import BAD_JSON
from aigw_daemon.link.messages import CHAT, COMPLETIONS, EMBEDDINGS, RERANK

UNITS_PER_TOKEN: Final = 8
"""Bytes of ASCII text that are at least one token. See `_units` for other scripts."""
_BYTES_PER_NUMBER: Final = 2
"""A prompt may come as the numbers of its tokens: a digit and a comma for each, at least."""
_IMAGE_TYPES: Final = frozenset({"image_url", "input_image", "image"})
_ESCAPED_ASCII: Final = re.compile(rb"\\u00[4-7]")
"""How the letters of the words above may be spelled as well."""
_BLANKS: Final = b" \n\t\r"
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
    return b"image" in body or (b"\\u00" in body and bool(_ESCAPED_ASCII.search(body)))


def room(endpoint: str, context: int) -> int:
    """Bytes of a body whose prompt fits into so many tokens for certain: nobody need count shorter ones."""
    return context * (UNITS_PER_TOKEN if endpoint == CHAT else _BYTES_PER_NUMBER)


def read_prompt(endpoint: str, body: bytes, *, counted: bool = True) -> Prompt:
    """What a request's prompt needs; ``counted``: its tokens as well. Takes as long as the body is large."""
    said = _read(body)
    sees = endpoint == CHAT and any(
        _is_image(part) for message in _objects(said.messages) for part in _objects(message.get("content"))
    )
    return Prompt(sees, _tokens(endpoint, said) if counted else 0)


def _tokens(endpoint: str, said: _Body) -> int:
    match endpoint:
        case _ if endpoint == CHAT:
            return sum(map(_units, _chat_texts(said))) // UNITS_PER_TOKEN
        case _ if endpoint == COMPLETIONS:
            return _longest(said.prompt)
        case _ if endpoint == EMBEDDINGS:
            return _longest(said.input)
        case _ if endpoint == RERANK:
            # Each document goes through the model with the query.
            return _longest(said.query) + max(_longest(said.documents), _longest(said.texts))
        case _:
            return 0


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


def _chat_texts(said: _Body) -> Iterator[str]:
    for message in _objects(said.messages):
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


def _units(text: str) -> int:
    """Eight of these are at least one token: bytes, but at most two for a character, and none for blanks.

    Latin letters are one byte, and tokens have hardly more than eight of them. Where letters take two or three bytes,
    four and more of them make a token in some vocabularies. Blanks belong to the word after them, or are many in one.
    """
    written = text.encode("utf-8", "replace")
    said = len(written.translate(None, _BLANKS))
    return said if len(written) == len(text) else min(said, 2 * (len(text) - len(written) + said))
