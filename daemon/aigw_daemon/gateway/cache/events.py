"""Server-sent events of a stream that is here as a whole. Pure."""

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

DONE: Final = b"[DONE]"
DONE_EVENT: Final = b"data: [DONE]\n\n"

_END = re.compile(rb"\r\n\r\n|\n\n|\n\r\n|\r\r|\n\r(?=[^\n])")
_LINE = re.compile(rb"\r\n|\n|\r")


class Event(NamedTuple):
    """One event that has data, and where it stands in the stream: from the end of the event before it."""

    data: bytes
    begin: int
    end: int


def events(stream: bytes) -> Iterator[Event]:
    """Each event with data, in order. One that the stream's end cut off counts, as `StreamScan` passes it on, too."""
    begin = 0
    for match in _END.finditer(stream):
        if data := data_of(stream[begin : match.end()]):
            yield Event(data, begin, match.end())
        begin = match.end()
    if data := data_of(stream[begin:]):
        yield Event(data, begin, len(stream))


def data_of(event: bytes) -> bytes:
    """The event's data: its ``data:`` lines, joined; empty for a comment."""
    if event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2:
        return event[6:-2]  # nearly every event: one line, and the blank one after it
    lines = (line for line in _LINE.split(event) if line.startswith(b"data:"))
    return b"\n".join(line[5:].removeprefix(b" ") for line in lines).strip()
