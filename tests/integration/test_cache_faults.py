"""A real Redis that hangs, dies, fills up and comes back under traffic: nobody waits for it, and no answer is wrong.

The gateway's own memory for answers holds none here, so that each hit comes from Redis.
"""

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from aigw_daemon.gateway.cache.redis_link import OPERATION_SECONDS
from aigw_daemon.gateway.cache.redis_tier import RedisTier
from aigw_daemon.link.caching import CacheCommand
from aigw_daemon.link.messages import CacheView, Secret, Snapshot
from tests.support.fake_engine import CHAT_ANSWER, EngineRequest, FakeEngine, fake_engine, says, whole
from tests.support.gateway import backend, route, snapshot
from tests.support.local_gateway import Answer, LocalGateway, local_gateway
from tests.support.redis import RedisServer, redis_server
from tests.support.wait import eventually

SECRET = Secret("ab" * 32)
SLACK_SECONDS = 0.2
"""What a busy machine may add to the tenth of a second, its engine's answer included."""


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with redis_server("tcp") as server:
        yield server


@pytest.fixture
async def engine() -> AsyncIterator[FakeEngine]:
    async with fake_engine(says_what_was_asked) as running:
        yield running


@pytest.fixture
async def gateway(engine: FakeEngine, redis: RedisServer) -> AsyncIterator[LocalGateway]:
    async with serving(engine, redis) as running:
        yield running


async def says_what_was_asked(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
    """An answer that names its question."""
    writer.write(whole(named(request.json["seed"])))


def named(seed: object) -> bytes:
    return CHAT_ANSWER.replace(b"Hi", f"answer {seed}".encode())


def over(engine: FakeEngine, redis: RedisServer, memory: int = 1024) -> Snapshot:
    cache = CacheView(memory=memory, redis=Secret(redis.url), secret=SECRET)
    return snapshot(backend("one", engine.port), cache=cache)


@asynccontextmanager
async def serving(engine: FakeEngine, redis: RedisServer, memory: int = 1024) -> AsyncIterator[LocalGateway]:
    async with local_gateway(over(engine, redis, memory)) as running:
        await connected(running)
        yield running


def tier(gateway: LocalGateway) -> RedisTier:
    found = gateway.gateway.cached.cache.redis
    assert found is not None
    return found


async def connected(gateway: LocalGateway) -> None:
    cached = gateway.gateway.cached
    await eventually(lambda: cached.cache.redis is not None and cached.cache.redis.up, what="looks", seconds=20)
    await eventually(lambda: tier(gateway).writable, what="writes", seconds=20)


async def ask(gateway: LocalGateway, seed: int, *lines: str) -> str:
    """What the cache had to do with an answer, which is the right one."""
    answer: Answer = await gateway.ask(msgspec.json.encode({"model": "m", "messages": [], "seed": seed}), *lines)
    assert (answer[0], answer[2]) == (200, named(seed))
    return answer[1][b"x-aigw-cache"].decode()


async def timed(gateway: LocalGateway, seed: int) -> tuple[str, float]:
    began = time.monotonic()
    return await ask(gateway, seed), time.monotonic() - began


async def kept(gateway: LocalGateway, redis: RedisServer, count: int) -> None:
    """Ask so many questions and wait until Redis has their answers."""
    for seed in range(count):
        await ask(gateway, seed)
    await holds(redis, count)


async def holds(redis: RedisServer, count: int) -> None:
    """Wait until Redis has so many answers."""
    await eventually(lambda: redis.command("DBSIZE") == f":{count}", what=f"{count} answers in Redis")


async def is_hit_again(gateway: LocalGateway, seed: int) -> None:
    """Ask until it is: an answer is stored beside its request, which is told to nobody."""
    async with asyncio.timeout(20):
        while await ask(gateway, seed) != "hit":  # noqa: ASYNC110  only an answer tells
            await asyncio.sleep(0.05)


async def test_what_is_in_redis_is_a_hit_for_the_next_gateway(engine: FakeEngine, redis: RedisServer) -> None:
    async with serving(engine, redis) as gateway:
        await kept(gateway, redis, 3)
        assert [await ask(gateway, seed) for seed in range(3)] == ["hit"] * 3
    async with serving(engine, redis) as gateway:
        assert [await ask(gateway, seed) for seed in range(4)] == ["hit"] * 3 + ["miss"]
    assert len(engine.requests) == 4


@pytest.mark.parametrize("how", ["balance", "fallback_answers"])
async def test_an_answer_of_another_one_that_counts_as_the_first_ones_is_found_in_redis(
    redis: RedisServer, first: FakeEngine, second: FakeEngine, how: str
) -> None:
    views = (backend("one", first.port), backend("two", second.port, models=["m2"]))
    targets = route("m", ("one", "m"), ("two", "m2"))
    if how == "balance":
        targets = msgspec.structs.replace(targets, balance="weighted")
        first.behaviour = second.behaviour = says_what_was_asked
    else:
        first.behaviour, second.behaviour = says(whole(b"{}", 500)), says_what_was_asked
    cache = CacheView(memory=1024, redis=Secret(redis.url), secret=SECRET, fallback_answers=how == "fallback_answers")
    async with local_gateway(snapshot(*views, routes=[targets], cache=cache)) as gateway:
        await connected(gateway)
        for seed in range(12):
            assert await ask(gateway, seed) == "miss"
            await holds(redis, seed + 1)
            assert await ask(gateway, seed) == "hit"
        assert second.requests, "the other one answered, too"


async def test_a_kept_answer_is_shown_though_redis_is_away(engine: FakeEngine, redis: RedisServer) -> None:
    async with serving(engine, redis, memory=1024 * 1024) as gateway:
        asked = msgspec.json.encode({"model": "m", "messages": [], "seed": 1})
        key = (await gateway.ask(asked))[1][b"x-aigw-cache-key"].decode()
        redis.kill()
        reply = await gateway.gateway.cache_desk.handle(CacheCommand(1, "show", key=key))
        assert reply.answer is not None
        assert reply.answer.key == key
        other = "1" if key.startswith("0") else "0"
        missing = await gateway.gateway.cache_desk.handle(CacheCommand(2, "show", key=other))
        assert "Redis can't be asked" in str(missing.problem)


async def test_a_redis_that_hangs_delays_once_and_then_nothing(gateway: LocalGateway, redis: RedisServer) -> None:
    """Fault 33: slow."""
    await kept(gateway, redis, 5)
    redis.pause()
    together = await asyncio.gather(*(timed(gateway, seed) for seed in range(20)))
    later = [await timed(gateway, seed) for seed in range(20, 40)]
    redis.resume()
    assert {word for word, _ in together + later} <= {"miss", "coalesced"}
    assert OPERATION_SECONDS * 0.9 < max(seconds for _, seconds in together) < OPERATION_SECONDS + SLACK_SECONDS
    assert sorted(seconds for _, seconds in later)[10] < OPERATION_SECONDS / 2, "nobody else waits"
    await connected(gateway)
    await is_hit_again(gateway, 0)


async def test_a_redis_killed_and_restarted_under_load_costs_hits_and_nothing_else(
    gateway: LocalGateway, redis: RedisServer
) -> None:
    """Fault 33: killed in mid-operation, restarted empty."""
    over_now, chance = asyncio.Event(), random.Random(33)
    slowest, words = 0.0, set[str]()

    async def load() -> None:
        nonlocal slowest
        while not over_now.is_set():
            word, seconds = await timed(gateway, chance.randrange(50))
            slowest = max(slowest, seconds)
            words.add(word)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(8):
            tasks.create_task(load())
        await eventually(lambda: "hit" in words, what="hits")
        for _ in range(3):
            redis.kill()
            await eventually(lambda: not tier(gateway).up, what="a connection that is gone")
            redis.start()
            await connected(gateway)
            words.clear()
            await eventually(lambda: "hit" in words, what="hits again")
        over_now.set()
    assert slowest < OPERATION_SECONDS + 2 * SLACK_SECONDS


async def test_a_full_redis_gives_what_it_has_and_takes_no_more(gateway: LocalGateway, redis: RedisServer) -> None:
    await kept(gateway, redis, 3)
    assert redis.command("CONFIG", "SET", "maxmemory", "1mb") == "+OK"
    for seed in itertools.count(100):
        await ask(gateway, seed)
        if tier(gateway).counts.unstored:
            break
    assert [await ask(gateway, seed) for seed in range(3)] == ["hit"] * 3
    assert redis.command("CONFIG", "SET", "maxmemory", "0") == "+OK"
    await connected(gateway)
    await is_hit_again(gateway, 7)


async def test_a_redis_that_is_dead_at_the_start_is_found_when_it_comes(engine: FakeEngine, redis: RedisServer) -> None:
    redis.kill()
    async with local_gateway(over(engine, redis)) as gateway:
        words = [await timed(gateway, seed) for seed in (1, 2, 1)]
        assert [word for word, _ in words] == ["miss"] * 3
        assert max(seconds for _, seconds in words) < SLACK_SECONDS
        redis.start()
        await connected(gateway)
        await is_hit_again(gateway, 1)


async def test_answers_given_before_redis_was_there_are_handed_on(engine: FakeEngine, redis: RedisServer) -> None:
    redis.kill()
    async with local_gateway(over(engine, redis, memory=1_000_000)) as gateway:
        assert await ask(gateway, 1) == "miss"
        await eventually(lambda: gateway.gateway.cached.cache.redis is not None, what="Redis's client")
        assert await ask(gateway, 2) == "miss"
        redis.start()
        await holds(redis, 2)
    async with serving(engine, redis) as gateway:
        assert [await ask(gateway, seed) for seed in (1, 2)] == ["hit"] * 2
    assert len(engine.requests) == 2


async def test_two_api_keys_share_no_answer_in_redis(gateway: LocalGateway, redis: RedisServer) -> None:
    """Fault 36."""
    lines = [f"authorization: Bearer {key}" for key in ("anna", "bert")]
    assert [await ask(gateway, 1, line) for line in lines] == ["miss", "miss"]
    await eventually(lambda: redis.command("DBSIZE") == ":2", what="both answers in Redis")
    assert [await ask(gateway, 1, line) for line in (*lines, "x-api-key: carl")] == ["hit", "hit", "miss"]
    assert await ask(gateway, 1) == "miss"


async def test_a_hundred_equal_misses_make_one_call_with_redis_too(engine: FakeEngine, redis: RedisServer) -> None:
    """Fault 35: also where the answer comes while others still wait for Redis to say that it has none."""
    async with serving(engine, redis, memory=1_000_000) as gateway:
        for seed in range(10):
            before = len(engine.requests)
            words = await asyncio.gather(*(ask(gateway, seed) for _ in range(100)))
            assert (len(engine.requests) - before, words.count("miss")) == (1, 1)


async def test_a_storm_of_clients_that_leave_gets_no_answer_to_another_question(
    gateway: LocalGateway, redis: RedisServer
) -> None:
    """Fault 34, through the whole gateway; with the tier alone it is in `test_cache_redis`."""
    chance, words = random.Random(34), list[str]()
    await kept(gateway, redis, 50)

    async def client() -> None:
        for _ in range(60):
            try:
                async with asyncio.timeout(chance.choice((None, 0.003, 0.01))):
                    words.append(await ask(gateway, chance.randrange(50)))
            except TimeoutError:
                pass  # it has left

    async with asyncio.TaskGroup() as tasks:
        for _ in range(50):
            tasks.create_task(client())
    assert words.count("hit") > 300
    cached = gateway.gateway.cached
    await eventually(lambda: not cached._flights and not cached._accounts, what="the end of all calls")
