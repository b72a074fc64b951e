"""What this process keeps, what lies in a shared store, and how often a Redis that fails is tried."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigw_daemon.gateway.cache import codec
from aigw_daemon.gateway.cache.convert import in_form
from aigw_daemon.gateway.cache.memory import MemoryTier
from aigw_daemon.gateway.cache.pace import FAILURES_TO_OPEN, Pace
from aigw_daemon.gateway.cache.redis_link import shown
from aigw_daemon.gateway.cache.statistics import MOST_MODELS, OTHERS, Statistics
from tests.support.cached import KEY, streamed_answer, whole_answer
from tests.support.fake_clock import FakeClock

LIMIT = 1024 * 1024


def key(number: int) -> bytes:
    return number.to_bytes(32)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def test_an_answer_is_kept_for_its_time_and_no_longer(clock: FakeClock) -> None:
    tier = MemoryTier(clock=clock.monotonic)
    kept = tier.put(whole_answer(), 10.0)

    clock.now += 9.9
    assert tier.get(KEY) is kept
    clock.now += 0.1
    assert tier.get(KEY) is None
    assert (len(tier), tier.bytes) == (0, 0)


def test_no_time_at_all_is_not_kept() -> None:
    tier = MemoryTier()
    tier.put(whole_answer(), 0.0)

    assert len(tier) == 0


def test_the_longest_unused_answer_leaves_first() -> None:
    tier = MemoryTier(limit=20_000)
    for number in range(8):
        tier.put(whole_answer("x" * 500, key=key(number)), 60.0)
    tier.get(key(0))

    for number in range(8, 14):
        tier.put(whole_answer("x" * 500, key=key(number)), 60.0)

    assert tier.get(key(0)) is not None
    assert tier.get(key(1)) is None
    assert tier.bytes == sum(kept.size for kept in tier) <= 20_000


def test_an_answer_that_would_push_out_most_others_is_not_kept() -> None:
    tier = MemoryTier(limit=20_000)
    tier.put(whole_answer("x" * 4000), 60.0)

    assert len(tier) == 0


def test_a_new_answer_takes_the_place_of_the_old_one_in_both_forms() -> None:
    tier = MemoryTier()
    old = tier.put(whole_answer("old"), 60.0)
    tier.add_form(old, in_form(old.entry, stream=True))

    tier.put(streamed_answer("new"), 60.0)

    kept = tier.get(KEY)
    assert kept is not None
    assert list(kept.forms) == [True]
    assert tier.bytes == kept.size


def test_both_forms_of_an_answer_are_counted_once() -> None:
    tier = MemoryTier()
    kept = tier.put(whole_answer(), 60.0)
    other = in_form(kept.entry, stream=True)

    before = tier.bytes
    tier.add_form(kept, other)
    tier.add_form(kept, other)

    assert tier.bytes == before + len(other.body)
    tier.drop(KEY)
    assert tier.bytes == 0


def test_a_form_of_an_answer_that_has_left_is_not_counted() -> None:
    tier = MemoryTier()
    kept = tier.put(whole_answer(), 60.0)
    tier.drop(KEY)

    tier.add_form(kept, in_form(kept.entry, stream=True))

    assert tier.bytes == 0


def test_a_hit_says_who_had_answered_in_lines_that_nothing_breaks_out_of() -> None:
    kept = MemoryTier().put(whole_answer(backend="a\r\nb"), 60.0)

    assert kept.lines == (
        b"x-aigw-backend: a%0D%0Ab\r\nx-aigw-model: llama3.1:8b\r\nx-aigw-cache: hit\r\n"
        b"x-aigw-cache-hint: a kept answer; send x-aigw-cache: bypass for a new one\r\n"
        b"x-aigw-cache-key: " + KEY.hex().encode() + b"\r\n"
    )


@settings(deadline=None)
@given(st.binary(max_size=3000) | st.binary(max_size=10).map(lambda piece: piece * 500))
def test_what_is_stored_comes_back_as_it_was(body: bytes) -> None:
    entry = msgspec.structs.replace(streamed_answer(), body=body)

    blob = codec.encode(entry)

    assert codec.decode(blob, KEY, LIMIT) == entry
    head = codec.head(blob[: codec.HEAD_BYTES])
    assert head is not None
    assert (head.created, head.key, head.model_tag) == (entry.origin.created, KEY, codec.tag_of("llama3.1:8b"))


def test_text_is_stored_compressed_and_what_does_not_get_smaller_is_not() -> None:
    text = whole_answer("the same again and again " * 200)

    assert len(codec.encode(text)) < len(text.body) / 5
    assert len(codec.encode(whole_answer())) > len(whole_answer().body)


@pytest.mark.parametrize("content", ["short", "long " * 1000], ids=["plain", "compressed"])
def test_an_answer_of_another_key_is_never_taken(content: str) -> None:
    blob = codec.encode(whole_answer(content))
    swapped = blob[:8] + key(7) + blob[8 + 32 :]

    assert codec.decode(blob, key(7), LIMIT) is None
    assert codec.decode(swapped, key(7), LIMIT) is None
    assert codec.decode(swapped, KEY, LIMIT) is None


@settings(deadline=None)
@given(st.data())
def test_bytes_that_were_damaged_are_nothing_or_the_answer_but_no_error(data: st.DataObject) -> None:
    blob = bytearray(codec.encode(whole_answer("long " * data.draw(st.sampled_from([1, 300])))))
    place = data.draw(st.integers(0, len(blob) - 1))
    blob[place] ^= data.draw(st.integers(1, 255))

    found = codec.decode(bytes(blob[: data.draw(st.integers(0, len(blob)))]), KEY, LIMIT)

    assert found is None or found.origin.key == KEY


def test_a_few_bytes_do_not_unfold_into_more_than_the_limit() -> None:
    blob = codec.encode(whole_answer("x" * 500_000))

    assert len(blob) < 2000
    assert codec.decode(blob, KEY, 400_000) is None


def test_a_content_type_that_would_be_more_than_a_header_line_is_not_taken() -> None:
    entry = msgspec.structs.replace(whole_answer(), content_type="text/plain\r\nset-cookie: a=b")

    assert codec.decode(codec.encode(entry), KEY, LIMIT) is None


def test_only_a_whole_head_says_anything() -> None:
    blob = codec.encode(whole_answer())

    assert [codec.head(blob[:size]) for size in (0, codec.HEAD_BYTES - 1)] == [None, None]


def test_what_is_past_its_time_is_counted_no_more_after_a_purge() -> None:
    clock = FakeClock()
    tier = MemoryTier(clock=clock.monotonic)
    tier.put(whole_answer(key=key(1)), 10.0)
    tier.put(whole_answer(key=key(2)), 20.0)
    clock.now += 15

    tier.purge()

    assert [kept.entry.origin.key for kept in tier] == [key(2)]
    assert tier.bytes == len(whole_answer().body) + 1024


def test_a_redis_that_fails_is_tried_soon_and_then_once_a_minute() -> None:
    pace = Pace(random=lambda: 0.5)
    pauses = []
    for _ in range(FAILURES_TO_OPEN + 2):
        pauses.append(pace.pause())
        pace.failed()

    assert pauses == [0.0, 0.5, 1.0, 2.0, 4.0, 60.0, 60.0]
    assert pace.open
    pace.succeeded()
    assert (pace.open, pace.pause()) == (False, 0.0)


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("redis://:secret@cache.lan:7000/1", "cache.lan:7000"),
        ("rediss://user:secret@cache.lan", "cache.lan:6379"),
        ("redis://", "localhost:6379"),
        ("unix:///run/redis.sock?password=secret", "/run/redis.sock"),
    ],
)
def test_a_redis_is_named_without_its_secrets(url: str, where: str) -> None:
    assert shown(url) == where


def test_models_are_counted_apart_up_to_a_bound() -> None:
    statistics = Statistics()
    for number in range(MOST_MODELS + 5):
        statistics.of(f"m{number}").hits += 1
    statistics.of("m0").hits += 1

    counts = statistics.all()
    assert counts["m0"].hits == 2
    assert counts[OTHERS].hits == 5
    assert len(counts) == MOST_MODELS + 1
