"""What the operator does with the answers in Redis: count, find and clear them.

Only this installation's: others may use the same Redis.
"""

import re
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Final, TypeVar

from aigw_daemon.gateway.cache import codec
from aigw_daemon.gateway.cache.entry import Entry
from aigw_daemon.gateway.cache.key import KEY_BYTES
from aigw_daemon.gateway.cache.redis_link import Gone, Link, Refusal, Reply

SECONDS: Final = 1.0
"""For one of the many steps of a scan."""
MOST_FOUND: Final = 10
_STEP: Final = 1_000
T = TypeVar("T")

_HEX: Final = re.compile(r"[0-9a-f]+")


class RedisUpkeep:
    """Each call makes a connection of its own, and raises `redis_link.Gone` where Redis can't be asked, or refuses.

    ``store``: what the names of all answers begin with, see `Keys.store`.
    """

    def __init__(self, url: str, store: bytes) -> None:
        self._url = url
        self._store = store

    async def count(self) -> int:
        """How many answers are stored."""
        async with self._link() as link:
            return sum([len(names) async for names in _scan(link, self._store + b"*")])

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
        removed = 0
        async with self._link() as link:
            async for names in _scan(link, self._store + b"*"):
                chosen = names if models is None and before is None else await _chosen(link, names, models, before)
                if chosen:
                    [count] = await link.ask((b"UNLINK", *chosen), seconds=SECONDS)
                    removed += _obeyed(link, count, int)
        return removed

    async def find(self, beginning: str, limit: int) -> list[Entry]:
        """The answers whose key begins with these hexadecimal digits, at most `MOST_FOUND`; none for other digits."""
        found: list[Entry] = []
        if not _HEX.fullmatch(beginning):
            return found
        async with self._link() as link:
            async for names in _scan(link, self._store + beginning.encode() + b"*"):
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
        cursor, names = _obeyed(link, reply, list)
        yield names
        if cursor == b"0":
            return


async def _chosen(link: Link, names: list[bytes], models: Collection[str] | None, before: float | None) -> list[bytes]:
    """Those of these models that came before; what doesn't tell is left alone."""
    if not names:
        return []
    tags = None if models is None else {codec.tag_of(model) for model in models}
    replies = await link.ask(*((b"GETRANGE", name, 0, codec.HEAD_BYTES - 1) for name in names), seconds=SECONDS)
    heads = [codec.head(_obeyed(link, reply, bytes)) for reply in replies]
    return [
        name
        for name, head in zip(names, heads, strict=True)
        if head is not None and (tags is None or head.model_tag in tags) and (before is None or head.created < before)
    ]


def _obeyed(link: Link, reply: Reply, kind: type[T]) -> T:
    """A reply of the kind that the command has; anything else is a refusal, and told as such."""
    if isinstance(reply, Refusal) or not isinstance(reply, kind):
        raise Gone(f"{link.name} answers {str(reply)[:200]!r}")
    return reply


def _number(told: Reply, name: bytes) -> int | None:
    """One of the numbers that INFO tells, a line each."""
    found = re.search(rb"^%b:(\d+)\r?$" % name, told, re.MULTILINE) if isinstance(told, bytes) else None
    return int(found[1]) if found is not None else None


def _key(name: bytes) -> bytes:
    digits = name.rpartition(b":")[2]
    return bytes.fromhex(digits.decode()) if len(digits) == 2 * KEY_BYTES else b""
