"""The cache as the gateway uses it, in this process alone."""

from typing import Any

import msgspec
import pytest

from aigw_daemon.gateway.cache import cache as cache_module
from aigw_daemon.gateway.cache.cache import Cache, Hit, Question
from aigw_daemon.gateway.cache.events import DONE_EVENT
from aigw_daemon.gateway.cache.key import KeySpace
from aigw_daemon.gateway.cache.memory import MemoryTier
from aigw_daemon.gateway.cache.policy import Terms, usual_terms
from aigw_daemon.link.caching import CacheCounts
from aigw_daemon.link.messages import CHAT
from tests.support.cached import KEY, USAGE_EVENT, origin, stream, whole
from tests.support.fake_clock import FakeClock

SPACE = KeySpace(CHAT, "ollama", "llama3.1:8b")
USUAL = usual_terms(3600.0)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def cache(clock: FakeClock) -> Cache:
    return Cache(MemoryTier(clock=clock.monotonic), clock=clock.time)


def asked(terms: Terms = USUAL, **fields: Any) -> Question:
    return Question(KEY, SPACE, terms, "llama", **fields)


async def keep(cache: Cache, clock: FakeClock, body: bytes, *, streamed: bool = False) -> bool:
    return await cache.keep(origin(created=clock.time()), body, stream=streamed)


def body_of(hit: Hit | None) -> bytes:
    assert hit is not None
    return hit.body


async def test_an_answer_that_was_kept_is_a_hit_with_its_age(cache: Cache, clock: FakeClock) -> None:
    assert cache.near(asked()) is None
    assert await cache.far(asked()) is None
    assert await keep(cache, clock, whole())

    clock.now += 12.7
    hit = cache.near(asked())

    assert hit is not None
    assert (hit.body, hit.entry.content_type, hit.age) == (whole(), "application/json", 12)
    assert b"x-aigw-cache: hit\r\n" in hit.lines


async def test_an_answer_that_may_not_be_kept_is_not(cache: Cache, clock: FakeClock) -> None:
    assert not await keep(cache, clock, whole(finish="length"))

    assert cache.near(asked()) is None
    assert cache.report().entries == 0


@pytest.mark.parametrize("models", [None, ["llama3.1:8b"]])
async def test_what_was_on_its_way_when_answers_were_cleared_is_not_kept(
    cache: Cache, clock: FakeClock, models: list[str] | None
) -> None:
    asked_before = cache.clears
    await cache.clear(models)
    clock.now -= 3600  # a clock that is set back must not make a clear last

    assert not await cache.keep(origin(created=clock.time()), whole(), stream=False, clears=asked_before)
    assert await cache.keep(origin(created=clock.time()), whole(), stream=False, clears=cache.clears)


async def test_what_is_on_its_way_is_younger_than_any_age_that_is_cleared(cache: Cache, clock: FakeClock) -> None:
    asked_before = cache.clears
    await cache.clear(before=clock.time() - 60)

    assert await cache.keep(origin(created=clock.time()), whole(), stream=False, clears=asked_before)


async def test_each_form_is_answered_from_the_other_one(cache: Cache, clock: FakeClock) -> None:
    await keep(cache, clock, whole("Paris."))
    streamed = body_of(cache.near(asked(stream=True)))
    assert b'"content":"Paris."' in streamed
    assert streamed.endswith(DONE_EVENT)

    await keep(cache, clock, stream("Rome."), streamed=True)
    answer = msgspec.json.decode(body_of(cache.near(asked())))
    assert answer["choices"][0]["message"]["content"] == "Rome."


async def test_a_stream_comes_back_event_for_event(cache: Cache, clock: FakeClock) -> None:
    await keep(cache, clock, stream(), streamed=True)

    assert body_of(cache.near(asked(stream=True, usage=True))) == stream()
    assert body_of(cache.near(asked(stream=True))) == stream().replace(USAGE_EVENT, b"")


async def test_a_long_answer_changes_its_form_away_from_the_loop(cache: Cache, clock: FakeClock) -> None:
    long = whole("x" * cache_module.THREAD_BYTES)
    await keep(cache, clock, long)

    assert cache.near(asked(stream=True)) is None
    streamed = body_of(await cache.far(asked(stream=True)))

    assert cache.near(asked(stream=True)) is not None
    assert len(streamed) > cache_module.THREAD_BYTES


async def test_a_request_for_something_fresh_gets_no_hit(cache: Cache, clock: FakeClock) -> None:
    await keep(cache, clock, whole())
    fresh = asked(msgspec.structs.replace(USUAL, look_up=False))

    assert cache.near(fresh) is None
    assert await cache.far(fresh) is None


async def test_an_answer_older_than_a_request_will_take_is_no_hit(cache: Cache, clock: FakeClock) -> None:
    await keep(cache, clock, whole())
    young = asked(msgspec.structs.replace(USUAL, max_age=5.0))

    clock.now += 5
    assert cache.near(young) is not None
    clock.now += 1
    assert cache.near(young) is None
    assert await cache.far(young) is None
    assert cache.near(asked()) is not None


async def test_a_clock_that_went_back_makes_no_negative_age(cache: Cache, clock: FakeClock) -> None:
    await cache.keep(origin(created=clock.time() + 100), whole(), stream=False)

    hit = cache.near(asked())
    assert hit is not None
    assert hit.age == 0


async def test_what_was_saved_is_counted_for_each_model(cache: Cache, clock: FakeClock) -> None:
    cache.missed(asked())
    await keep(cache, clock, whole())
    cache.near(asked())
    await cache.far(asked())
    cache.coalesced(asked())

    assert cache.report().models == {
        "llama": CacheCounts(
            hits=2, misses=1, coalesced=1, stored=1, stored_bytes=len(whole()), saved_tokens=20, saved_seconds=5.0
        )
    }


async def test_the_operator_finds_and_clears_by_key_model_and_age(cache: Cache, clock: FakeClock) -> None:
    keys = [bytes([number]) * 32 for number in range(3)]
    for number, model in enumerate(("a", "a", "b")):
        await cache.keep(origin(keys[number], model=model, created=clock.time() + number), whole(), stream=False)

    [found] = await cache.find("0101")
    assert found.origin.key == keys[1]
    assert len(await cache.find("")) == 3
    assert await cache.clear(["a"], before=clock.time() + 1) == 1
    assert await cache.clear(["b"]) == 1
    assert await cache.find("01") == [found]
    assert await cache.clear() == 1
    assert (cache.report().entries, cache.report().bytes) == (0, 0)
