"""What the operator does with the answers in Redis: count, find and clear them."""

import re
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Final

from aigw_daemon.gateway.cache import codec
from aigw_daemon.gateway.cache.entry import Entry
from aigw_daemon.gateway.cache.key import KEY_BYTES, SCHEMA, stored_under
from aigw_daemon.gateway.cache.redis_link import Gone, Link, Reply

SECONDS: Final = 1.0
"""For one of the many steps of a scan."""
MOST_FOUND: Final = 10
_STEP: Final = 1_000
_HEX: Final = re.compile(r"[0-9a-f]+")
_ALL: Final = f"aigw:cache:{SCHEMA}:".encode()


class RedisUpkeep:
    """Each call makes a connection of its own, and raises `redis_link.Gone` where Redis can't be asked."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def count(self) -> int:
        """How many answers are stored."""
        async with self._link() as link:
            return sum([len(names) async for names in _scan(link, _ALL + b"*")])

    async def memory(self) -> tuple[int, int | None]:
        """Bytes that Redis takes for all that it holds, and the most that it may take; None where it has no limit."""
        async with self._link() as link:
            [told] = await link.ask((b"INFO", b"memory"), seconds=SECONDS)
        used, limit = (_number(told, name) for name in (b"used_memory", b"maxmemory"))
        return used or 0, limit or None

    async def clear(self, models: Collection[str] | None = None, before: float | None = None) -> int:
        """Remove the answers of these models, as backends name them, that came before a time (seconds since the epoch).

        None means all. Returns how many were removed.
        """
        patterns = [_ALL + b"*"] if models is None else [stored_under(model) + b"*" for model in models]
        removed = 0
        async with self._link() as link:
            for pattern in patterns:
                async for names in _scan(link, pattern):
                    chosen = names if before is None else await _older(link, names, before)
                    if chosen:
                        [count] = await link.ask((b"UNLINK", *chosen), seconds=SECONDS)
                        removed += count if isinstance(count, int) else 0
        return removed

    async def find(self, beginning: str, limit: int) -> list[Entry]:
        """The answers whose key begins with these hexadecimal digits, at most `MOST_FOUND`; none for other digits."""
        found: list[Entry] = []
        if not _HEX.fullmatch(beginning):
            return found
        async with self._link() as link:
            async for names in _scan(link, _ALL + b"*:" + beginning.encode() + b"*"):
                for name in names:
                    [blob] = await link.ask((b"GET", name), seconds=SECONDS)
                    entry = codec.decode(blob, _key(name), limit) if isinstance(blob, bytes) else None
                    if entry is not None:
                        found.append(entry)
                    if len(found) == MOST_FOUND:
                        return found
        return found

    @asynccontextmanager
    async def _link(self) -> AsyncIterator[Link]:
        link = Link(self._url, "upkeep")
        try:
            await link.dial()
            yield link
        finally:
            await link.close()


async def _scan(link: Link, pattern: bytes) -> AsyncIterator[list[bytes]]:
    cursor = b"0"
    while True:
        [reply] = await link.ask((b"SCAN", cursor, b"MATCH", pattern, b"COUNT", _STEP), seconds=SECONDS)
        if not isinstance(reply, list):
            raise Gone(f"{link.name} answers SCAN with {str(reply)[:200]}")
        cursor, names = reply
        yield names
        if cursor == b"0":
            return


async def _older(link: Link, names: list[bytes], before: float) -> list[bytes]:
    """Those that came before; what tells no time is left alone."""
    if not names:
        return []
    heads = await link.ask(*((b"GETRANGE", name, 0, codec.CREATED_BYTES - 1) for name in names), seconds=SECONDS)
    times = [codec.created(head) if isinstance(head, bytes) else None for head in heads]
    return [name for name, time in zip(names, times, strict=True) if time is not None and time < before]


def _number(told: Reply, name: bytes) -> int | None:
    """One of the numbers that INFO tells, a line each."""
    found = re.search(rb"^%b:(\d+)\r?$" % name, told, re.MULTILINE) if isinstance(told, bytes) else None
    return int(found[1]) if found is not None else None


def _key(name: bytes) -> bytes:
    digits = name.rpartition(b":")[2]
    return bytes.fromhex(digits.decode()) if len(digits) == 2 * KEY_BYTES else b""
