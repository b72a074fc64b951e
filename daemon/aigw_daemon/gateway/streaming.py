"""Reading along in a stream of server-sent events while its bytes pass through. Pure: bytes in, bytes to forward out.

The common case, whole events with nothing to note in them, costs a few substring searches and gives back the very
object that came in. Only an event that mentions usage, a finish, an error or the end is parsed. An incomplete event is
held until it is whole, so that whatever is forwarded ends at an event's boundary and an error can follow as an event of
its own.
"""

import re
from typing import Any, Final, NamedTuple

import msgspec

from aigw_daemon.gateway.answers import Answer, Usage, decode_answer
from aigw_daemon.gateway.refusals import upstream_error
from aigw_daemon.gateway.usage_frame import usage_of_timings, without_frame
from aigw_daemon.gateway.wire import BAD_JSON

MAX_EVENT_BYTES: Final = 16 * 1024 * 1024
"""A longer event ends its stream with an error, so that no engine can make the gateway hold more."""

_END = re.compile(rb"\r\n\r\n|\n\n|\n\r\n|\r\r|\n\r(?=[^\n])")
_LINE = re.compile(rb"\r\n|\n|\r")
_LONGEST_END = 4
_WHOLE_ENDS = (b"\n\n", b"\r\n\r\n")
_DONE = b"[DONE]"
_DONE_EVENT = b"data: [DONE]\n\n"
_GLUED_ERROR = re.compile(rb'\{\s*"error"\s*:.*', re.DOTALL)
"""An error behind half an event. Quotes inside JSON strings are escaped, so text can't look so."""
_FINISH, _USAGE = ((b'"%b"' % name, b'"%b":null' % name, b'"%b": null' % name) for name in (b"finish_reason", b"usage"))
_FIELDS = (b"data", b"event", b"id", b"retry")
_LONGEST_FIELD = 6
"""``event`` and its colon."""
BOM = b"\xef\xbb\xbf"
"""May stand before a stream; few clients know of it."""


def _notable(data: bytes) -> bool:
    """Whether an event may say what must be known. Quotes inside JSON strings are escaped, so text can't look so."""
    return _says(data, _FINISH) or _says(data, _USAGE) or b'"error"' in data or _DONE in data


def _says(data: bytes, name: tuple[bytes, bytes, bytes]) -> bool:
    """Whether a field has another value than null somewhere; maybe also where it has a blank before its colon."""
    field, null, spaced_null = name
    named = data.count(field)
    return named > 0 and (nulls := data.count(null)) != named and nulls + data.count(spaced_null) != named


def opens_events(opening: bytes, *, labelled: bool) -> bool | None:
    """Whether a body that begins like this is a stream of events; None while too little of it is here.

    The bytes count more than the label: JSON is none, and an event's field is one, whatever the content type says.
    ``labelled``: the content type says so, which decides for everything else.
    """
    begin = opening.removeprefix(BOM).lstrip()[:_LONGEST_FIELD]
    if not begin or BOM.startswith(opening):
        return None
    if begin[:1] in b"{[":
        return False
    name, colon, _ = begin.partition(b":")
    if colon:
        return not name or name in _FIELDS or labelled
    return None if any(field.startswith(begin) for field in _FIELDS) else labelled


class _Shape(msgspec.Struct):
    """Of an event, as far as it tells an answer from an error or a mere remark."""

    choices: list[dict[str, msgspec.Raw]] | None = None
    error: Any = None
    object: Any = None


_decode_shape = msgspec.json.Decoder(_Shape).decode
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Frame(NamedTuple):
    """A usage frame that was passed on, with the finish before it where that was held for it."""

    asked: bytes
    """Bytes for clients that asked for usage."""
    unasked: bytes
    """Bytes for clients that didn't, in their place; may be empty."""


class StreamScan:
    """Follows one stream.

    ``drop_usage``: the gateway, not the client, asked for the usage frame. ``shared``: clients of both kinds get this
    stream, so `frames` tells what each kind gets. In both cases a finish is held back until the next event: where that
    is the usage frame, what else the frame says belongs to the finish (see `usage_frame.without_frame`).
    """

    __slots__ = (
        "_choices",
        "_drop_usage",
        "_finished",
        "_held",
        "_holds_finish",
        "_quick",
        "_waiting",
        "begun",
        "done",
        "error",
        "finish_reason",
        "frames",
        "usage",
    )

    def __init__(self, *, drop_usage: bool, shared: bool = False, choices: int = 1) -> None:
        self._drop_usage = drop_usage
        self._holds_finish = drop_usage or shared
        self._choices = choices
        self._finished: set[int] = set()
        self._held = bytearray()
        self._waiting = b""
        self._quick = False
        """Whether a chunk of whole events with nothing notable passes without further look."""
        self.begun = False
        """Whether an event with a choice was seen: from then on there is an answer."""
        self.done = False
        """Whether the stream's ``[DONE]`` was passed on; a false one, before any finish, isn't."""
        self.error: str | None = None
        """What the engine's error event says, or what is wrong with the stream."""
        self.usage: Usage | None = None
        self.frames: list[Frame] = []
        """Usage frames of what was passed on since the reader emptied it. Only if shared."""
        self.finish_reason: str | None = None

    @property
    def finished(self) -> bool:
        """Whether every choice has its finish_reason: without it a stream is cut, however it ended (rule B17).

        An engine that says ``[DONE]`` may have given fewer choices than were asked for: Ollama ignores ``n``.
        """
        return self.done or len(self._finished) >= self._choices

    @property
    def waiting(self) -> bool:
        """Whether a finish is held back; `release` gives it out."""
        return bool(self._waiting)

    def feed(self, chunk: bytes) -> bytes:
        """Take in what arrived; returns what to forward, maybe nothing."""
        if self._quick and chunk.endswith(_WHOLE_ENDS) and not _notable(chunk):
            return chunk
        return self._feed_slowly(chunk)

    def release(self) -> bytes:
        """Return the finish that was held back, if there is one."""
        waiting, self._waiting = self._waiting, b""
        self._set_quick()
        return waiting

    def end(self) -> bytes:
        """Return what is left to forward when the stream is over, a missing ``[DONE]`` included.

        A last event that lacks nothing but its blank line is completed; half an event is dropped.
        """
        held, self._held = bytes(self._held), bytearray()
        data = _data(held)
        rest = self._event(held.rstrip(b"\r\n") + b"\n\n") if _notable(data) and _is_whole(data) else b""
        rest += self.release()
        if self.finished and not self.done and self.error is None:
            self.done = True
            rest += _DONE_EVENT
        return rest

    def _feed_slowly(self, chunk: bytes) -> bytes:
        if self.error is not None or self.done:
            return b""
        held = self._held
        start = max(0, len(held) - _LONGEST_END)
        held += chunk
        forwarded: list[bytes] = []
        begin = 0
        for end in _END.finditer(held, start):
            forwarded.append(self._event(bytes(held[begin : end.end()])))
            begin = end.end()
        del held[:begin]
        if len(held) > MAX_EVENT_BYTES:
            held.clear()
            self.error = f"it sent an event longer than {MAX_EVENT_BYTES // 1024 // 1024} MiB"
        self._set_quick()
        return b"".join(forwarded)

    def _set_quick(self) -> None:
        self._quick = self.begun and not (self._held or self._waiting or self.done) and self.error is None

    def _event(self, event: bytes) -> bytes:
        """One whole event: what to forward of it."""
        if self.error is not None or self.done:
            return b""
        data = _data(event)
        if not data:
            return event
        if data == _DONE:
            # A false [DONE] would tell the client that a cut answer is whole (fault 24).
            self.done = bool(self._finished)
            return self.release() + event if self.done else b""
        if (not self.begun or b'"error"' in data) and not self._is_answer(data):
            return self.release() + (event if self.error is None else b"")
        return self._notable_event(event, data) if _notable(data) else self.release() + event

    def _is_answer(self, data: bytes) -> bool:
        """Look at the shape of an event: an error is noted, a choice begins the answer. Else it is a remark."""
        try:
            shape = _decode_shape(data)
        except BAD_JSON:
            return self._is_odd_answer(data)
        if shape.object == "error" or (shape.error is not None and (shape.error or not shape.choices)):
            return self._fails(data)
        self.begun = self.begun or bool(shape.choices)
        return True

    def _is_odd_answer(self, data: bytes) -> bool:
        """The same for an event that must be read leniently: half an emoji in it, or an error wrapped into an array."""
        try:
            answer = decode_answer(data)
        except BAD_JSON:
            return self._is_odd_remark(data)
        if answer.is_error:
            return self._fails(data)
        self.begun = self.begun or bool(answer.choices)
        return self.begun

    def _is_odd_remark(self, data: bytes) -> bool:
        """The same for an event that isn't JSON. It is passed on, unless an engine wrote its error behind half of it.

        Clients fail on the broken JSON of such an event, before they get to an error that follows it.
        """
        glued = _GLUED_ERROR.search(data)
        if glued is None or not _is_whole(glued[0]):
            return self.begun
        return self._fails(glued[0])

    def _fails(self, data: bytes) -> bool:
        self.error = upstream_error(data).message or "the engine sent an error without a text"
        return False

    def _notable_event(self, event: bytes, data: bytes) -> bytes:
        try:
            answer = decode_answer(data)
        except BAD_JSON:
            return self.release() + event
        finishes = self._note(answer, data)
        if answer.usage is not None and not answer.choices:
            return self._usage_frame(event, data)
        released = self.release()
        if finishes and self._holds_finish:
            self._waiting = event
            return released
        return released + event

    def _note(self, answer: Answer, data: bytes) -> bool:
        """Note what an event says; whether it finishes a choice."""
        finishes = False
        for choice in answer.choices or ():
            if choice.finish_reason:
                finishes = True
                self._finished.add(choice.index)
                self.finish_reason = self.finish_reason or choice.finish_reason
        if answer.usage is not None:
            self.usage = answer.usage
        elif finishes and self.usage is None:
            self.usage = usage_of_timings(data)
        return finishes

    def _usage_frame(self, event: bytes, data: bytes) -> bytes:
        before = self.release()
        unasked = without_frame(before, _data(before), data) if before else b""
        if self._drop_usage:
            return unasked
        if self._holds_finish:
            self.frames.append(Frame(before + event, unasked))
        return before + event


def _data(event: bytes) -> bytes:
    """The event's data: the lines that begin with ``data:``, joined. Comments and other fields have none."""
    lines = (line for line in _LINE.split(event) if line.startswith(b"data:"))
    return b"\n".join(line[5:].removeprefix(b" ") for line in lines).strip()


def _is_whole(data: bytes) -> bool:
    """Whether the data of an event without its end is all there."""
    if data == _DONE:
        return True
    try:
        _decode_object(data)
    except BAD_JSON:
        return False
    return True
