"""What the gateway reads in an engine's answers: usage, finish, error. Pure; the bytes themselves are never changed.

Most of it is only recorded, so a value of an unexpected type must not make an answer invalid. It is converted if
possible, and left out otherwise.
"""

import re
from typing import Annotated, Any, Final

import msgspec

from aigw_daemon.gateway.json_text import decode_leniently
from aigw_daemon.gateway.wire import BAD_JSON
from aigw_daemon.link.messages import EMBEDDINGS, RERANK

HIGHEST_COUNT: Final = 2**53
"""Largest token count that is recorded."""
_LONGEST_FINISH: Final = 64
_FILLED: Final = re.compile(rb"\s*[\[{]\s*[^\s\]}]")
"""Start of a non-empty array or object."""
_ABSENT: Final = msgspec.Raw()

Count = Annotated[int, msgspec.Meta(ge=0, le=HIGHEST_COUNT)]


class Usage(msgspec.Struct):
    """Tokens, as engines count them."""

    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None


class Choice(msgspec.Struct):
    """One choice of an answer or of a stream's event."""

    index: int = 0
    finish_reason: str | None = None


class Answer(msgspec.Struct):
    """A whole answer, or one event of a stream."""

    choices: list[Choice] | None = None
    usage: Usage | None = None
    error: Any = None
    """Of whatever form; see `is_error`."""
    data: msgspec.Raw = _ABSENT
    """Vectors, or ranks."""
    results: msgspec.Raw = _ABSENT
    """Ranks."""
    embeddings: msgspec.Raw = _ABSENT

    @property
    def is_error(self) -> bool:
        """True for an error with status 200 (rule B2). Some engines send an empty ``error`` beside an answer."""
        if self.error is None:
            return False
        return bool(self.error) or (self.choices is None and self.usage is None)


_decode = msgspec.json.Decoder(Answer).decode


class _Asked(msgspec.Struct):
    input: Any = None
    documents: Any = None
    texts: Any = None
    top_n: Any = None


_decode_asked = msgspec.json.Decoder(_Asked).decode


def decode_answer(content: bytes) -> Answer:
    """Decode an answer, leniently if need be. Raises one of `wire.BAD_JSON` unless it is an object or an array."""
    try:
        return _decode(content)
    except BAD_JSON:
        return _read_leniently(decode_leniently(content))


def lack(endpoint: str, answer: Answer, request: bytes) -> str | None:
    """Name the part that a whole answer lacks, or return None if it is complete.

    An empty result is complete if the request asked for none, such as with ``"input": []``.
    """
    if answer.choices:
        return None
    if endpoint == EMBEDDINGS:
        missing = None if _is_filled(answer.data) or _is_filled(answer.embeddings) else "vectors"
    elif endpoint == RERANK:
        missing = None if _is_filled(answer.results) or _is_filled(answer.data) else "results"
    else:
        return "choices"
    return None if missing is None or _asks_for_nothing(request) else missing


def _is_filled(raw: msgspec.Raw) -> bool:
    return _FILLED.match(memoryview(raw)) is not None


def _asks_for_nothing(request: bytes) -> bool:
    try:
        asked = _decode_asked(request)
    except BAD_JSON:
        return False
    return [] in (asked.input, asked.documents, asked.texts) or asked.top_n == 0


def _read_leniently(found: Any) -> Answer:
    match found:
        case [{"error": error}, *_] if error:
            return Answer(error=error)  # Gemini's form
        case list():
            # TEI's form of ranks and vectors.
            return Answer(data=_raw(found))
        case dict():
            return Answer(
                choices=_choices(found.get("choices")),
                usage=_usage(found.get("usage")),
                error=found.get("error"),
                **{name: _raw(found[name]) for name in ("data", "results", "embeddings") if name in found},
            )
        case _:
            raise ValueError(f"neither an object nor an array: {type(found).__name__}")


def _raw(value: Any) -> msgspec.Raw:
    """A stand-in for a value that only keeps whether it is empty."""
    filled = isinstance(value, list | dict) and bool(value)
    return msgspec.Raw(b"[0]" if filled else b"[]")


def _choices(value: Any) -> list[Choice] | None:
    if not isinstance(value, list):
        return None
    return [
        Choice(_index(each.get("index"), place), _finish(each.get("finish_reason")))
        for place, each in enumerate(value)
        if isinstance(each, dict)
    ]


def _index(value: Any, place: int) -> int:
    found = _count(value)
    return place if found is None else found


def _finish(value: Any) -> str | None:
    return str(value)[:_LONGEST_FINISH] if value else None


def _usage(value: Any) -> Usage | None:
    if not isinstance(value, dict):
        return None
    return Usage(_count(value.get("prompt_tokens")), _count(value.get("completion_tokens")))


def _count(value: Any) -> int | None:
    """A whole number in any spelling (1, 1.0 or "1"), or None."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= len(str(HIGHEST_COUNT)):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # NaN fails the comparison, too.
    return int(value) if 0 <= value <= HIGHEST_COUNT and value == int(value) else None
