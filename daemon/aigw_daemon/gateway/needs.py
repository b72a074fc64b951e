"""Capabilities that a request needs: vision, and context for its prompt. Pure.

Only content parts of chat messages are pictures. A tool's schema, ``metadata`` or a text may contain the word
``image_url`` too. Tokens are estimated from text alone. The estimate is a lower bound, so no backend is skipped whose
context is large enough.
"""

import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import msgspec

from aigw_daemon.gateway.json_text import without_lone_surrogates
from aigw_daemon.gateway.wire import BAD_JSON
from aigw_daemon.link.messages import CHAT, COMPLETIONS, EMBEDDINGS, RERANK

UNITS_PER_TOKEN: Final = 8
"""Bytes of ASCII text per token, at most. See `_units` for other scripts."""
_BYTES_PER_NUMBER: Final = 2
"""A prompt may come as the numbers of its tokens: a digit and a comma for each, at least."""
_IMAGE_TYPES: Final = frozenset({"image_url", "input_image", "image"})
_ESCAPED_ASCII: Final = re.compile(rb"\\u00[4-7]")
"""Escapes that can spell the letters of `_IMAGE_TYPES`."""
_BLANKS: Final = b" \n\t\r"
_SAID: Final = ("text", "refusal", "thinking")
"""Text fields of a content part."""


class Prompt(NamedTuple):
    """Facts about a request's prompt."""

    sees: bool = False
    """True if the prompt contains pictures."""
    tokens: int = 0
    """Lower bound; 0 if unknown."""


class _Body(msgspec.Struct):
    """Fields of any type: the engine validates them."""

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
    """Return False if the body certainly contains no pictures. Searches bytes and parses nothing."""
    return b"image" in body or (b"\\u00" in body and bool(_ESCAPED_ASCII.search(body)))


def room(endpoint: str, context: int) -> int:
    """Size in bytes up to which any body's prompt fits into ``context`` tokens, so that counting is unnecessary."""
    return context * (UNITS_PER_TOKEN if endpoint == CHAT else _BYTES_PER_NUMBER)


def read_prompt(endpoint: str, body: bytes, *, counted: bool = True) -> Prompt:
    """Read the prompt of a request; count its tokens only if ``counted``. Time is linear in the size of the body."""
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
            # The model reads each document together with the query.
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
    """Tokens of the longest prompt: each one has the context to itself. Prompts are texts or lists of token numbers."""
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
    """Size of a text, of which `UNITS_PER_TOKEN` are one token or more: bytes, at most two per character, no blanks.

    Latin letters take one byte, and tokens rarely have more than eight. Letters of other scripts take two or three
    bytes, and some vocabularies have tokens of four such letters. Blanks usually share a token with the next word.
    """
    written = text.encode("utf-8", "replace")
    said = len(written.translate(None, _BLANKS))
    return said if len(written) == len(text) else min(said, 2 * (len(text) - len(written) + said))
