"""Answers kept in Redis, which is never in the way (rule B22).

Two tasks with a connection each: one asks for answers, all that are wanted at a moment with one MGET; the other stores
them, so that a slow write holds up no look. A request only waits for a reply of the first, at most 100 ms from its own
beginning, and whoever stops waiting leaves the connection alone. While there is no connection nobody waits at all: one
timeout is enough to take it away, and a task gets it back. Answers given meanwhile are stored then.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Collection
from contextlib import suppress
from time import monotonic, time
from typing import Final

import msgspec

from aigw_daemon.gateway.cache import codec
from aigw_daemon.gateway.cache.entry import MAX_ENTRY_BYTES, Entry
from aigw_daemon.gateway.cache.pace import Pace
from aigw_daemon.gateway.cache.redis_link import OPERATION_SECONDS, Gone, Link, Refusal, Reply
from aigw_daemon.gateway.cache.redis_upkeep import RedisUpkeep
from aigw_daemon.gateway.cache.statistics import RedisCounts

THREAD_BYTES: Final = 64 * 1024
"""Larger values are packed and unpacked in a thread: compressing a MiB takes milliseconds."""
LOOKS_AT_ONCE: Final = 32
MOST_LOOKS: Final = 1_000
"""Beyond them a request doesn't even wait."""
WRITES_AT_ONCE: Final = 16
MOST_BYTES_AT_ONCE: Final = 1024 * 1024
MOST_WAITING_BYTES: Final = 16 * 1024 * 1024
"""Of answers that wait to be stored, also for a connection; of more the oldest are not stored."""
_LEAST_SECONDS: Final = 0.001


class _Look(msgspec.Struct):
    name: bytes
    reply: asyncio.Future[bytes | None]
    began: float


class RedisTier:
    """``url`` as in `Link`, ``store`` as in `Keys`. ``limit``: bytes of an answer's body. ``pace`` makes the pace of
    each connection. ``now`` is the wall's clock, in seconds since the epoch.
    """

    def __init__(
        self,
        url: str,
        store: bytes,
        limit: int = MAX_ENTRY_BYTES,
        pace: Callable[[], Pace] = Pace,
        *,
        clock: Callable[[], float] = monotonic,
        now: Callable[[], float] = time,
    ) -> None:
        self.url = url
        self.counts = RedisCounts()
        self.upkeep = RedisUpkeep(url, store)
        """For the operator, on connections of its own."""
        self._prefix = store
        self._limit = limit
        self._clock = clock
        self._now = now
        self._reads = Link(url, "look", pace())
        self._writes = Link(url, "store", pace())
        self._refusals = pace()
        self._quiet_until = 0.0
        """Redis has no room, or may not be written to: until then nothing is stored."""
        self._looks: list[_Look] = []
        self._looking = asyncio.Event()
        self._waiting: deque[Entry] = deque()
        self._waiting_bytes = 0
        self._storing = asyncio.Event()
        self._on_its_way = asyncio.Lock()
        """Held while answers are on their way into Redis."""

    @property
    def up(self) -> bool:
        """Whether a look is worth it now; while it isn't, none costs anything."""
        return self._reads.up and len(self._looks) < MOST_LOOKS

    @property
    def writable(self) -> bool:
        """Whether answers are stored now."""
        return self._writes.up and self._clock() >= self._quiet_until

    async def run(self) -> None:
        """Keep both connections, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_looking(), name="redis looks")
            tasks.create_task(self._keep_storing(), name="redis writes")

    async def find(self, key: bytes) -> Entry | None:
        """What is stored under the key, within `OPERATION_SECONDS`; None also for everything that goes wrong."""
        if not self.up:
            return None
        reply: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self._looks.append(_Look(self._prefix + key.hex().encode(), reply, self._clock()))
        self._looking.set()
        blob = await reply
        if blob is None:
            return None
        if len(blob) <= THREAD_BYTES:
            return codec.decode(blob, key, self._limit)
        return await asyncio.to_thread(codec.decode, blob, key, self._limit)

    def store(self, entry: Entry) -> None:
        """Store an answer for what is left of its time, as soon as there is a connection; unless Redis refuses."""
        if self._clock() < self._quiet_until:
            self.counts.unstored += 1
            return
        self._waiting.append(entry)
        self._waiting_bytes += len(entry.body)
        while self._waiting_bytes > MOST_WAITING_BYTES:
            self._waiting_bytes -= len(self._waiting.popleft().body)
            self.counts.unstored += 1
        self._storing.set()

    async def clear(self, models: Collection[str] | None, before: float | None) -> int:
        """Remove the answers that `RedisUpkeep.clear` would, and those that wait to be stored. Raises Gone."""
        self._unqueue(models, before)
        async with self._on_its_way:
            # What was on its way is there to be removed, or waits again.
            self._unqueue(models, before)
        return await self.upkeep.clear(models, before)

    def _unqueue(self, models: Collection[str] | None, before: float | None) -> None:
        kept = [entry for entry in self._waiting if not _is_chosen(entry, models, before)]
        self._waiting_bytes = sum(len(entry.body) for entry in kept)
        self._waiting = deque(kept)

    async def _keep_looking(self) -> None:
        try:
            while True:
                await self._reads.connect()
                try:
                    await self._look()
                except Gone:
                    self._give_up_looks()
        finally:
            self._give_up_looks()
            await self._reads.close()

    async def _look(self) -> None:
        while True:
            await self._looking.wait()
            batch = self._looks[:LOOKS_AT_ONCE]
            # Those that came while another batch was on its way have waited already.
            seconds = max(OPERATION_SECONDS - (self._clock() - batch[0].began), _LEAST_SECONDS)
            [values] = await self._reads.ask((b"MGET", *(look.name for look in batch)), seconds=seconds)
            if not isinstance(values, list) or len(values) != len(batch):
                await self._reads.fail(f"it answers MGET with {str(values)[:200]}")
                raise Gone
            self._reads.pace.succeeded()
            del self._looks[: len(batch)]
            if not self._looks:
                self._looking.clear()
            for look, value in zip(batch, values, strict=True):
                if not look.reply.done():
                    look.reply.set_result(value if isinstance(value, bytes) else None)

    def _give_up_looks(self) -> None:
        looks, self._looks = self._looks, []
        self._looking.clear()
        for look in looks:
            if not look.reply.done():
                self.counts.unanswered += 1
                look.reply.set_result(None)

    async def _keep_storing(self) -> None:
        try:
            while True:
                await self._writes.connect()
                # Without a connection what waits goes on waiting.
                with suppress(Gone):
                    await self._store()
        finally:
            await self._writes.close()

    async def _store(self) -> None:
        while True:
            await self._storing.wait()
            async with self._on_its_way:
                batch = self._next_writes()
                if not batch:
                    continue  # a clear was faster, or their time is over
                replies = await self._write(batch)
            self._writes.pace.succeeded()
            refused = sum(isinstance(reply, Refusal) for reply in replies)
            self.counts.unstored += refused
            if refused:
                self._refusals.failed()
                self._quiet_until = self._clock() + self._refusals.pause()
                self._give_up_writes()
            else:
                self._refusals.succeeded()

    async def _write(self, batch: list[Entry]) -> list[Reply]:
        commands = [await self._command(entry) for entry in batch]
        try:
            return await self._writes.ask(*commands)
        except Gone:
            if self._writes.pace.failures == 1:
                # The connection may have been dead before; what is stored twice does no harm.
                self._waiting.extendleft(reversed(batch))
                self._waiting_bytes += sum(len(entry.body) for entry in batch)
                self._storing.set()
            else:
                self.counts.unstored += len(batch)
            raise

    async def _command(self, entry: Entry) -> tuple[bytes | int, ...]:
        brief = len(entry.body) <= THREAD_BYTES
        packed = codec.encode(entry) if brief else await asyncio.to_thread(codec.encode, entry)
        milliseconds = max(1, int(self._left(entry) * 1000))
        return b"SET", self._prefix + entry.origin.key.hex().encode(), packed, b"PX", milliseconds

    def _left(self, entry: Entry) -> float:
        """Seconds of its time that are left; never more than it was given, should the clock be set back."""
        origin = entry.origin
        return min(origin.created + origin.ttl - self._now(), origin.ttl)

    def _next_writes(self) -> list[Entry]:
        batch: list[Entry] = []
        size = 0
        while self._waiting and len(batch) < WRITES_AT_ONCE:
            length = len(self._waiting[0].body)
            if batch and size + length > MOST_BYTES_AT_ONCE:
                break
            entry = self._waiting.popleft()
            self._waiting_bytes -= length
            if self._left(entry) > 0:
                batch.append(entry)
                size += length
        if not self._waiting:
            self._storing.clear()
        return batch

    def _give_up_writes(self) -> None:
        self.counts.unstored += len(self._waiting)
        self._waiting.clear()
        self._waiting_bytes = 0
        self._storing.clear()


def _is_chosen(entry: Entry, models: Collection[str] | None, before: float | None) -> bool:
    origin = entry.origin
    return (models is None or origin.model in models) and (before is None or origin.created < before)
