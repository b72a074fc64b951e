"""The usage frame of a stream, and the event before it as a client gets it that didn't ask for usage. Pure."""

from typing import Any, Final

import msgspec

from aigw_daemon.gateway.answers import Usage
from aigw_daemon.gateway.wire import BAD_JSON

_FRAME_ONLY: Final = frozenset({"choices", "usage"})

_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_any = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class _Timings(msgspec.Struct):
    """Token counts as llama.cpp has them in ``timings``."""

    prompt_n: int
    predicted_n: int
    cache_n: int = 0


class _Timed(msgspec.Struct):
    timings: _Timings


_decode_timed = msgspec.json.Decoder(_Timed).decode


def without_frame(before: bytes, before_data: bytes, frame_data: bytes) -> bytes:
    """Return the event that precedes a usage frame as the engine would have sent it without that frame.

    llama.cpp adds ``timings`` to its last event, which is the usage frame if there is one. Fields of the frame that the
    event doesn't have move there. Returns ``before`` itself if there are none.
    """
    try:
        known, frame = _decode(before_data), _decode(frame_data)
        moved = {name: raw for name, raw in frame.items() if name not in known and name not in _FRAME_ONLY}
        if not moved:
            return before
        fields = _encode(moved)
        if b"\n" in fields or b"\r" in fields:
            # An engine may spread its JSON over several data lines.
            fields = _encode(_decode_any(fields))
        at = before.rindex(b"}")
        return b"%b,%b%b" % (before[:at], fields[1:-1], before[at:])
    except BAD_JSON:
        return before


def usage_of_timings(data: bytes) -> Usage | None:
    """Return the token counts that llama.cpp's ``timings`` tell, where an event has no usage."""
    if b'"timings"' not in data:
        return None
    try:
        timings: Any = _decode_timed(data).timings
    except BAD_JSON:
        return None
    return Usage(timings.cache_n + timings.prompt_n, timings.predicted_n)
