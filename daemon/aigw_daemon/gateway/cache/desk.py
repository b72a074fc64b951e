"""Where the operator's questions about kept answers are dealt with: one at a time, beside the requests."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from time import time
from typing import TYPE_CHECKING, Any, Final, NoReturn

import msgspec

from aigw_daemon.gateway.cache.cache import Cache, CacheReport
from aigw_daemon.gateway.cache.convert import in_form
from aigw_daemon.gateway.cache.deltas import NoOtherForm
from aigw_daemon.gateway.cache.entry import Entry
from aigw_daemon.gateway.live import Live
from aigw_daemon.gateway.routing import resolve
from aigw_daemon.link.caching import (
    CacheCommand,
    CacheReply,
    CacheStats,
    KeptAnswer,
    MemoryView,
    RedisView,
)
from aigw_daemon.link.messages import CHAT, COMPLETIONS, CacheView

if TYPE_CHECKING:
    from aigw_daemon.gateway.cache.redis_tier import RedisTier

TEXT_CHARACTERS: Final = 4_000
"""Of an answer, that are shown."""
MOST_KEYS: Final = 10
"""Named, where a key's beginning stands for several."""

_decode = msgspec.json.Decoder().decode

log = logging.getLogger(__name__)


class CacheDesk:
    """Answers `CacheCommand`s."""

    def __init__(self, live: Live, cache: Cache, clock: Callable[[], float] = time) -> None:
        self._live = live
        self._cache = cache
        self._clock = clock
        self._since = clock()
        self._asked: asyncio.Queue[CacheCommand] = asyncio.Queue()

    def hear(self, command: CacheCommand) -> None:
        """Take a question; `run` answers it."""
        self._asked.put_nowait(command)

    async def run(self, send: Callable[[CacheReply], None]) -> NoReturn:
        """Answer what is heard, until cancelled."""
        while True:
            command = await self._asked.get()
            try:
                reply = await self.handle(command)
            except Exception as error:  # a question that we can't answer must not end the worker
                log.exception("the cache's desk failed")
                reply = CacheReply(command.id, problem=f"aigw met a bug: {type(error).__name__}: {error}")
            send(reply)

    async def handle(self, command: CacheCommand) -> CacheReply:
        """The reply to one command; whatever goes wrong with Redis is in it."""
        try:
            match command.kind:
                case "stats":
                    return CacheReply(command.id, stats=await self._stats())
                case "clear":
                    return CacheReply(command.id, removed=await self._clear(command))
                case "show":
                    return await self._show(command)
        except _gone() as error:
            return CacheReply(command.id, problem=_without_redis(command, error))

    async def _stats(self) -> CacheStats:
        self._cache.purge()
        report, view = self._cache.report(), self._view
        return CacheStats(
            since=self._since,
            memory=MemoryView(report.entries, report.bytes, view.memory),
            models=report.models,
            redis=await _redis(self._cache.redis, view.redis.value, report) if view.redis is not None else None,
        )

    async def _clear(self, command: CacheCommand) -> int:
        models = self._names(command.model) if command.model is not None else None
        self._cache.purge()
        before = self._clock() - command.older_than if command.older_than is not None else None
        return await self._cache.clear(models, before)

    def _names(self, model: str) -> set[str]:
        """What the backends call a model that a client would ask for by this name; the name itself is among them."""
        table = self._live.table
        found = resolve(table, model).candidates if table is not None else ()
        return {model, *(candidate.model for candidate in found if not candidate.fallback)}

    async def _show(self, command: CacheCommand) -> CacheReply:
        entries = await self._cache.find(command.key or "")
        if len(entries) > 1:
            keys = sorted(entry.origin.key.hex() for entry in entries)
            return CacheReply(command.id, keys=tuple(keys[:MOST_KEYS]))
        if not entries:
            return CacheReply(command.id)
        return CacheReply(command.id, answer=await asyncio.to_thread(_kept, entries[0], self._clock()))

    @property
    def _view(self) -> CacheView:
        snapshot = self._live.snapshot
        return CacheView() if snapshot is None else snapshot.cache


async def _redis(tier: "RedisTier | None", url: str, report: CacheReport) -> RedisView | None:
    """The Redis behind it, with what only it knows itself."""
    if tier is None or report.redis is None:
        return None
    # Not above: without Redis its client is never imported (it takes long), and with it that has been done aside.
    from aigw_daemon.gateway.cache.redis_link import shown  # noqa: PLC0415

    redis = RedisView(shown(url), report.redis_up, unanswered=report.redis.unanswered, unstored=report.redis.unstored)
    try:
        entries = await tier.upkeep.count()
        used, limit = await tier.upkeep.memory()
    except _gone() as error:
        return msgspec.structs.replace(redis, why=str(error))
    return msgspec.structs.replace(redis, entries=entries, bytes=used, limit=limit)


def _gone() -> type[Exception]:
    """What is raised where Redis can't be asked."""
    from aigw_daemon.gateway.cache.redis_link import Gone  # noqa: PLC0415  # as above

    return Gone


def _without_redis(command: CacheCommand, error: Exception) -> str:
    if command.kind == "clear":
        return f"what the gateway's process kept is forgotten, but Redis can't be asked: {error}"
    return f"Redis can't be asked: {error}"


def _kept(entry: Entry, now: float) -> KeptAnswer:
    origin, usage = entry.origin, entry.usage
    return KeptAnswer(
        key=origin.key.hex(),
        name=origin.name,
        backend=origin.backend,
        model=origin.model,
        endpoint=origin.endpoint,
        at=origin.created,
        seconds=origin.seconds,
        ttl_left=max(0.0, origin.created + origin.ttl - now),
        stream=entry.stream,
        size=len(entry.body),
        text=_text(entry)[:TEXT_CHARACTERS],
        prompt_tokens=usage.prompt_tokens if usage is not None else None,
        completion_tokens=usage.completion_tokens if usage is not None else None,
        finish=entry.finish,
    )


def _text(entry: Entry) -> str:
    try:
        return "\n".join(_said(entry))
    except NoOtherForm:
        return ""


def _said(entry: Entry) -> Iterator[str]:
    """The words of an answer: of each choice what it says and calls. Vectors and ranks say nothing."""
    if entry.origin.endpoint not in {CHAT, COMPLETIONS}:
        return
    for choice in _decode(in_form(entry, stream=False).body)["choices"]:
        message: dict[str, Any] = choice.get("message") or {"content": choice.get("text")}
        for name in ("reasoning_content", "reasoning", "content"):
            if isinstance(said := message.get(name), str) and said:
                yield said
        for call in message.get("tool_calls") or ():
            function = call.get("function") or {}
            yield f"{function.get('name')}({function.get('arguments')})"
