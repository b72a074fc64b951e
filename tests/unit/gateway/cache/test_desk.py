"""What the operator is told of kept answers, from both tiers, and what is said when Redis can't be asked."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from aigw_daemon.gateway.cache.cache import Cache
from aigw_daemon.gateway.cache.desk import MOST_KEYS, TEXT_CHARACTERS, CacheDesk
from aigw_daemon.gateway.cache.key import Keys
from aigw_daemon.gateway.cache.memory import MemoryTier
from aigw_daemon.gateway.cache.redis_tier import RedisTier
from aigw_daemon.gateway.live import Live
from aigw_daemon.link.caching import CacheCommand, CacheReply, KeptAnswer, MemoryView
from aigw_daemon.link.messages import CHAT, EMBEDDINGS, CacheView, Secret
from tests.support.cached import KEY, delta, event, origin, stream, whole
from tests.support.gateway import backend, route, snapshot
from tests.support.redis import RedisServer, redis_server
from tests.support.wait import eventually

NOW = 1_700_000_600.0
"""Ten minutes after the answers of `tests.support.cached`."""
STORE = Keys(b"a secret").store
VECTORS = b'{"object":"list","data":[{"embedding":[0.5]}],"usage":{"prompt_tokens":4,"total_tokens":4}}'


def key(number: int) -> bytes:
    return number.to_bytes(32)


def live(redis: str | None = None) -> Live:
    """A worker that routes ``llama`` to ``llama3.1:8b`` and has been told of this Redis."""
    made = Live()
    told = snapshot(backend("ollama", 1, models=["llama3.1:8b"]), routes=[route("llama", ("ollama", "llama3.1:8b"))])
    view = CacheView(memory=64_000_000, redis=Secret(redis) if redis is not None else None)
    made.replace(msgspec.structs.replace(told, cache=view))
    return made


def near() -> tuple[Cache, CacheDesk]:
    """A cache in this process alone."""
    cache = Cache(MemoryTier(), clock=lambda: NOW)
    return cache, CacheDesk(live(), cache, clock=lambda: NOW)


async def shown(desk: CacheDesk, beginning: str) -> KeptAnswer:
    answer = (await desk.handle(CacheCommand(1, "show", key=beginning))).answer
    assert answer is not None
    return answer


async def test_stats_tell_what_was_counted_and_what_this_process_holds() -> None:
    cache, desk = near()
    await cache.keep(origin(), whole(), stream=False)
    stats = (await desk.handle(CacheCommand(7, "stats"))).stats
    assert stats is not None
    assert stats.since == NOW
    assert stats.redis is None
    assert stats.models["llama"].stored == 1
    assert stats.memory == MemoryView(1, cache.report().bytes, 64_000_000)


async def test_show_tells_all_of_an_answer() -> None:
    cache, desk = near()
    await cache.keep(origin(), whole("Paris."), stream=False)
    assert await shown(desk, KEY.hex()[:4]) == KeptAnswer(
        key=KEY.hex(),
        name="llama",
        backend="ollama",
        model="llama3.1:8b",
        endpoint=CHAT,
        at=1_700_000_000.0,
        seconds=2.5,
        ttl_left=3000.0,
        stream=False,
        size=len(whole("Paris.")),
        text="Paris.",
        prompt_tokens=7,
        completion_tokens=3,
        finish="stop",
    )


async def test_show_puts_a_stream_together() -> None:
    cache, desk = near()
    await cache.keep(origin(), stream("It ", "is ", "Paris."), stream=True)
    answer = await shown(desk, KEY.hex())
    assert (answer.stream, answer.text) == (True, "It is Paris.")


async def test_show_tells_thoughts_and_calls_as_well() -> None:
    cache, desk = near()
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "look", "arguments": '{"at": "Paris"}'}}
    said = [event(delta(reasoning_content="Hm.", tool_calls=[call])), event(delta(finish="tool_calls"))]
    await cache.keep(origin(), b"".join(said) + b"data: [DONE]\n\n", stream=True)
    assert (await shown(desk, KEY.hex())).text == 'Hm.\nlook({"at": "Paris"})'


async def test_vectors_have_no_text_and_a_long_text_is_cut() -> None:
    cache, desk = near()
    await cache.keep(origin(key(1 << 248), endpoint=EMBEDDINGS), VECTORS, stream=False)
    await cache.keep(origin(key(2 << 248)), whole("x" * 9_000), stream=False)
    assert (await shown(desk, "01")).text == ""
    assert (await shown(desk, "02")).text == "x" * TEXT_CHARACTERS


async def test_a_beginning_of_several_keys_names_them_and_an_unknown_one_none() -> None:
    cache, desk = near()
    for number in range(MOST_KEYS + 2):
        await cache.keep(origin(key(number)), whole(), stream=False)
    reply = await desk.handle(CacheCommand(1, "show", key="0000"))
    assert reply.answer is None
    assert reply.keys == tuple(key(number).hex() for number in range(MOST_KEYS))
    assert await desk.handle(CacheCommand(1, "show", key="ff")) == CacheReply(1)


@pytest.mark.parametrize(
    ("model", "older_than", "removed"),
    [
        (None, None, 3),
        ("llama", None, 2),
        ("llama3.1:8b", None, 2),
        ("other", None, 1),
        ("unknown", None, 0),
        (None, 500.0, 2),
        ("llama", 500.0, 1),
        (None, 3600.0, 0),
    ],
)
async def test_clear_chooses_by_model_and_age(model: str | None, older_than: float | None, removed: int) -> None:
    cache, desk = near()
    await cache.keep(origin(key(1)), whole(), stream=False)
    await cache.keep(origin(key(2), created=NOW - 60), whole(), stream=False)
    await cache.keep(origin(key(3), model="other"), whole(), stream=False)
    reply = await desk.handle(CacheCommand(1, "clear", model=model, older_than=older_than))
    assert reply.removed == removed
    assert cache.report().entries == 3 - removed


async def test_questions_are_answered_in_turn_and_a_bug_ends_nothing() -> None:
    cache, desk = near()
    desk._cache = object()  # type: ignore[assignment]  # what can't happen
    replies: list[CacheReply] = []
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(desk.run(replies.append))
        desk.hear(CacheCommand(1, "stats"))
        await eventually(lambda: len(replies) == 1)
        desk._cache = cache
        desk.hear(CacheCommand(2, "clear"))
        await eventually(lambda: len(replies) == 2)
        running.cancel()
    assert str(replies[0].problem).startswith("aigw met a bug: AttributeError")
    assert replies[1] == CacheReply(2, removed=0)


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_server("unix", "--maxmemory", "32mb") as made:
        yield made


@asynccontextmanager
async def far(server: RedisServer) -> AsyncIterator[tuple[Cache, CacheDesk]]:
    """A cache with a real Redis behind it, connected."""
    tier = RedisTier(server.url, STORE, now=lambda: NOW)
    cache = Cache(MemoryTier(), tier, clock=lambda: NOW)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(tier.run())
        await eventually(lambda: tier.up and tier.writable, what="the connection to Redis")
        yield cache, CacheDesk(live(server.url), cache, clock=lambda: NOW)
        running.cancel()


async def test_stats_tell_how_redis_is(server: RedisServer) -> None:
    async with far(server) as (cache, desk):
        await cache.keep(origin(), whole(), stream=False)

        await eventually(lambda: server.command("DBSIZE") == ":1", what="the answer in Redis")
        stats = (await desk.handle(CacheCommand(1, "stats"))).stats
    assert stats is not None
    assert stats.redis is not None
    assert (stats.redis.connected, stats.redis.why) == (True, None)
    assert (stats.redis.entries, stats.redis.limit) == (1, 32 * 1024**2)
    assert (stats.redis.bytes or 0) > 100_000


async def test_answers_in_redis_alone_are_shown_and_cleared(server: RedisServer) -> None:
    async with far(server) as (cache, desk):
        await cache.keep(origin(), whole("Far."), stream=False)
        await eventually(lambda: server.command("DBSIZE") == ":1", what="the answer in Redis")
        fresh = Cache(MemoryTier(), RedisTier(server.url, STORE), clock=lambda: NOW)
        other = CacheDesk(live(server.url), fresh, clock=lambda: NOW)
        assert (await shown(other, KEY.hex()[:6])).text == "Far."
        assert (await other.handle(CacheCommand(1, "clear", model="llama"))).removed == 1
        assert server.command("DBSIZE") == ":0"
        assert (await desk.handle(CacheCommand(1, "clear"))).removed == 1


async def test_a_redis_that_is_gone_is_told_and_holds_nobody_up(server: RedisServer) -> None:
    async with far(server) as (cache, desk):
        await cache.keep(origin(), whole(), stream=False)
        server.kill()
        async with asyncio.timeout(5):
            stats = (await desk.handle(CacheCommand(1, "stats"))).stats
            cleared = await desk.handle(CacheCommand(2, "clear"))
        assert stats is not None
        assert stats.redis is not None
        assert stats.redis.entries is None
        assert stats.redis.why
        assert "what the gateway's process kept is forgotten, but Redis can't be asked" in str(cleared.problem)
        assert cache.report().entries == 0
