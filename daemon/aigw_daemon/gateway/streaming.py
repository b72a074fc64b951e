"""Reading along in a stream of server-sent events while its bytes pass through. Pure: bytes in, bytes to forward out.

The common case, whole events with nothing to note in them, costs a few substring searches and gives back the very
object that came in. Only an event that mentions usage, a finish, an error or the end is parsed. An event that comes in
pieces is held until it is whole: clients act on whole events anyway, and a usage frame must be dropped whole.
"""

import re

from aigw_daemon.gateway.answers import Answer, Usage, decode_answer
from aigw_daemon.gateway.refusals import upstream_error
from aigw_daemon.gateway.wire import BAD_JSON

MAX_EVENT_BYTES = 1024 * 1024
"""A longer event passes through unread, so that no engine can make the gateway hold more."""

_END = re.compile(rb"\r\n\r\n|\n\n|\n\r\n|\r\r")
_LINE = re.compile(rb"\r\n|\n|\r")
_LONGEST_END = 4
_DONE = b"[DONE]"


def _notable(data: bytes) -> bool:
    """Whether an event may say what must be known. Quotes inside JSON strings are escaped, so text can't look so.

    Most events name their finish only to say null. That is known in its usual spellings; all others are parsed.
    """
    finishes = data.count(b'"finish_reason"')
    if (
        finishes
        and finishes != (null := data.count(b'"finish_reason":null'))
        and finishes != null + data.count(b'"finish_reason": null')
    ):
        return True
    usages = data.count(b'"usage"')
    if usages and usages != data.count(b'"usage":null') + data.count(b'"usage": null'):
        return True
    return b'"error"' in data or _DONE in data


class StreamScan:
    """Follows one stream. ``drop_usage``: the usage frame was asked for by the gateway, not by the client."""

    __slots__ = (
        "_choices",
        "_drop_usage",
        "_finished",
        "_held",
        "_passing",
        "_tail",
        "begun",
        "done",
        "error",
        "finish_reason",
        "usage",
        "usage_frame",
    )

    def __init__(self, *, drop_usage: bool, choices: int = 1) -> None:
        self._drop_usage = drop_usage
        self._choices = choices
        self._finished: set[int] = set()
        self._held = bytearray()
        self._passing = False
        self._tail = b""
        self.begun = False
        """Whether an event with data was seen that is no error: from then on there is an answer."""
        self.done = False
        """Whether ``[DONE]`` was seen after a choice had finished."""
        self.error: str | None = None
        """What the engine's error event says."""
        self.usage: Usage | None = None
        self.usage_frame: bytes | None = None
        """The event that holds nothing but the usage, passed on or dropped."""
        self.finish_reason: str | None = None

    @property
    def finished(self) -> bool:
        """Whether every choice has its finish_reason: without it a stream is cut, however it ended (rule B17).

        An engine that says ``[DONE]`` may have given fewer choices than were asked for: Ollama ignores ``n``.
        """
        return self.done or len(self._finished) >= self._choices

    def feed(self, chunk: bytes) -> bytes:
        """Take in what arrived; returns what to forward, maybe nothing."""
        if not self._held and not self._passing and self.begun and chunk.endswith(b"\n\n") and not _notable(chunk):
            return chunk
        return self._feed_slowly(chunk)

    def end(self) -> bytes:
        """The stream is over: what was held of an event that never became whole."""
        held, self._held = bytes(self._held), bytearray()
        return self._event(held) if held else b""

    def _feed_slowly(self, chunk: bytes) -> bytes:
        if self._passing:
            passed, chunk = self._pass_long_event(chunk)
            return passed + (self._feed_slowly(chunk) if chunk else b"")
        start = max(0, len(self._held) - _LONGEST_END)
        self._held += chunk
        forwarded: list[bytes] = []
        begin = 0
        for end in _END.finditer(self._held, start):
            forwarded.append(self._event(bytes(self._held[begin : end.end()])))
            begin = end.end()
        del self._held[:begin]
        if len(self._held) > MAX_EVENT_BYTES:
            self._passing = self.begun = True
            forwarded.append(bytes(self._held))
            self._tail = forwarded[-1][-_LONGEST_END:]
            self._held.clear()
        return b"".join(forwarded)

    def _pass_long_event(self, chunk: bytes) -> tuple[bytes, bytes]:
        """What belongs to the long event, and what comes after it."""
        before = len(self._tail)
        end = _END.search(self._tail + chunk)
        if end is None or end.end() <= before:
            self._tail = (self._tail + chunk)[-_LONGEST_END:]
            return chunk, b""
        self._passing = False
        cut = end.end() - before
        return chunk[:cut], chunk[cut:]

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
            return event if self.done else b""
        if _notable(data):
            return self._notable_event(event, data)
        self.begun = True
        return event

    def _notable_event(self, event: bytes, data: bytes) -> bytes:
        try:
            answer = decode_answer(data)
        except BAD_JSON:
            self.begun = True
            return event
        if answer.is_error:
            self.error = upstream_error(data).message or "the engine sent an error without a text"
            return b""
        self.begun = True
        if not self._take(answer):
            return event
        self.usage_frame = event
        return b"" if self._drop_usage else event

    def _take(self, answer: Answer) -> bool:
        """Note what an event says; whether it is a usage frame."""
        for choice in answer.choices or ():
            if choice.finish_reason:
                self._finished.add(choice.index)
                self.finish_reason = self.finish_reason or choice.finish_reason
        if answer.usage is None:
            return False
        self.usage = answer.usage
        return not answer.choices


def _data(event: bytes) -> bytes:
    """The event's data: the lines that begin with ``data:``, joined. Comments and other fields have none."""
    lines = (line for line in _LINE.split(event) if line.startswith(b"data:"))
    return b"\n".join(line[5:].removeprefix(b" ") for line in lines).strip()
