"""What the worker is told of the cache, what the operator sees of it, and what comes of the operator's questions."""

import stat
from collections.abc import Iterator
from dataclasses import replace
from typing import cast

import pytest

from aigw_daemon.control.cache_operations import CacheOperations
from aigw_daemon.control.cache_schema import CacheClear
from aigw_daemon.control.caching import cache_status, cache_view, managed_url
from aigw_daemon.control.problems import Refusal
from aigw_daemon.control.snapshots import snapshot
from aigw_daemon.gatekeeper.gatekeeper import Gatekeeper
from aigw_daemon.gatekeeper.questions import NoAnswer
from aigw_daemon.home import Home
from aigw_daemon.link.caching import (
    CacheCommand,
    CacheCounts,
    CacheReply,
    CacheStats,
    KeptAnswer,
    MemoryView,
    RedisView,
)
from aigw_daemon.link.messages import CacheView, Secret
from aigw_daemon.profile.caching import Cache
from aigw_daemon.profile.load import parse
from aigw_daemon.supervisor.backend import BackendReport
from aigw_daemon.supervisor.supervisor import Supervisor
from aigw_daemon.words import EngineKind, State
from tests.support.supervision import fresh_home

MANAGED = "{redis: managed}"
KEPT = KeptAnswer("00ff", "llama", "ollama", "llama3.1:8b", "chat/completions", 1.0, 2.5, 60.0, False, 99, "Paris.")


@pytest.fixture
def home() -> Iterator[Home]:
    with fresh_home() as made:
        yield made


def cache(settings: str) -> Cache:
    return parse(f"version: 1\ncache: {settings}\n", "p").cache


def redis(state: State) -> BackendReport:
    return BackendReport("redis", EngineKind.REDIS, state, since=0, since_s=0, wanted=True, attached=False, pid=9)


def view(home: Home, settings: str, *, before: CacheView | None = None, state: State | None = None) -> CacheView:
    report = redis(state) if state is not None else None
    return cache_view(cache(settings), redis=report, before=before or CacheView(), home=home, env={"PW": "hush"})


def test_everything_that_the_profile_says_reaches_the_worker(home: Home) -> None:
    settings = (
        "{mode: deterministic, ttl: 5m, memory: 10MiB, max_answer: 100kB, split_by: [user], fallback_answers: true}"
    )
    before = CacheView(secret=Secret("s"))
    assert view(home, settings, before=before) == CacheView(
        mode="deterministic",
        ttl=300.0,
        memory=10 * 1024**2,
        max_answer=100_000,
        split_by=("user",),
        fallback_answers=True,
        secret=Secret("s"),
    )


def test_a_foreign_redis_is_told_with_its_password_which_nothing_prints(home: Home) -> None:
    told = view(home, "{redis: 'rediss://:${PW}@cache.lan/1'}")
    assert told.redis == Secret("rediss://:hush@cache.lan/1")
    assert "hush" not in repr(told)


@pytest.mark.parametrize("settings", ["{redis: 'redis://${UNSET}'}", "{redis: 'redis://h:${PW}'}"])
def test_a_url_that_cannot_be_used_leaves_the_cache_in_its_process_and_is_told(home: Home, settings: str) -> None:
    assert view(home, settings).redis is None
    shown = cache_status(cache(settings), redis=None, home=home, env={"PW": "hush"}).redis
    assert shown is not None
    assert shown.where == ""
    assert shown.warnings[1] == "answers are kept in the gateway's process alone meanwhile"
    assert "UNSET is not set" in shown.warnings[0] or "what the environment has as PW" in shown.warnings[0]
    assert "hush" not in str(shown)


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ("{redis: 'rediss://me:${PW}@cache.lan/1?ssl_ca_certs=/x'}", "rediss://cache.lan:6379"),
        ("{redis: 'unix:///run/redis.sock?db=1'}", "/run/redis.sock"),
    ],
)
def test_a_foreign_redis_is_shown_by_its_place_alone(home: Home, settings: str, where: str) -> None:
    shown = cache_status(cache(settings), redis=None, home=home, env={"PW": "hush"}).redis
    assert shown is not None
    assert (shown.where, shown.server, shown.warnings) == (where, None, [])


@pytest.mark.parametrize(
    ("state", "known", "told"),
    [
        (State.READY, False, True),
        (State.DEGRADED, False, True),
        (State.STARTING, False, False),
        (State.STARTING, True, True),
        (State.BACKOFF, True, True),
        (State.STOPPING, True, True),
        (State.STOPPED, True, False),
        (State.FAILED, True, False),
        (None, True, False),
    ],
)
def test_a_managed_redis_keeps_its_place_while_it_restarts(
    home: Home, state: State | None, known: bool, told: bool
) -> None:
    before = CacheView(redis=Secret(managed_url(home)) if known else None)
    found = view(home, MANAGED, before=before, state=state).redis
    assert found == (Secret(managed_url(home)) if told else None)


def test_another_redis_before_says_nothing_of_the_managed_one(home: Home) -> None:
    before = CacheView(redis=Secret("redis://elsewhere"))
    assert view(home, MANAGED, before=before, state=State.STARTING).redis is None


def test_a_managed_redis_is_shown_with_its_process(home: Home) -> None:
    shown = cache_status(cache(MANAGED), redis=redis(State.READY), home=home, env={})
    assert (shown.mode, shown.ttl_s) == ("on", 3600)
    assert shown.redis is not None
    assert shown.redis.server is not None
    assert (shown.redis.where, shown.redis.server.pid) == (str(home.redis_socket), 9)
    assert shown.redis.warnings == []


def test_routes_say_what_is_kept_of_theirs_and_aliases_follow(home: Home) -> None:
    text = (
        "version: 1\nbackends: {b: {engine: openai, url: http://127.0.0.1:1/v1}}\n"
        "routes: {r: {targets: [b], cache: deterministic, ttl: 1m}, a: {alias: r}, q: {targets: [b]}}\n"
    )
    told = snapshot(parse(text, "p"), [], 1, view(home, "{ttl: 5m}"))
    assert {route.name: (route.cache, route.cache_ttl) for route in told.routes} == {
        "r": ("deterministic", 60.0),
        "a": ("deterministic", 60.0),
        "q": (None, None),
    }
    assert told.cache.ttl == 300.0


class Worker:
    """Stands in for the gatekeeper: one worker that says what it was given to say."""

    def __init__(self, reply: CacheReply | NoAnswer) -> None:
        self.reply = reply
        self.asked: list[CacheCommand] = []

    async def ask(self, command: CacheCommand, seconds: float) -> CacheReply:
        self.asked.append(command)
        if isinstance(self.reply, NoAnswer):
            raise self.reply
        return self.reply


class Runs:
    """Stands in for a supervisor: it runs this Redis, or none."""

    def __init__(self, report: BackendReport | None) -> None:
        self._report = report

    def redis(self) -> BackendReport | None:
        return self._report


def operations(
    home: Home, reply: CacheReply | NoAnswer, server: BackendReport | None = None
) -> tuple[CacheOperations, Worker]:
    worker = Worker(reply)
    return CacheOperations(home, cast(Supervisor, Runs(server)), cast(Gatekeeper, worker), {}), worker


def test_the_secret_is_made_once_and_is_for_its_owner_only(home: Home) -> None:
    first, _ = operations(home, CacheReply(1))
    secret = first.view(cache("{}"), CacheView()).secret
    assert secret is not None
    assert len(bytes.fromhex(secret.value)) == 32
    assert stat.S_IMODE((home.state / "cache.secret").stat().st_mode) == 0o600
    later, _ = operations(home, CacheReply(1))
    assert later.view(cache("{}"), CacheView()).secret == secret


def test_without_a_place_for_the_secret_the_worker_makes_its_own(home: Home) -> None:
    (home.state / "cache.secret").mkdir()
    made, _ = operations(home, CacheReply(1))
    assert made.view(cache("{}"), CacheView()).secret is None


async def test_stats_add_models_up_and_put_the_busiest_first(home: Home) -> None:
    few, many = CacheCounts(hits=1, saved_seconds=0.5), CacheCounts(hits=2, misses=2, coalesced=4, saved_seconds=1.0)
    tiers = MemoryView(3, 300, 3000), RedisView("/s", connected=False, why="it is down")
    made, _ = operations(home, CacheReply(1, stats=CacheStats(5.0, tiers[0], {"few": few, "many": many}, tiers[1])))
    told = await made.stats(cache(MANAGED))
    assert [(model.model, model.hit_rate) for model in told.models] == [("many", 0.75), ("few", 1.0)]
    assert (told.total.hits, told.total.saved_seconds, told.total.hit_rate) == (3, 1.5, 7 / 9)
    assert told.memory.limit_bytes == 3000
    assert told.redis is not None
    assert (told.redis.managed, told.redis.connected, told.redis.why) == (True, False, "it is down")


async def test_stats_of_no_requests_have_no_rate(home: Home) -> None:
    made, _ = operations(home, CacheReply(1, stats=CacheStats(5.0, MemoryView(0, 0, 1))))
    told = await made.stats(cache("{}"))
    assert (told.total.hits, told.total.hit_rate, told.models, told.redis) == (0, None, (), None)


@pytest.mark.parametrize(
    ("settings", "server", "why"),
    [
        (MANAGED, redis(State.STOPPED), "it is stopped"),
        (MANAGED, replace(redis(State.FAILED), why="install one"), "it has failed: install one"),
        ("{redis: 'redis://${UNSET}'}", None, "UNSET is not set"),
        ("{redis: 'redis://h'}", None, "the gateway has not begun to use it yet"),
    ],
)
async def test_stats_say_why_the_profiles_redis_is_not_used(
    home: Home, settings: str, server: BackendReport | None, why: str
) -> None:
    made, _ = operations(home, CacheReply(1, stats=CacheStats(5.0, MemoryView(0, 0, 1))), server)
    told = (await made.stats(cache(settings))).redis
    assert told is not None
    assert not told.connected
    assert why in str(told.why)


async def test_clear_passes_on_what_is_chosen(home: Home) -> None:
    made, worker = operations(home, CacheReply(1, removed=4))
    assert (await made.clear(CacheClear(model="m", older_than=60))).removed == 4
    assert worker.asked == [CacheCommand(0, "clear", model="m", older_than=60)]


async def test_show_takes_the_beginning_of_a_key_in_either_case(home: Home) -> None:
    made, worker = operations(home, CacheReply(1, answer=KEPT))
    answer = await made.show(" 00FF ")
    assert worker.asked == [CacheCommand(0, "show", key="00ff")]
    assert (answer.key, answer.upstream_model, answer.duration_s, answer.ttl_left_s) == ("00ff", "llama3.1:8b", 2.5, 60)
    assert answer.age_s > 1_000_000


@pytest.mark.parametrize(
    ("key", "reply", "status", "code", "words"),
    [
        ("xyz", CacheReply(1), 400, "invalid_request", "a key has hexadecimal digits, not 'xyz'"),
        ("0" * 65, CacheReply(1), 400, "invalid_request", "a key has hexadecimal digits"),
        ("00", CacheReply(1), 404, "unknown_key", "nothing is kept under a key that begins with 00"),
        ("00", CacheReply(1, keys=("000", "001")), 409, "ambiguous_key", "several answers are kept under keys"),
        ("00", CacheReply(1, problem="Redis can't be asked: gone"), 503, "cache_unavailable", "Redis can't be asked"),
        ("00", NoAnswer("no gateway worker is there"), 503, "no_worker", "the cache can't be asked: no gateway worker"),
    ],
)
async def test_what_cannot_be_shown_is_told_with_its_reason(
    home: Home, *, key: str, reply: CacheReply | NoAnswer, status: int, code: str, words: str
) -> None:
    made, _ = operations(home, reply)
    with pytest.raises(Refusal) as caught:
        await made.show(key)
    assert (caught.value.status, caught.value.problem.code) == (status, code)
    assert words in str(caught.value)
    assert caught.value.problem.hint
