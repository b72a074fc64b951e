"""What a profile says of the cache: its defaults, and what can't be meant."""

import pytest

from aigw_daemon.profile.caching import Cache, redis_section
from aigw_daemon.profile.errors import ProfileError
from aigw_daemon.profile.load import parse

URL = "backends: {b: {engine: openai, url: http://127.0.0.1:1/v1}}\n"


def cache(settings: str) -> Cache:
    return parse(f"version: 1\ncache: {settings}\n", "p").cache


def problems(text: str) -> list[str]:
    with pytest.raises(ProfileError) as caught:
        parse(f"version: 1\n{text}", "p")
    return [str(problem) for problem in caught.value.problems]


def test_an_empty_section_keeps_every_answer_for_an_hour_in_this_process() -> None:
    found = cache("{}")
    assert (found.mode, found.ttl, found.redis, found.managed) == ("on", 3600, None, False)
    assert (found.memory, found.max_answer) == (64 * 1024**2, 1024**2)
    assert (found.split_by, found.fallback_answers) == ((), False)


@pytest.mark.parametrize("mode", ["on", "deterministic", "off"])
def test_modes_are_words_also_where_yaml_once_read_truth_values(mode: str) -> None:
    assert cache(f"{{mode: {mode}}}").mode == mode


@pytest.mark.parametrize(
    "url",
    [
        "redis://h:6379/0",
        "rediss://:pw@h",
        "unix:///run/redis.sock",
        "redis://${HOST}/1",
        "rediss://h/2?ssl_ca_certs=/ca.pem",
    ],
)
def test_redis_is_reached_by_each_of_its_urls(url: str) -> None:
    found = cache(f"{{redis: '{url}'}}")
    assert found.redis is not None
    assert redis_section(found) is None


def test_a_managed_redis_gets_its_memory() -> None:
    section = redis_section(cache("{redis: managed, redis_memory: 32MiB}"))
    assert section is not None
    assert (section.memory, section.always_on, section.has_port) == (32 * 1024**2, True, False)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (
            "{mode: sometimes}",
            'cache.mode: must be one of the choices, not "sometimes"',
        ),
        ("{ttl: 0}", "cache.ttl: must be longer than 0"),
        ("{redis: 'http://h'}", "cache.redis: must be a redis://, rediss:// or unix:// URL, or managed"),
        ("{redis: 'redis://h:99999'}", "cache.redis: must be a Redis URL such as redis://127.0.0.1:6379/0"),
        ("{redis: 'redis://:hush@h/one'}", "cache.redis: must end in the number of a database"),
        ("{redis: 'unix://redis.sock'}", "cache.redis: must give the socket's whole path"),
        ("{redis: 'redis://h?ssl_ca_certs=/x'}", "cache.redis: has an option that no redis:// URL knows"),
        ("{redis: 'redis://h?hush'}", "cache.redis: has an option that no redis:// URL knows"),
        ("{redis: 'unix:///s?db=one'}", "cache.redis: has a db that is no number"),
        ("{redis: 'rediss://h?ssl_cert_reqs=no'}", "cache.redis: has an ssl_cert_reqs that is none of none, optional"),
        ("{redis: managed, redis_memory: 1MiB}", "cache.redis_memory: must be 8MiB or more"),
        ("{redis_memory: 64MiB}", "cache.redis_memory: is for a Redis that aigw runs"),
        ("{redis: 'redis://h', redis_memory: 64MiB}", "cache.redis_memory: is for a Redis that aigw runs"),
        ("{split_by: [model]}", 'cache.split_by[0]: must be one of the choices, not "model"'),
        ("{memory: 4MiB}", "cache.memory: no answer takes more than an eighth of memory"),
        ("{max_answer: 9MiB}", "cache.max_answer: no answer takes more than an eighth of memory"),
        ("{red: x}", "cache.red: unknown key"),
    ],
)
def test_what_cannot_be_meant_is_told_with_its_place(settings: str, problem: str) -> None:
    (told,) = problems(f"cache: {settings}\n")
    assert told.startswith("p:2:")
    assert problem in told
    assert "hush" not in told


def test_large_answers_may_be_for_redis_alone() -> None:
    assert cache("{redis: managed, max_answer: 9MiB}").max_answer == 9 * 1024**2


def test_a_route_has_a_policy_and_a_ttl_of_its_own() -> None:
    route = parse(f"version: 1\n{URL}routes: {{r: {{targets: [b], cache: deterministic, ttl: 5m}}}}", "p").routes["r"]
    assert (route.cache, route.ttl) == ("deterministic", 300)


@pytest.mark.parametrize(
    ("route", "problem"),
    [
        ("{targets: [b], cache: 'yes'}", "routes.r.cache: must be one of the choices"),
        ("{targets: [b], cache: off, ttl: 1m}", "routes.r.ttl: has no effect with cache: off"),
        ("{targets: [b], ttl: 0s}", "routes.r.ttl: must be longer than 0"),
    ],
)
def test_a_route_says_nothing_that_has_no_effect(route: str, problem: str) -> None:
    (told,) = problems(f"{URL}routes: {{r: {route}}}")
    assert problem in told


def test_an_alias_has_the_policy_of_its_route() -> None:
    told = problems(f"{URL}routes: {{r: {{targets: [b]}}, a: {{alias: r, cache: off}}}}")
    assert any("routes.a.cache" in problem for problem in told)
