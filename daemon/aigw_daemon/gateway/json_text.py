r"""JSON that strict readers refuse, though its senders' and receivers' readers take it. Pure.

The usual case is a lone surrogate: the escape ``\ud83d`` without its second half, which programs write that cut a text
between the two halves of an emoji. The grammar of JSON allows it (RFC 8259, 8.2) and Python, JavaScript and Go read
it; msgspec doesn't.
"""

import json
import re
from typing import Any, Final

import msgspec

from aigw_daemon.gateway.wire import BAD_JSON

_ESCAPE: Final = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)
"""An escape, the two of a pair as one; the group is a lone surrogate. Outside strings JSON has no backslash."""
_REPLACEMENT: Final = rb"\ufffd"
"""As long as what it replaces, so that offsets stay the same."""
_BETWEEN: Final = re.compile(r"[ \t\r\n,:]*")

_decode_raw = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_name = msgspec.json.Decoder(str).decode
_decoder: Final = json.JSONDecoder()


def without_lone_surrogates(body: bytes) -> bytes:
    """The body with U+FFFD for each lone surrogate, as long as before; the same object where there is none."""
    if b"\\u" not in body:
        return body
    mended = _ESCAPE.sub(lambda found: _REPLACEMENT if found[1] else found[0], body)
    return body if mended == body else mended


def decode_leniently(body: bytes) -> Any:
    """What Python's reader takes: lone surrogates (as U+FFFD), ``NaN``, numbers beyond a double. Raises `BAD_JSON`."""
    return json.loads(without_lone_surrogates(body).decode())


def raw_fields(body: bytes) -> dict[str, msgspec.Raw]:
    """An object's fields, each value as it is written, lone surrogates and all. Raises `BAD_JSON`."""
    try:
        return _decode_raw(body)
    except BAD_JSON:
        mended = without_lone_surrogates(body)
        if mended is body:
            raise
    _decode_raw(mended)
    return _slices(body, mended)


def _slices(body: bytes, mended: bytes) -> dict[str, msgspec.Raw]:
    # JSON's own signs are ASCII, so offsets in this text are those of the bytes.
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
