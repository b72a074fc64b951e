"""The cache with a real Redis: what it keeps there, and that no fault of Redis is a request's."""

import asyncio
import logging
import random
import time
from collections.abc import Iterator

import msgspec
import pytest

from aigw_daemon.gateway.cache import codec
from aigw_daemon.gateway.cache.cache import Cache, Question
from aigw_daemon.gateway.cache.entry import Entry
from aigw_daemon.gateway.cache.memory import MemoryTier
from aigw_daemon.gateway.cache.pace import Pace
from aigw_daemon.gateway.cache.policy import usual_terms
from aigw_daemon.gateway.cache.redis_link import OPERATION_SECONDS, Gone, Link
from aigw_daemon.gateway.cache.redis_tier import MOST_WAITING_BYTES, RedisTier
from tests.support.cached import origin, whole, whole_answer
from tests.support.redis import Kind, RedisServer, redis_server
from tests.support.redis_tier import SPACE, STORE, answer, both_up, key, running, slowed, stored
from tests.support.wait import eventually

SLACK_SECONDS = 0.15
"""What a busy machine may add to a limit of a tenth of a second."""


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


async def timed(tier: RedisTier, number: int = 1) -> tuple[Entry | None, float]:
    began = time.monotonic()
    found = await tier.find(key(number))
    return found, time.monotonic() - began


@pytest.mark.parametrize("kind", ["tcp", "unix", "tls"])
async def test_what_is_stored_is_found_again_by_another_worker(kind: Kind) -> None:
    with redis_server(kind) as server:
        async with running(server.url) as tier:
            await both_up(tier)
            await stored(tier, answer(1))
            await stored(tier, answer(2, "long " * 30_000))
        async with running(server.url) as tier:
            await both_up(tier)
            small, large = await asyncio.gather(tier.find(key(1)), tier.find(key(2)))
            missing = await tier.find(key(3))

    assert (small and small.body, missing) == (answer(1).body, None)
    assert large is not None
    assert large.body == answer(2, "long " * 30_000).body


async def test_a_certificate_that_nobody_vouches_for_is_not_trusted() -> None:
    with redis_server("tls") as server:
        async with running(server.url.partition("?")[0]) as tier:
            await eventually(lambda: tier._reads.pace.failures > 1, what="refused certificates")
            assert not tier.up


async def test_a_password_is_used() -> None:
    with redis_server("tcp", "--requirepass", "secret") as server:
        async with running(server.url.replace("://", "://:secret@")) as tier:
            await both_up(tier)
            await stored(tier, answer(1))
        async with running(server.url) as tier:
            await eventually(lambda: tier._reads.pace.failures > 1, what="refusals")
            assert not tier.up


async def test_redis_forgets_an_answer_after_its_time(redis: RedisServer) -> None:
    async with running(redis.url) as tier:
        await both_up(tier)
        entry = answer(1)
        short = msgspec.structs.replace(entry.origin, ttl=0.2)
        await stored(tier, msgspec.structs.replace(entry, origin=short))
        await eventually(lambda: redis.command("DBSIZE") == ":0", what="an empty database")

        assert await tier.find(key(1)) is None


async def test_an_answer_under_another_ones_name_is_not_believed(redis: RedisServer) -> None:
    async with running(redis.url) as tier:
        await both_up(tier)
        link = Link(redis.url, "test")
        await link.dial()
        for number, blob in ((1, codec.encode(answer(2))), (3, b"nonsense")):
            await link.ask((b"SET", STORE + key(number).hex().encode(), blob))
        await link.close()

        assert await tier.find(key(1)) is None
        assert await tier.find(key(3)) is None


async def test_a_redis_that_is_dead_at_the_start_is_one_warning_and_costs_nothing(
    redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    redis.kill()
    with caplog.at_level(logging.INFO):
        async with running(redis.url) as tier:
            await eventually(lambda: tier._reads.pace.failures >= 3, what="three failed attempts")
            found, seconds = await timed(tier)
            tier.store(answer(1))
            assert found is None
            assert seconds < OPERATION_SECONDS / 2

            redis.start()
            await both_up(tier)
            await eventually(lambda: kept(redis, 1), what="the answer that was given before")
            assert tier.counts.unstored == 0

    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 2, "one for each connection"
    assert all("is left out until it answers again" in warning for warning in warnings)


def kept(redis: RedisServer, number: int) -> int:
    """Seconds for which Redis keeps this answer; 0 if it doesn't."""
    said = redis.command("TTL", (STORE + key(number).hex().encode()).decode())
    return max(0, int((said or "").removeprefix(":")))


async def test_an_answer_that_waited_for_redis_is_kept_for_the_rest_of_its_time(redis: RedisServer) -> None:
    redis.kill()
    async with running(redis.url) as tier:
        for number, age in ((1, 3000.0), (2, 3601.0)):
            tier.store(whole_answer(key=key(number), created=time.time() - age))
        redis.start()
        await eventually(lambda: kept(redis, 1), what="the answer that was given before")
        assert 500 < kept(redis, 1) <= 600
        assert kept(redis, 2) == 0
        assert tier._waiting_bytes == 0


async def test_of_too_many_answers_that_wait_for_redis_the_latest_are_stored(redis: RedisServer) -> None:
    redis.kill()
    async with running(redis.url) as tier:
        large = "x" * 1_000_000
        for number in range(1, 21):
            tier.store(answer(number, large))
        assert tier._waiting_bytes <= MOST_WAITING_BYTES
        missing = tier.counts.unstored
        assert missing == 20 - MOST_WAITING_BYTES // len(answer(20, large).body)
        redis.start()
        await eventually(lambda: not tier._waiting, seconds=20, what="everything that waited")
        await both_up(tier)
        assert await tier.find(key(missing)) is None
        assert await tier.find(key(missing + 1)) is not None


async def test_a_clear_takes_along_what_waits_for_redis(redis: RedisServer) -> None:
    redis.kill()
    async with running(redis.url) as tier:
        tier.store(answer(1))
        with pytest.raises(Gone):
            await tier.clear(None, None)
        tier.store(answer(2))
        redis.start()
        await eventually(lambda: kept(redis, 2), what="the answer that came later")
        assert kept(redis, 1) == 0


async def test_a_clear_takes_along_what_failed_on_its_way(redis: RedisServer) -> None:
    async with running(redis.url) as tier:
        await both_up(tier)
        redis.pause()
        tier.store(answer(1))
        await eventually(tier._on_its_way.locked, what="the answer on its way")
        with pytest.raises(Gone):
            await tier.clear(None, None)
        assert not tier._waiting
        redis.resume()


async def test_an_answer_is_stored_though_its_connection_was_dead(redis: RedisServer) -> None:
    async with running(redis.url) as tier:
        await both_up(tier)
        redis.kill()
        tier.store(answer(1))
        redis.start()
        await eventually(lambda: kept(redis, 1), what="the answer")
        assert tier.counts.unstored == 0


async def test_what_this_process_keeps_is_handed_on_to_a_redis_that_comes_later(redis: RedisServer) -> None:
    cache = Cache(MemoryTier())
    told = msgspec.structs.replace(origin(key(1)), created=time.time())
    assert await cache.keep(told, whole(), stream=False)
    async with running(redis.url) as tier:
        cache.use(tier)
        await eventually(lambda: kept(redis, 1), what="the answer")


async def test_a_redis_that_stops_answering_delays_once_and_then_nothing(redis: RedisServer) -> None:
    async with running(redis.url) as tier:
        await both_up(tier)
        await stored(tier, answer(1))
        redis.pause()

        # All that are under way when it happens share the one wait.
        together = await asyncio.gather(*(timed(tier, number) for number in range(50)))
        later = [await timed(tier) for _ in range(50)]

        assert {found for found, _ in together + later} == {None}
        assert OPERATION_SECONDS * 0.9 < max(seconds for _, seconds in together) < OPERATION_SECONDS + SLACK_SECONDS
        assert sum(seconds for _, seconds in later) < OPERATION_SECONDS
        assert tier.counts.unanswered == 50

        await eventually(lambda: tier._reads.pace.open, what="an open circuit")
        redis.resume()
        await both_up(tier)
        assert await tier.find(key(1)) is not None
        assert tier._reads.pace.failures == 0


async def test_a_slow_write_holds_up_no_look(redis: RedisServer) -> None:
    async with running(redis.url) as tier:
        await both_up(tier)
        await stored(tier, answer(1))
        redis.pause()
        tier.store(answer(2, "x" * 500_000))
        await eventually(lambda: not tier._writes.up, what="a write that timed out")
        assert tier.up, "looks have a connection of their own"
        redis.resume()

        assert await tier.find(key(1)) is not None


async def test_a_redis_killed_in_the_middle_of_an_operation_is_a_miss_and_is_found_again(redis: RedisServer) -> None:
    async with running(redis.url) as tier:
        await both_up(tier)
        await stored(tier, answer(1))
        redis.pause()
        looking = asyncio.gather(*(timed(tier) for _ in range(10)))
        await asyncio.sleep(0)
        redis.kill()

        outcomes = await looking
        assert {found for found, _ in outcomes} == {None}
        assert max(seconds for _, seconds in outcomes) < OPERATION_SECONDS + SLACK_SECONDS

        redis.start()
        await both_up(tier)
        await stored(tier, answer(1))


async def test_a_restart_between_two_looks_is_no_more_than_a_miss(redis: RedisServer) -> None:
    async with running(redis.url) as tier:
        await both_up(tier)
        await stored(tier, answer(1))
        redis.kill()
        redis.start()

        found, seconds = await timed(tier)
        assert found is None
        assert seconds < SLACK_SECONDS
        await both_up(tier)
        await stored(tier, answer(2))


async def test_a_full_redis_still_gives_what_it_has(redis: RedisServer) -> None:
    async with running(redis.url, Pace) as tier:
        await both_up(tier)
        await stored(tier, answer(1))
        assert redis.command("CONFIG", "SET", "maxmemory", "1mb") == "+OK"
        for number in range(2, 20):
            tier.store(answer(number, random.Random(number).randbytes(100_000).hex()))
        await eventually(lambda: tier.counts.unstored > 0, what="a refusal")

        assert not tier.writable
        found, seconds = await timed(tier)
        assert found is not None
        assert seconds < SLACK_SECONDS

        assert redis.command("CONFIG", "SET", "maxmemory", "0") == "+OK"
        await both_up(tier)
        await stored(tier, answer(99))


class Storm:
    """Looks for tagged answers, a third of them given up at some moment on their way."""

    WORKERS = 100
    TAGS = 500
    LONGEST_PATIENCE = 0.002

    def __init__(self, tier: RedisTier) -> None:
        self._tier = tier
        self._chance = random.Random(34)
        self.wrong: list[tuple[int, Entry]] = []
        self.hits = 0
        self.given_up = 0

    async def rage(self, operations: int) -> None:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self.WORKERS):
                tasks.create_task(self._work(operations // self.WORKERS))

    async def _work(self, turns: int) -> None:
        for turn in range(turns):
            if not self._tier.up:  # one look too slow for this machine, and the connection is made anew
                await eventually(lambda: self._tier.up, what="a connection")
            patience = None if turn % 3 else self._chance.random() * self.LONGEST_PATIENCE
            try:
                async with asyncio.timeout(patience):
                    await self._look(self._chance.randrange(self.TAGS))
            except TimeoutError:
                self.given_up += 1

    async def _look(self, number: int) -> None:
        found = await self._tier.find(key(number))
        if found is not None:
            self.hits += 1
            if found.body != whole(f"{number} Paris."):
                self.wrong.append((number, found))


async def test_a_storm_of_cancels_never_crosses_a_reply(redis: RedisServer) -> None:
    """Fault 34."""
    operations = 100_000
    async with running(redis.url) as tier:
        await both_up(tier)
        for number in range(Storm.TAGS):
            tier.store(answer(number))
        await eventually(lambda: redis.command("DBSIZE") == f":{Storm.TAGS}", what="all answers stored")
        storm = Storm(tier)
        await storm.rage(operations)

    assert storm.wrong == []
    assert storm.given_up > operations / 100
    assert storm.hits > operations / 3


async def test_a_connection_that_is_cancelled_in_the_middle_is_dropped(redis: RedisServer) -> None:
    link = Link(redis.url, "test")
    await link.dial()
    redis.pause()
    async with asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(link.ask((b"GET", b"x"), seconds=10))
        await asyncio.sleep(0.01)
        asking.cancel()
    redis.resume()

    assert not link.up
    with pytest.raises(Gone, match="no connection"):
        await link.ask((b"PING",))


async def test_the_cache_answers_from_redis_what_another_process_kept(redis: RedisServer) -> None:
    question = Question(key(1), SPACE, usual_terms(3600.0), "llama")
    async with running(redis.url) as tier:
        await both_up(tier)
        first = Cache(MemoryTier(), tier)
        assert await first.keep(origin(key(1), created=time.time() - 5), whole(), stream=False)
        await eventually(lambda: redis.command("DBSIZE") == ":1", what="the answer stored")

        other = Cache(MemoryTier(), tier)
        assert other.near(question) is None
        hit = await other.far(question)
        again = other.near(question)

    assert hit is not None
    assert again is not None
    assert (hit.body, again.body) == (whole(), whole())
    assert 5 <= hit.age <= 7


async def test_an_answer_whose_time_is_over_by_this_clock_is_not_taken_from_redis(redis: RedisServer) -> None:
    def two_hours_slow() -> float:
        return time.time() - 7200

    async with running(redis.url, now=two_hours_slow) as tier:
        await both_up(tier)
        await stored(tier, whole_answer(key=key(1), created=two_hours_slow()))

        cache = Cache(MemoryTier(), tier)
        assert await cache.far(Question(key(1), SPACE, usual_terms(3600.0), "llama")) is None


async def test_while_a_new_connection_has_not_answered_nobody_waits_on_it() -> None:
    """A slow Redis makes a connection in time, and is too slow for the first question: over and over again."""
    with redis_server("tcp") as server:
        async with slowed(server.url, 0.1) as url, running(url) as tier:
            longest = 0.0
            while tier._reads.pace.failures < 3:
                _, seconds = await asyncio.wait_for(timed(tier), 10)
                longest = max(longest, seconds)
                await asyncio.sleep(0.01)  # as requests come
    assert longest < OPERATION_SECONDS + SLACK_SECONDS
