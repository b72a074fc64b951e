"""What the gateway reads in an engine's answers: usage, finish, error. Pure; the bytes themselves are never changed.

Most of it is noted and nothing more, so an answer is as good without it: what has an unusual type there is read as far
as it makes sense, and left out where it makes none.
"""

import re
from typing import Annotated, Any, Final

import msgspec

from aigw_daemon.gateway.json_text import decode_leniently
from aigw_daemon.gateway.wire import BAD_JSON
from aigw_daemon.link.messages import EMBEDDINGS, RERANK

HIGHEST_COUNT: Final = 2**53
"""Of tokens. A higher number is none: records and metrics couldn't hold it."""
_LONGEST_FINISH: Final = 64
_FILLED: Final = re.compile(rb"\s*[\[{]\s*[^\s\]}]")
"""How an array or an object with something in it begins."""
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
        """Whether it is an error in the clothes of an answer (rule B2). Some engines' answers say ``"error": ""``."""
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
    """An answer as far as it can be read. Raises one of `wire.BAD_JSON` for what is neither an object nor an array."""
    try:
        return _decode(content)
    except BAD_JSON:
        return _read_leniently(decode_leniently(content))


def lack(endpoint: str, answer: Answer, request: bytes) -> str | None:
    """What a whole answer would have to hold and doesn't, in a word; None for one that will do.

    Nothing is the right answer to a request for nothing.
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
            return Answer(error=error)  # as Gemini says it
        case list():
            # TEI's form of ranks and of vectors.
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
    """Enough of a value to see whether there is something in it."""
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
    """A whole number, as whatever it is written: 1, 1.0 or "1"."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= len(str(HIGHEST_COUNT)):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # NaN is in no range.
    return int(value) if 0 <= value <= HIGHEST_COUNT and value == int(value) else None
