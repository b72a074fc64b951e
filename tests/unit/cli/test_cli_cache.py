"""`aigw cache` and the cache in `aigw status`, by their whole output."""

import json
from typing import Any

import pytest
from msgspec.structs import replace
from rich.console import Console

from aigw_cli.render.cache import stats_lines
from aigw_cli.render.look import Look
from aigw_daemon.control.cache_schema import (
    CacheAnswer,
    CacheCleared,
    CacheCounters,
    CacheMemory,
    CacheModel,
    CacheRedis,
    CacheStatistics,
)
from aigw_daemon.control.codec import converted, decoded, plain
from aigw_daemon.control.schema import BackendStatus, CacheStatus, Problem, RedisStatus, Status
from tests.support.fake_daemon import FakeDaemon
from tests.support.statuses import DAEMON, GATEWAY, starter
from tests.unit.cli.conftest import Aigw

LLAMA = CacheModel(
    model="llama3.1:latest",
    hits=70,
    coalesced=5,
    misses=25,
    stored=24,
    stored_bytes=48_000,
    saved_tokens=15_000,
    saved_seconds=192.0,
    hit_rate=0.75,
)
CODER = CacheModel(model="qwen-coder-vllm\x1b[2J", misses=1, hit_rate=0.0)
TOTAL = converted(plain(LLAMA) | {"misses": 26, "hit_rate": 75 / 101}, CacheCounters)
REDIS = CacheRedis(
    where="/run/aigw/redis.sock",
    managed=True,
    connected=True,
    entries=1204,
    bytes=35_651_584,
    limit_bytes=268_435_456,
    unanswered=1,
)
STATS = CacheStatistics(
    mode="on",
    ttl_s=3600,
    since=1_000_000.0,
    total=TOTAL,
    models=(LLAMA, CODER),
    memory=CacheMemory(entries=24, bytes=73_000, limit_bytes=67_108_864),
    redis=REDIS,
)
PLAIN = """\
cache    on  kept for 1h00m
since    2h05m ago  101 requests  74% served from cache
saved    15000 tokens  3m12s of engine time
memory   24 answers  71.3KiB of 64.0MiB
redis    connected  /run/aigw/redis.sock  1204 answers  34.0MiB of 256MiB  1 lookup unanswered

MODEL                   HITS  COALESCED  MISSES  HIT-RATE  STORED     SIZE  TOKENS-SAVED  TIME-SAVED
llama3.1:latest           70          5      25       75%      24  46.9KiB         15000       3m12s
qwen-coder-vllm\\x1b[2J     0          0       1        0%       0       0B             0        0.0s
"""
NARROW = """\
cache    on  kept for 1h00m
since    2h05m ago  101 requests  74% served from cache
saved    15000 tokens  3m12s of engine time
memory   24 answers  71.3KiB of 64.0MiB
redis    ✗ not connected  cache.lan:6380
         no answer within 0.1 s

MODEL                   HITS  MISSES  HIT-RATE  TOKENS-SAVED
llama3.1:latest           70      25       75%         15000
  5 coalesced · 24 stored · 46.9KiB size · 3m12s time saved
qwen-coder-vllm\\x1b[2J     0       1        0%             0
  0 coalesced · 0 stored · 0B size · 0.0s time saved
"""
ANSWER = CacheAnswer(
    key="9f86d081" * 8,
    model="llama3.1:latest",
    backend="ollama",
    upstream_model="llama3.1:8b",
    endpoint="chat/completions",
    at=1.0,
    age_s=720.0,
    ttl_left_s=2880.0,
    duration_s=3.2,
    stream=True,
    bytes=1234,
    prompt_tokens=12,
    completion_tokens=240,
    finish_reason="stop",
    text="Paris.\n\nIt is\x1b]0;gone\x07 in France.",
)


def plain_at(seconds: float, stats: CacheStatistics) -> str:
    lines = stats_lines(stats, Look(width=1_000, plain=True), seconds)
    return "".join(f"{line.plain.rstrip()}\n" for line in lines)


def drawn(stats: CacheStatistics, width: int, now: float) -> str:
    console = Console(width=width, markup=False, highlight=False, color_system=None)
    with console.capture() as captured:
        for line in stats_lines(stats, Look(width=width, plain=False), now):
            console.print(line, no_wrap=line.no_wrap, overflow=line.overflow)
    return "".join(line.rstrip() + "\n" for line in captured.get().splitlines())


def test_stats_as_plain_text() -> None:
    assert plain_at(1_007_530.0, STATS) == PLAIN


def test_on_a_narrow_terminal_columns_move_below_their_row() -> None:
    down = CacheRedis(where="cache.lan:6380", managed=False, connected=False, why="no answer within 0.1 s")
    assert drawn(replace(STATS, redis=down), 64, 1_007_530.0) == NARROW


def test_a_cache_that_nobody_has_used_says_so(aigw: Aigw, daemon: FakeDaemon) -> None:
    memory = CacheMemory(entries=0, bytes=0, limit_bytes=67_108_864)
    empty = CacheStatistics(mode="off", ttl_s=3600, since=0.0, total=CacheCounters(), memory=memory)
    daemon.answers("GET /v1/cache/stats", empty)
    out = aigw("cache", "stats").out
    assert out.startswith("cache    off\n")
    assert out.endswith(
        "ago  0 requests\nsaved    0 tokens  0.0s of engine time\nmemory   0 answers  0B of 64.0MiB\n"
        "redis    none\n\nno requests yet\n"
    )


def test_stats_as_json_are_the_answer(aigw: Aigw, daemon: FakeDaemon) -> None:
    daemon.answers("GET /v1/cache/stats", STATS)
    assert decoded(aigw("cache", "stats", "--json").out, CacheStatistics) == STATS


@pytest.mark.parametrize(
    ("arguments", "asked", "removed", "told"),
    [
        ((), {"model": None, "older_than": None}, 12, "removed 12 answers\n"),
        (("--model", "llama"), {"model": "llama", "older_than": None}, 1, "removed 1 answer of llama\n"),
        (
            ("--older-than", "10m", "-m", "m"),
            {"model": "m", "older_than": 600.0},
            0,
            "no answer of m older than 10m00s was kept\n",
        ),
    ],
)
def test_clear_tells_how_many_were_removed(
    aigw: Aigw, daemon: FakeDaemon, *, arguments: tuple[str, ...], asked: dict[str, Any], removed: int, told: str
) -> None:
    daemon.answers("POST /v1/cache/clear", CacheCleared(removed=removed))
    ran = aigw("cache", "clear", *arguments)
    assert (ran.code, ran.out, ran.err) == (0, told, "")
    assert daemon.asked[-1].body == asked
    assert json.loads(aigw("cache", "clear", *arguments, "--json").out) == {"removed": removed}


def test_an_age_that_is_none_is_wrong_usage(aigw: Aigw, daemon: FakeDaemon) -> None:
    ran = aigw("cache", "clear", "--older-than", "soon")
    assert ran.code == 2
    assert "'--older-than' takes an age such as 30s, 10m or 1h30m, not 'soon'" in ran.err
    assert daemon.asked == []


def test_show_tells_all_of_one_answer_with_nothing_that_a_terminal_obeys(aigw: Aigw, daemon: FakeDaemon) -> None:
    daemon.answers("GET /v1/cache/answers/9f86", ANSWER)
    assert aigw("cache", "show", "9f86").out == (
        f"key      {'9f86d081' * 8}\n"
        "model    llama3.1:latest\n"
        "from     ollama/llama3.1:8b\n"
        "endpoint chat/completions  streamed\n"
        "kept     12m00s ago  48m00s left\n"
        "size     1.2KiB  12 prompt tokens  240 completion tokens  stop  took 3.2s\n"
        "\n"
        "  Paris.\n"
        "\n"
        "  It is\\x1b]0;gone\\x07 in France.\n"
    )
    assert json.loads(aigw("cache", "show", "9f86", "--json").out) == plain(ANSWER)


def test_an_answer_without_text_ends_with_its_size(aigw: Aigw, daemon: FakeDaemon) -> None:
    vectors = {"endpoint": "embeddings", "stream": False, "text": "", "finish_reason": None, "completion_tokens": None}
    daemon.answers("GET /v1/cache/answers/9f86", replace(ANSWER, **vectors))
    assert aigw("cache", "show", "9f86").out.endswith("size     1.2KiB  12 prompt tokens  took 3.2s\n")


@pytest.mark.parametrize(
    ("code", "status", "exit_code"), [("unknown_key", 404, 4), ("ambiguous_key", 409, 4), ("invalid_request", 400, 2)]
)
def test_a_key_that_leads_nowhere_has_an_exit_code(
    aigw: Aigw, daemon: FakeDaemon, code: str, status: int, exit_code: int
) -> None:
    problem = Problem(code=code, message="several begin so", hint="give more digits", details=["9f86a", "9f86b"])
    daemon.refuses("GET /v1/cache/answers/9f", problem, status)
    ran = aigw("cache", "show", "9f")
    assert ran.code == exit_code
    assert ran.err == "aigw: several begin so\n  9f86a\n  9f86b\n  give more digits\n"


def shown(cache: CacheStatus) -> Status:
    return Status(profile="p", daemon=DAEMON, gateway=GATEWAY, backends=[], cache=cache)


def server(state: str, **facts: Any) -> BackendStatus:
    return BackendStatus(name="redis", engine="redis", state=state, **facts)


@pytest.mark.parametrize(
    ("cache", "lines"),
    [
        (
            CacheStatus(mode="on", ttl_s=3600),
            "cache    on  kept for 1h00m  sampled answers too  'mode: off' keeps none\n",
        ),
        (CacheStatus(mode="off", ttl_s=3600), "cache    off\n"),
        (
            CacheStatus(mode="on", ttl_s=60, redis=RedisStatus(where="redis://h:6379")),
            "cache    on  kept for 1m00s  sampled answers too  'mode: off' keeps none  Redis redis://h:6379\n",
        ),
        (
            CacheStatus(mode="on", ttl_s=60, redis=RedisStatus(where="", warnings=["X is not set"])),
            "cache    on  kept for 1m00s  sampled answers too  'mode: off' keeps none  no Redis\n  X is not set\n",
        ),
        (
            CacheStatus(
                mode="deterministic",
                ttl_s=60,
                redis=RedisStatus(where="/s", server=server("ready", pid=9, memory_bytes=12_000_000, restarts=1)),
            ),
            "cache    deterministic  kept for 1m00s  'mode: off' keeps none  Redis ready  PID 9  11.4MiB  1 restart\n",
        ),
        (
            CacheStatus(
                mode="on",
                ttl_s=60,
                redis=RedisStatus(where="/s", server=server("failed", why="install one"), warnings=["kept here"]),
            ),
            (
                "cache    on  kept for 1m00s  sampled answers too  'mode: off' keeps none  Redis failed\n"
                "  install one\n  kept here\n"
            ),
        ),
    ],
)
def test_status_tells_of_the_cache_in_a_line(aigw: Aigw, daemon: FakeDaemon, cache: CacheStatus, lines: str) -> None:
    daemon.answers("GET /v1/status", shown(cache))
    assert aigw("status").out.split("up 1d02h\n")[1].split("\nno backends")[0] == lines


def test_the_managed_redis_can_be_stopped_and_waited_for_by_its_name(aigw: Aigw, daemon: FakeDaemon) -> None:
    cache = CacheStatus(mode="on", ttl_s=60, redis=RedisStatus(where="/s", server=server("stopped")))
    stopped = replace(starter("ready"), cache=cache)
    daemon.answers("POST /v1/backends/stop", stopped)
    assert aigw("stop", "redis").out == "redis  stopped\n"
    ready = CacheStatus(mode="on", ttl_s=60, redis=RedisStatus(where="/s", server=server("ready")))
    daemon.answers("POST /v1/backends/start", stopped)
    daemon.streams("GET /v1/watch", [stopped, replace(stopped, cache=ready)])
    ran = aigw("start", "redis")
    assert ran.code == 0
    assert "redis  ready" in ran.out
