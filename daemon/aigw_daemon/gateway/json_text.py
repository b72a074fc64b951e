r"""Reading JSON that msgspec refuses, although common clients write it and common engines accept it. Pure.

The usual case is a lone surrogate, such as ``\ud83d`` without its second half: programs write it that cut a text in the
middle of an emoji. JSON's grammar allows it (RFC 8259, 8.2), and Python, JavaScript and Go accept it.
"""

import json
import re
from typing import Any, Final

import msgspec

from aigw_daemon.gateway.wire import BAD_JSON

_ESCAPE: Final = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)
"""One escape, or a surrogate pair; the group is a lone surrogate. JSON has backslashes inside strings only."""
_REPLACEMENT: Final = rb"\ufffd"
"""As long as a surrogate's escape, so that offsets stay valid."""
_BETWEEN: Final = re.compile(r"[ \t\r\n,:]*")

_decode_raw = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_name = msgspec.json.Decoder(str).decode
_decoder: Final = json.JSONDecoder()


def without_lone_surrogates(body: bytes) -> bytes:
    """Replace each lone surrogate with U+FFFD. The length stays the same; without any, the same object is returned."""
    if b"\\u" not in body:
        return body
    mended = _ESCAPE.sub(lambda found: _REPLACEMENT if found[1] else found[0], body)
    return body if mended == body else mended


def decode_leniently(body: bytes) -> Any:
    """Decode like Python's json, with lone surrogates (as U+FFFD), ``NaN`` and numbers beyond a double.

    Raises `BAD_JSON`.
    """
    return json.loads(without_lone_surrogates(body).decode())


def raw_fields(body: bytes) -> dict[str, msgspec.Raw]:
    """Split an object into its fields, each value in its original spelling. Raises `BAD_JSON`."""
    try:
        return _decode_raw(body)
    except BAD_JSON:
        mended = without_lone_surrogates(body)
        if mended is body:
            raise
    _decode_raw(mended)
    return _slices(body, mended)


def _slices(body: bytes, mended: bytes) -> dict[str, msgspec.Raw]:
    # JSON's structure is ASCII, so offsets in this text equal offsets in the bytes.
    text = mended.decode("latin-1")
    found: dict[str, msgspec.Raw] = {}
    at = _skipped(text, text.index("{") + 1)
    while text[at] != "}":
        end = _decoder.raw_decode(text, at)[1]
        name = _decode_name(mended[at:end])
        at = _skipped(text, end)
        end = _decoder.raw_decode(text, at)[1]
        found[name] = msgspec.Raw(body[at:end])
        at = _skipped(text, end)
    return found


def _skipped(text: str, at: int) -> int:
    between = _BETWEEN.match(text, at)
    return between.end() if between is not None else at
