"""`aigw cache` against a whole aigw with a managed Redis: what it counts, shows and forgets, and what outlives whom."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.aigw import Aigw
from tests.support.fast_upstream import FastUpstream
from tests.support.living import Living, fast_profile, kill
from tests.support.wait import eventually_now

PROFILE = """
cache: {redis: managed, redis_memory: 16MiB}
routes:
  chat: {targets: [{backend: fast, model: fast}]}
  never: {targets: [{backend: fast, model: fast}], cache: off}
"""


@dataclass
class Cached:
    """A whole aigw whose gateway has reached its Redis."""

    living: Living
    aigw: Aigw

    def ask(self, prompt: str = "hi", model: str = "chat") -> httpx.Response:
        """One chat answer."""
        body = {"model": model, "messages": [{"role": "user", "content": prompt}]}
        answer = httpx.post(f"{self.aigw.url}/v1/chat/completions", json=body, timeout=20)
        assert answer.status_code == 200, answer.text
        return answer

    def word(self, prompt: str = "hi") -> str:
        """What the cache had to do with one."""
        return self.ask(prompt).headers["x-aigw-cache"]

    def connected(self) -> None:
        """Wait until the gateway can reach its Redis, and until all that was to be written is."""
        eventually_now(
            lambda: self.aigw.json("cache", "stats")["redis"]["connected"], seconds=20, what="the gateway at its Redis"
        )

    def entries(self) -> int:
        """How many answers Redis has."""
        return int(self.aigw.json("cache", "stats")["redis"]["entries"] or 0)

    def holds(self, count: int) -> None:
        """Wait until Redis has so many answers: they are written beside the requests."""
        eventually_now(lambda: self.entries() == count, seconds=20, what=f"{count} answers in Redis")


@pytest.fixture
async def cached(aigw: Aigw, upstream: FastUpstream) -> AsyncIterator[Cached]:
    living = Living(aigw)
    made = Cached(living, aigw)
    try:
        await asyncio.to_thread(living.start)
        await asyncio.to_thread(living.up, aigw.write_profile(fast_profile(aigw.port, upstream.port) + PROFILE))
        await asyncio.to_thread(made.connected)
        yield made
    finally:
        await asyncio.to_thread(living.end)


async def test_what_was_asked_is_counted_shown_and_forgotten(cached: Cached) -> None:
    def steps() -> None:
        aigw = cached.aigw
        first, second = cached.ask(), cached.ask()
        assert [answer.headers["x-aigw-cache"] for answer in (first, second)] == ["miss", "hit"]
        assert cached.ask(model="never").headers["x-aigw-cache"] == "off"
        cached.holds(1)
        stats = aigw.json("cache", "stats")
        (model,) = stats["models"]
        assert (model["model"], model["hits"], model["misses"], model["stored"]) == ("chat", 1, 1, 1)
        assert (model["hit_rate"], model["saved_tokens"]) == (0.5, 5)
        assert stats["memory"]["entries"] == 1
        key = second.headers["x-aigw-cache-key"]
        shown = aigw.json("cache", "show", key[:12])
        assert (shown["key"], shown["model"], shown["backend"]) == (key, "chat", "fast")
        assert shown["text"] == second.json()["choices"][0]["message"]["content"]
        assert aigw.run("cache", "show", key).stdout.startswith(f"key      {key}\n")
        assert aigw.run("cache", "clear", "--older-than", "1h").stdout == "no answer older than 1h00m was kept\n"
        assert aigw.run("cache", "clear", "--model", "chat").stdout == "removed 1 answer of chat\n"
        assert "nothing is kept under a key" in aigw.run("cache", "show", key, code=4).stderr
        assert cached.word() == "miss"

    await asyncio.to_thread(steps)


async def test_prometheus_reads_what_the_commands_say(cached: Cached) -> None:
    def steps() -> None:
        assert [cached.word(prompt) for prompt in ("hi", "hi", "ho")] == ["miss", "hit", "miss"]
        cached.holds(2)
        stats = cached.aigw.json("cache", "stats")
        (model,) = stats["models"]
        answer = httpx.get(f"{cached.aigw.url}/metrics").raise_for_status()
        assert answer.headers["content-type"].startswith("text/plain")
        samples = {
            (sample.name.removeprefix("aigw_cache_"), sample.labels.get("result")): sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
            if sample.labels.get("model", "chat") == "chat"
        }
        assert [samples["requests_total", word] for word in ("hit", "miss", "coalesced")] == [1, 2, 0]
        for name in ("stored", "stored_bytes", "saved_tokens", "saved_seconds"):
            assert samples[f"{name}_total", None] == model[name]
        for name, value in (("answers", "entries"), ("bytes", "bytes"), ("limit_bytes", "limit_bytes")):
            assert samples[f"memory_{name}", None] == stats["memory"][value]
        assert samples["redis_up", None] == 1

    await asyncio.to_thread(steps)


async def test_kept_answers_outlive_the_worker_and_the_daemon(cached: Cached) -> None:
    def steps() -> None:
        assert cached.word() == "miss"
        cached.holds(1)
        worker = cached.living.worker
        cached.living.kill()
        kill(worker)
        cached.living.start()
        cached.living.ready()
        cached.connected()
        assert cached.living.worker != worker
        assert cached.word() == "hit"

    await asyncio.to_thread(steps)


async def test_a_killed_redis_costs_its_answers_and_nothing_else(cached: Cached) -> None:
    def steps() -> None:
        (redis,) = cached.aigw.processes("redis")
        assert cached.word() == "miss"
        cached.holds(1)
        redis.kill()
        assert cached.word() == "hit"
        assert cached.word("another") == "miss"
        cached.connected()
        assert cached.entries() <= 1, "the one that came after the end may have found the next Redis"
        # It is asked and written to over two connections, which come back each in its own time.
        prompts = map(str, itertools.count())
        eventually_now(
            lambda: cached.word(next(prompts)) == "miss" and cached.entries() > 1,
            seconds=20,
            what="answers stored anew",
        )

    await asyncio.to_thread(steps)


async def test_without_redis_and_without_a_worker_the_commands_say_so(cached: Cached) -> None:
    def steps() -> None:
        aigw = cached.aigw
        aigw.run("stop", "redis")
        redis = aigw.json("cache", "stats")["redis"]
        assert (redis["connected"], redis["why"]) == (False, "it is stopped")
        assert cached.word("hello") == "miss"
        assert cached.word("hello") == "hit"
        aigw.run("down")
        error = json.loads(aigw.run("cache", "stats", "--json", code=3).stdout)["error"]
        assert error["code"] == "daemon_not_running"

    await asyncio.to_thread(steps)
