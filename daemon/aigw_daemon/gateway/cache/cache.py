"""The cache as the gateway uses it: its tiers, and what they did.

A request asks `near`, which is synchronous and knows what this process keeps. Only then it awaits `far`, which may wait
for Redis. What `keep` is given is looked at by the rules of `entry` first.
"""

import asyncio
from collections.abc import Callable, Collection
from time import time
from typing import TYPE_CHECKING, Final

import msgspec

from aigw_daemon.gateway.cache.convert import JSON_TYPE, in_form
from aigw_daemon.gateway.cache.deltas import NoOtherForm
from aigw_daemon.gateway.cache.entry import MAX_ENTRY_BYTES, Entry, Origin, stream_entry, whole_entry
from aigw_daemon.gateway.cache.key import COMMON_SCOPE, KeySpace
from aigw_daemon.gateway.cache.memory import Kept, MemoryTier
from aigw_daemon.gateway.cache.policy import Terms
from aigw_daemon.gateway.cache.statistics import RedisCounts, Statistics
from aigw_daemon.link.caching import CacheCounts

if TYPE_CHECKING:
    # Without Redis its client is never imported: it takes longer than the rest of the worker together.
    from aigw_daemon.gateway.cache.redis_tier import RedisTier

THREAD_BYTES: Final = 64 * 1024
"""Longer answers are read and brought into another form in a thread: a MiB takes tens of milliseconds."""


class Question(msgspec.Struct):
    """What a request wants of the cache."""

    key: bytes
    space: KeySpace
    terms: Terms
    name: str
    """The model as the client calls it."""
    stream: bool = False
    usage: bool = False
    """Whether it asked for a stream's usage frame."""
    counted: bool = True
    """Whether an engine that is asked for it may be asked for usage: the client hasn't said otherwise."""
    scope: bytes = COMMON_SCOPE
    """The tenant's, as in its key."""


class Hit(msgspec.Struct):
    """An answer from the cache, ready to be sent."""

    entry: Entry
    """In the form that was asked for."""
    body: bytes
    lines: bytes
    """Header lines that every hit of this entry has: backend, model, cache and key."""
    age: int
    """Seconds."""


class CacheReport(msgspec.Struct):
    """For the operator."""

    models: dict[str, CacheCounts]
    entries: int
    """In this process."""
    bytes: int
    redis: RedisCounts | None = None
    redis_up: bool = False


class Cache:
    """Without ``redis`` answers are kept in this process alone. The clock is the wall's: tiers outlive processes."""

    def __init__(
        self,
        memory: MemoryTier,
        redis: "RedisTier | None" = None,
        limit: int = MAX_ENTRY_BYTES,
        clock: Callable[[], float] = time,
    ) -> None:
        self._memory = memory
        self.redis = redis
        """May be set later by `use`, and taken away again."""
        self._limit = limit
        self._clock = clock
        self._statistics = Statistics()
        self.clears = 0
        """How often answers of any age were cleared: what was on its way then is not kept, and not for those who ask
        later."""

    def resize(self, memory: MemoryTier, limit: int) -> None:
        """Keep answers in this tier from now on, up to this size each. What was counted stays."""
        self._memory, self._limit = memory, limit

    def use(self, redis: "RedisTier") -> None:
        """Keep answers there as well from now on, those that this process has got included."""
        self.redis = redis
        for kept in self._memory:
            redis.store(kept.entry)

    def near(self, question: Question) -> Hit | None:
        """What this process keeps, if it can be had at once."""
        if not question.terms.look_up or (kept := self._memory.get(question.key)) is None:
            return None
        if not kept.entry.serves(stream=question.stream, usage=question.usage):
            return None
        entry = kept.forms.get(question.stream)
        if entry is None:
            if len(kept.entry.body) > THREAD_BYTES:
                return None
            try:
                entry = in_form(kept.entry, stream=question.stream)
            except NoOtherForm:
                return None
            self._memory.add_form(kept, entry)
        return self._hit(question, kept, entry)

    async def far(self, question: Question) -> Hit | None:
        """What can be had with some patience: within about 100 ms. Only after `near` found nothing."""
        if not question.terms.look_up:
            return None
        kept = self._memory.get(question.key) or await self._from_redis(question)
        if kept is None or not kept.entry.serves(stream=question.stream, usage=question.usage):
            return None
        entry = kept.forms.get(question.stream)
        if entry is None:
            try:
                entry = await _in_form(kept.entry, stream=question.stream)
            except NoOtherForm:
                return None
            self._memory.add_form(kept, entry)
        return self._hit(question, kept, entry)

    def missed(self, question: Question) -> None:
        """The engine was asked for it."""
        self._statistics.of(question.name).misses += 1

    def coalesced(self, question: Question) -> None:
        """It got the answer of another one's upstream call."""
        self._statistics.of(question.name).coalesced += 1

    async def keep(
        self,
        origin: Origin,
        body: bytes,
        *,
        stream: bool,
        content_type: str = JSON_TYPE,
        counted: bool = True,
        clears: int | None = None,
    ) -> bool:
        """Keep an answer of status 200 under what actually answered, if it may be kept; whether it is.

        ``body`` is what the engine sent: of a stream, read to its end, all events, with the usage frame if the engine
        was asked for that (``counted``). ``clears`` is what that was when the engine was asked: a clear since then may
        have its reason in what shaped this answer.
        """
        if len(body) <= THREAD_BYTES:
            entry = self._entry(origin, body, stream, content_type, counted)
        else:
            entry = await asyncio.to_thread(self._entry, origin, body, stream, content_type, counted)
        if entry is None or clears not in {None, self.clears}:
            return False
        self._memory.put(entry, origin.ttl)
        if self.redis is not None:
            self.redis.store(entry)
        counts = self._statistics.of(origin.name)
        counts.stored += 1
        counts.stored_bytes += len(body)
        return True

    def purge(self) -> None:
        """Have what this process keeps past its time neither shown nor counted. Takes a while where that is much."""
        self._memory.purge()

    def report(self) -> CacheReport:
        """What it did since the worker began, and what this process keeps now."""
        redis = self.redis
        counts = msgspec.structs.replace(redis.counts) if redis is not None else None
        up = redis is not None and redis.up
        return CacheReport(self._statistics.all(), len(self._memory), self._memory.bytes, counts, up)

    async def clear(self, models: Collection[str] | None = None, before: float | None = None) -> int:
        """Forget the answers of these models, as backends name them, that came before a time (seconds since the epoch).

        None means all, those that are on their way included. Returns how many answers that were, in the tier that held
        more of them. Raises `redis_link.Gone` where Redis can't be asked; this process has forgotten them by then.
        """
        self.clears += before is None
        chosen = [
            kept.entry.origin.key
            for kept in self._memory
            if (models is None or kept.entry.origin.model in models)
            and (before is None or kept.entry.origin.created < before)
        ]
        near = sum(map(self._memory.drop, chosen))
        far = await self.redis.clear(models, before) if self.redis is not None else 0
        return max(near, far)

    async def find(self, beginning: str) -> list[Entry]:
        """The answers whose key begins with these lower-case hexadecimal digits.

        Raises `redis_link.Gone` where this process has none, and Redis can't be asked.
        """
        self.purge()
        found = {
            kept.entry.origin.key: kept.entry
            for kept in self._memory
            if kept.entry.origin.key.hex().startswith(beginning)
        }
        if self.redis is not None:
            # Where there is a Redis, its client has been imported already.
            from aigw_daemon.gateway.cache.redis_link import Gone  # noqa: PLC0415

            try:
                stored = await self.redis.upkeep.find(beginning, self._limit)
            except Gone:
                if not found:
                    raise
            else:
                found = {entry.origin.key: entry for entry in stored} | found
        return list(found.values())

    async def _from_redis(self, question: Question) -> Kept | None:
        if self.redis is None:
            return None
        clears = self.clears
        entry = await self.redis.find(question.key)
        # What this process has got meanwhile is newer.
        kept = self._memory.get(question.key)
        if kept is not None or entry is None:
            return kept
        if clears != self.clears:
            # It may have been cleared while the reply was on its way.
            return None
        origin = entry.origin
        # Another host's clock may be off: no answer lives longer here than it was given in all.
        left = min(origin.created + origin.ttl - self._clock(), origin.ttl)
        return self._memory.put(entry, left) if left > 0 else None

    def _hit(self, question: Question, kept: Kept, entry: Entry) -> Hit | None:
        age = self._clock() - entry.origin.created
        oldest = question.terms.max_age
        if oldest is not None and age > oldest:
            return None
        counts = self._statistics.of(question.name)
        counts.hits += 1
        counts.saved_tokens += entry.tokens
        counts.saved_seconds += entry.origin.seconds
        body = entry.replay(usage=question.usage) if entry.stream else entry.body
        return Hit(entry, body, kept.lines, int(age) if age > 0 else 0)

    def _entry(self, origin: Origin, body: bytes, stream: bool, content_type: str, counted: bool) -> Entry | None:
        if stream:
            return stream_entry(origin, body, self._limit, counted=counted)
        return whole_entry(origin, body, content_type, self._limit)


async def _in_form(entry: Entry, *, stream: bool) -> Entry:
    if len(entry.body) <= THREAD_BYTES:
        return in_form(entry, stream=stream)
    return await asyncio.to_thread(in_form, entry, stream=stream)
