"""What the gateway reads in an engine's answers: usage, finish, error. Pure; the bytes themselves are never changed."""

from typing import Any

import msgspec


class Usage(msgspec.Struct):
    """Tokens, as engines count them."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Choice(msgspec.Struct):
    """One choice of an answer or of a stream's event."""

    index: int = 0
    finish_reason: str | None = None


class Answer(msgspec.Struct):
    """A whole answer, or one event of a stream."""

    choices: list[Choice] | None = None
    usage: Usage | None = None
    error: Any = None
    """Of whatever form; an answer that has it is an error in the clothes of an answer (rule B2)."""


decode_answer = msgspec.json.Decoder(Answer).decode
"""Raises one of `wire.BAD_JSON` for what is no JSON object of this shape."""
