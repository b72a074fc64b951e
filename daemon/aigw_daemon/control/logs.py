"""Reading a log from its end while it grows; never on the writer's path (rule A19)."""

import asyncio
import os
from collections.abc import AsyncGenerator
from pathlib import Path

FOLLOW_SECONDS = 0.2
BLOCK = 64 * 1024


async def lines_of(path: Path, count: int, *, follow: bool) -> AsyncGenerator[str, None]:
    """The last ``count`` lines, then, with ``follow``, whatever is written, across truncation and rotation."""
    position = 0
    if path.exists():
        text, position = await asyncio.to_thread(_tail, path, count)
        yield text
    while follow:
        await asyncio.sleep(FOLLOW_SECONDS)
        text, position = await asyncio.to_thread(_since, path, position)
        if text:
            yield text


def _tail(path: Path, count: int) -> tuple[str, int]:
    with path.open("rb") as log:
        end = position = log.seek(0, os.SEEK_END)
        data = b""
        while position > 0 and data.count(b"\n") <= count:
            position = max(0, position - BLOCK)
            log.seek(position)
            data = log.read(end - position)
    kept = data.splitlines(keepends=True)[-count:] if count else []
    return b"".join(kept).decode(errors="replace"), end


def _since(path: Path, position: int) -> tuple[str, int]:
    try:
        with path.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            # A log that got shorter was rotated: what it holds now is new.
            log.seek(position if size >= position else 0)
            data = log.read(BLOCK)
            return data.decode(errors="replace"), log.tell()
    except FileNotFoundError:
        return "", 0
