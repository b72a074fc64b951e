"""Reading a log from its end while it grows; never on the writer's path (rule A19)."""

import asyncio
import codecs
import os
from collections.abc import AsyncGenerator
from pathlib import Path

FOLLOW_SECONDS = 0.2
BLOCK = 64 * 1024


async def lines_of(path: Path, count: int, *, follow: bool) -> AsyncGenerator[str, None]:
    """The last ``count`` lines, then, with ``follow``, whatever is written, across truncation and rotation."""
    position = 0
    # What is read may end in the middle of a character.
    decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
    if path.exists():
        data, position = await asyncio.to_thread(_tail, path, count)
        yield decode(data)
    while follow:
        data, position = await asyncio.to_thread(_since, path, position)
        if text := decode(data):
            yield text
        if len(data) < BLOCK:
            await asyncio.sleep(FOLLOW_SECONDS)


def _tail(path: Path, count: int) -> tuple[bytes, int]:
    with path.open("rb") as log:
        end = position = log.seek(0, os.SEEK_END)
        data = b""
        while position > 0 and data.count(b"\n") <= count:
            position = max(0, position - BLOCK)
            log.seek(position)
            data = log.read(end - position)
    return _last_lines(data, count), end


def _last_lines(data: bytes, count: int) -> bytes:
    r"""The last lines, the last one whole or not; a line ends at ``\n`` alone."""
    pieces = data.split(b"\n")
    ended = pieces[-1] == b""
    return b"\n".join(pieces[-count - ended :]) if count else b""


def _since(path: Path, position: int) -> tuple[bytes, int]:
    try:
        with path.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            # A log that got shorter was rotated: what it holds now is new.
            log.seek(position if size >= position else 0)
            data = log.read(BLOCK)
            return data, log.tell()
    except FileNotFoundError:
        return b"", 0
