"""What the cache may do for a request: what the route says, and what the request asks."""

from typing import Any

import pytest

from aigw_daemon.gateway.cache.policy import (
    CacheField,
    Terms,
    directives,
    is_deterministic,
    parse_field,
    terms,
    usual_terms,
)
from aigw_daemon.gateway.wire import ApiError
from aigw_daemon.link.messages import CHAT, COMPLETIONS, EMBEDDINGS, RERANK, ParamsView

USUAL = usual_terms(60.0)
MISS = Terms(look_up=True, store=True, ttl=60.0, max_age=None, word="miss")


def asked(header: str | None = None, **options: Any) -> Terms:
    return terms(USUAL, cache_control=header, **options)


def changed(**fields: Any) -> Terms:
    usual: dict[str, Any] = {"look_up": True, "store": True, "ttl": 60.0, "max_age": None, "word": "miss"}
    return Terms(**{**usual, **fields})


FRESH = changed(look_up=False, word="bypass")


def test_a_route_without_time_to_keep_answers_keeps_none() -> None:
    assert usual_terms(3600.0) == changed(ttl=3600.0)
    assert usual_terms(0.0) == changed(ttl=0.0, store=False)


def test_nothing_asked_is_the_routes_own() -> None:
    assert asked() == USUAL == MISS


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("no-cache", FRESH),
        ("No-Cache", FRESH),
        ("no-store", changed(store=False)),
        ("no-cache, no-store", changed(look_up=False, store=False, word="bypass")),
        ("max-age=5", changed(max_age=5.0)),
        ('max-age="5"', changed(max_age=5.0)),
        ("max-age=0", changed(look_up=False, max_age=0.0, word="bypass")),
        ("max-age=5, max-age=9", changed(max_age=5.0)),
        (" , max-age = 7 ,", changed(max_age=7.0)),
    ],
)
def test_cache_control_is_obeyed(header: str, expected: Terms) -> None:
    assert asked(header) == expected


@pytest.mark.parametrize(
    "header",
    ["", "max-age", "max-age=", "max-age=-1", "max-age=soon", "max-age=1.5", "max-age=\u0665", "private", "=,;"],
)
def test_cache_control_that_makes_no_sense_is_ignored(header: str) -> None:
    assert asked(header) == MISS


def test_of_a_directive_that_comes_twice_the_first_counts() -> None:
    assert directives("max-age=1, MAX-AGE=2, no-store") == {"max-age": "1", "no-store": ""}


def test_bypass_neither_looks_nor_stores() -> None:
    assert asked(bypass=" Bypass ") == changed(look_up=False, store=False, word="bypass")


def test_an_unknown_word_for_us_is_refused_with_the_one_that_we_know() -> None:
    with pytest.raises(ApiError, match="x-aigw-cache can only be bypass, not 'off'") as refusal:
        asked(bypass="off")

    assert refusal.value.status == 400


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        (b"null", MISS),
        (b"{}", MISS),
        (b'{"no-cache":true}', FRESH),
        (b'{"no-cache":false,"no-store":null}', MISS),
        (b'{"no-store":true}', changed(store=False)),
        (b'{"ttl":5}', changed(ttl=5.0)),
        (b'{"ttl":0}', changed(ttl=0.0, store=False)),
        (b'{"s-maxage":2.5}', changed(max_age=2.5)),
    ],
)
def test_the_bodys_own_field_is_obeyed(field: bytes, expected: Terms) -> None:
    assert asked(field=parse_field(field)) == expected


@pytest.mark.parametrize(
    ("field", "said"),
    [
        (b'{"nocache":true}', "unknown field `nocache`"),
        (b'{"no-cache":"yes"}', "Expected `bool | null`, got `str` - at `$.no-cache`"),
        (b'{"ttl":-1}', "ttl must be from 0 to 2592000, not -1"),
        (b'{"s-maxage":1e9}', "s-maxage must be from 0 to 2592000, not 1e+09"),
        (b'{"ttl":"1h"}', "got `str`"),
        (b"true", "got `bool`"),
        (b"[]", "got `array`"),
    ],
)
def test_a_mistake_in_the_bodys_field_is_refused_with_its_choices(field: bytes, said: str) -> None:
    with pytest.raises(ApiError) as refusal:
        parse_field(field)

    assert refusal.value.status == 400
    assert refusal.value.param == "cache"
    assert said in refusal.value.message
    assert "no-cache and no-store (true or false), ttl and s-maxage (seconds)" in refusal.value.message


def test_of_two_wishes_the_strictest_holds() -> None:
    field = CacheField(no_store=True, s_maxage=9.0)

    assert asked("max-age=5", field=field) == changed(store=False, max_age=5.0)
    assert asked("max-age=99, no-cache", field=field) == changed(look_up=False, store=False, max_age=9.0, word="bypass")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"{}", False),
        (b'{"temperature":0}', True),
        (b'{"temperature":0.0}', True),
        (b'{"temperature":0.1}', False),
        (b'{"temperature":null}', False),
        (b'{"temperature":false}', False),
        (b'{"temperature":"0"}', False),
        (b'{"seed":0,"temperature":0.7}', True),
        (b'{"seed":42}', True),
        (b'{"seed":-1}', False),
        (b'{"seed":4294967295}', False),
        (b"nonsense", False),
    ],
)
def test_temperature_0_and_a_seed_are_deterministic(body: bytes, expected: bool) -> None:
    assert is_deterministic(CHAT, body) is expected
    assert is_deterministic(COMPLETIONS, body) is expected


def test_embeddings_and_rerank_leave_nothing_to_chance() -> None:
    assert is_deterministic(EMBEDDINGS, b"{}")
    assert is_deterministic(RERANK, b"{}")


def test_deterministic_is_what_the_route_makes_of_a_request() -> None:
    assert is_deterministic(CHAT, b"{}", ParamsView(defaults={"temperature": b"0"}))
    assert not is_deterministic(CHAT, b'{"temperature":0}', ParamsView(override={"temperature": b"1"}))
