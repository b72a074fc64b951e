"""What the operator can do about kept answers. The worker holds them, so it is asked, and may not be there."""

import logging
import os
import re
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from aigw_daemon.control.cache_schema import (
    CacheAnswer,
    CacheClear,
    CacheCleared,
    CacheCounters,
    CacheMemory,
    CacheModel,
    CacheRedis,
    CacheStatistics,
)
from aigw_daemon.control.caching import cache_status, cache_view
from aigw_daemon.control.problems import Refusal
from aigw_daemon.control.schema import CacheStatus
from aigw_daemon.gatekeeper.gatekeeper import Gatekeeper
from aigw_daemon.gatekeeper.questions import NoAnswer
from aigw_daemon.home import Home
from aigw_daemon.link.caching import CacheCommand, CacheCounts, CacheReply, CacheStats, KeptAnswer, RedisView
from aigw_daemon.link.messages import CacheView, Secret
from aigw_daemon.profile.caching import Cache
from aigw_daemon.supervisor.keys import cache_secret
from aigw_daemon.supervisor.supervisor import Supervisor
from aigw_daemon.words import in_words

LOOK_SECONDS: Final = 10.0
"""For a worker's answer to a question."""
CLEAR_SECONDS: Final = 120.0
"""For a worker to go through a large Redis."""
_KEY: Final = re.compile(r"[0-9a-f]{1,64}")

log = logging.getLogger(__name__)


class CacheOperations:
    """The verbs of ``aigw cache``, and what the worker is told of the cache."""

    def __init__(
        self, home: Home, supervisor: Supervisor, gatekeeper: Gatekeeper, env: Mapping[str, str] = os.environ
    ) -> None:
        self._home = home
        self._supervisor = supervisor
        self._gatekeeper = gatekeeper
        self._env = env
        self._secret: Secret | None = None

    def view(self, cache: Cache, before: CacheView) -> CacheView:
        """What the worker is told. ``before``: what it was told last."""
        self._secret = self._secret or self._lasting_secret()
        before = msgspec.structs.replace(before, secret=self._secret)
        return cache_view(cache, redis=self._supervisor.redis(), before=before, home=self._home, env=self._env)

    def status(self, cache: Cache) -> CacheStatus:
        """For `aigw status`."""
        return cache_status(cache, redis=self._supervisor.redis(), home=self._home, env=self._env)

    async def stats(self, cache: Cache) -> CacheStatistics:
        """What it did since the worker began, and what it holds."""
        stats = (await self._ask(CacheCommand(0, "stats"), LOOK_SECONDS)).stats
        if stats is None:
            raise _no_answer("the gateway's answer says nothing of it")
        redis = _redis(stats.redis, managed=cache.managed) if stats.redis is not None else self._left_out(cache)
        return _statistics(cache, stats, redis)

    async def clear(self, request: CacheClear) -> CacheCleared:
        """Forget answers."""
        command = CacheCommand(0, "clear", model=request.model, older_than=request.older_than)
        reply = await self._ask(command, CLEAR_SECONDS)
        return CacheCleared(removed=reply.removed or 0)

    async def show(self, key: str) -> CacheAnswer:
        """What is kept under the key that begins so."""
        beginning = key.strip().lower()
        if not _KEY.fullmatch(beginning):
            hint = "it is the answer's header x-aigw-cache-key, or the beginning of it"
            raise Refusal(400, "invalid_request", f"a key has hexadecimal digits, not {key[:80]!r}", hint=hint)
        reply = await self._ask(CacheCommand(0, "show", key=beginning), LOOK_SECONDS)
        if reply.answer is not None:
            return _answer(reply.answer, time.time())
        if reply.keys:
            message = f"several answers are kept under keys that begin with {beginning}"
            raise Refusal(409, "ambiguous_key", message, hint="give more digits", details=list(reply.keys))
        message = f"nothing is kept under a key that begins with {beginning}"
        raise Refusal(404, "unknown_key", message, hint="it may have expired, or have made room for others")

    async def _ask(self, command: CacheCommand, seconds: float) -> CacheReply:
        try:
            reply = await self._gatekeeper.ask(command, seconds)
        except NoAnswer as error:
            raise _no_answer(str(error)) from error
        if reply.problem is not None:
            raise Refusal(503, "cache_unavailable", reply.problem, hint="'aigw cache stats' shows how its Redis is")
        return reply

    def _left_out(self, cache: Cache) -> CacheRedis | None:
        """Why the worker has no Redis though the profile names one."""
        shown = self.status(cache).redis
        if shown is None:
            return None
        server = shown.server
        if server is not None:
            why = f"it {in_words(server.state)}{f': {server.why}' if server.why else ''}"
        else:
            why = shown.warnings[0] if shown.warnings else "the gateway has not begun to use it yet"
        return CacheRedis(where=shown.where, managed=cache.managed, connected=False, why=why)

    def _lasting_secret(self) -> Secret | None:
        try:
            return cache_secret(self._home)
        except OSError as error:
            log.warning("cannot keep the cache's secret: %s; kept answers are lost with the gateway worker", error)
            return None


def _no_answer(why: str) -> Refusal:
    hint = "'aigw status' shows how the gateway is, 'aigw logs gateway' what it said"
    return Refusal(503, "no_worker", f"the cache can't be asked: {why}", hint=hint)


def _statistics(cache: Cache, stats: CacheStats, redis: CacheRedis | None) -> CacheStatistics:
    by_use = sorted(stats.models.items(), key=lambda item: (-_requests(item[1]), item[0]))
    memory = stats.memory
    return CacheStatistics(
        mode=cache.mode,
        ttl_s=cache.ttl,
        since=stats.since,
        total=CacheCounters(**_counters(_sum(stats.models.values()))),
        models=tuple(CacheModel(model=name, **_counters(counts)) for name, counts in by_use),
        memory=CacheMemory(entries=memory.entries, bytes=memory.bytes, limit_bytes=memory.limit),
        redis=redis,
    )


def _redis(redis: RedisView, *, managed: bool) -> CacheRedis:
    return CacheRedis(
        where=redis.where,
        managed=managed,
        connected=redis.connected,
        why=redis.why,
        entries=redis.entries,
        bytes=redis.bytes,
        limit_bytes=redis.limit,
        unanswered=redis.unanswered,
        unstored=redis.unstored,
    )


def _counters(counts: CacheCounts) -> dict[str, Any]:
    requests = _requests(counts)
    rate = (counts.hits + counts.coalesced) / requests if requests else None
    return {**msgspec.structs.asdict(counts), "hit_rate": rate}


def _requests(counts: CacheCounts) -> int:
    return counts.hits + counts.misses + counts.coalesced


def _sum(models: Iterable[CacheCounts]) -> CacheCounts:
    each = list(models)
    return CacheCounts(*(sum(getattr(counts, name) for counts in each) for name in CacheCounts.__struct_fields__))


def _answer(kept: KeptAnswer, now: float) -> CacheAnswer:
    return CacheAnswer(
        key=kept.key,
        model=kept.name,
        backend=kept.backend,
        upstream_model=kept.model,
        endpoint=kept.endpoint,
        at=kept.at,
        age_s=max(0.0, now - kept.at),
        ttl_left_s=kept.ttl_left,
        duration_s=kept.seconds,
        stream=kept.stream,
        bytes=kept.size,
        prompt_tokens=kept.prompt_tokens,
        completion_tokens=kept.completion_tokens,
        finish_reason=kept.finish,
        text=kept.text,
    )
