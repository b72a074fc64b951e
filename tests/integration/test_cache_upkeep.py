"""What the operator does with answers in a real Redis: count, find and clear, also what is on its way there."""

import asyncio
import time
from collections.abc import Iterator

import pytest

from aigw_daemon.gateway.cache.cache import Cache, Question
from aigw_daemon.gateway.cache.key import Keys
from aigw_daemon.gateway.cache.memory import MemoryTier
from aigw_daemon.gateway.cache.policy import usual_terms
from aigw_daemon.gateway.cache.redis_link import Gone
from aigw_daemon.gateway.cache.redis_upkeep import RedisUpkeep
from tests.support.cached import whole, whole_answer
from tests.support.redis import RedisServer, redis_server
from tests.support.redis_tier import SPACE, STORE, answer, both_up, key, running, stored
from tests.support.wait import eventually


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


async def test_the_operator_counts_finds_and_clears_what_is_in_redis(redis: RedisServer) -> None:
    upkeep = RedisUpkeep(redis.url, STORE)
    now = time.time()
    async with running(redis.url) as tier:
        await both_up(tier)
        for number, model in enumerate(("a", "a", "b*", "b")):
            tier.store(whole_answer(key=bytes([number]) * 32, model=model, created=now - 100 * number))
        await eventually(lambda: redis.command("DBSIZE") == ":4", what="all answers stored")
    assert redis.command("SET", "of_somebody_else", "1") == "+OK"

    assert await upkeep.count() == 4
    [found] = await upkeep.find("0202", limit=10_000)
    assert (found.origin.model, await upkeep.find("*", limit=10_000)) == ("b*", [])
    assert await upkeep.clear(["a"], before=now - 50) == 1
    assert await upkeep.clear(["b*"]) == 1
    assert await upkeep.count() == 2
    assert await upkeep.clear() == 2
    assert redis.command("DBSIZE") == ":1"


async def test_a_clear_takes_what_still_waits_to_be_stored_along(redis: RedisServer) -> None:
    async with running(redis.url) as tier:
        await both_up(tier)
        cache = Cache(MemoryTier(), tier)
        for number in range(50):
            assert await cache.keep(answer(number).origin, whole(), stream=False)
        assert await cache.clear() == 50
        tier.store(answer(99))
        await eventually(lambda: redis.command("DBSIZE") == ":1", what="the one that came after the clear")
        assert await tier.find(key(99)) is not None


async def test_a_clear_of_one_model_leaves_what_waits_of_the_others(redis: RedisServer) -> None:
    async with running(redis.url) as tier:
        await both_up(tier)
        cache = Cache(MemoryTier(), tier)
        for number in range(20):
            tier.store(whole_answer(key=key(number), model="ab"[number % 2], created=time.time()))
        assert tier._waiting_bytes == 20 * len(whole())
        await cache.clear(["a"])
        await eventually(lambda: redis.command("DBSIZE") == ":10", what="those of the other model")
        assert tier._waiting_bytes == 0


async def test_a_reply_that_was_on_its_way_during_a_clear_is_no_hit(redis: RedisServer) -> None:
    async with running(redis.url) as tier, asyncio.TaskGroup() as tasks:
        await both_up(tier)
        await stored(tier, whole_answer(key=key(1), created=time.time() - 5))
        cache = Cache(MemoryTier(), tier)
        redis.pause()
        looking = tasks.create_task(cache.far(Question(key(1), SPACE, usual_terms(3600.0), "llama")))
        await eventually(lambda: tier._looks, what="the look")
        clearing = tasks.create_task(cache.clear())
        await eventually(lambda: cache.clears, what="the clear")
        redis.resume()
        assert await looking is None
        assert await clearing == 1
        assert cache.report().entries == 0


async def test_the_operator_is_told_that_redis_cannot_be_asked(redis: RedisServer) -> None:
    redis.kill()

    with pytest.raises(Gone):
        await RedisUpkeep(redis.url, STORE).count()


async def test_a_redis_that_refuses_to_remove_answers_is_not_told_as_a_clear(redis: RedisServer) -> None:
    async with running(redis.url) as tier:
        await both_up(tier)
        await stored(tier, answer(1))
        # As after a failed save, on a replica, or without the right to do so.
        assert redis.command("CONFIG", "SET", "min-replicas-to-write", "1") == "+OK"
        with pytest.raises(Gone, match="NOREPLICAS"):
            await Cache(MemoryTier(), tier).clear()


async def test_two_installations_at_one_redis_see_nothing_of_each_other(redis: RedisServer) -> None:
    other = RedisUpkeep(redis.url, Keys(b"another secret").store)
    async with running(redis.url) as tier:
        await both_up(tier)
        await stored(tier, answer(1))
        assert await other.count() == 0
        assert await other.find("", limit=10_000) == []
        assert await other.clear() == 0
        assert await tier.find(key(1)) is not None
