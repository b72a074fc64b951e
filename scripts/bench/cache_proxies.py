"""What keeps answers, ready to be measured: aigw with each of its tiers, and LiteLLM with Redis.

A Redis tier is measured alone: aigw's memory for answers is made so small that none fits, so that each hit comes from
Redis. That every answer is a hit, and from where, is looked at before and after each turn.
"""

import json
import shutil
import socket
import time
from pathlib import Path
from typing import Any, Final

import httpx

from scripts.bench.answers import MODEL
from scripts.bench.machine import BenchError
from scripts.bench.proxies import Aigw, LiteLlm
from scripts.bench.proxy import READY_SECONDS, ProcessProxy, Proxy

REQUEST: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Tell me about the quick brown fox, please."}],
}
"""What `post.lua` sends."""
_MISSES: Final = 0.01
"""Part of the answers that may be none: one look that Redis was too slow for, and it is left out for half a second."""


class Redis(ProcessProxy):
    """A Redis that keeps nothing on disk. Not a proxy: it has the place of an upstream."""

    name = "redis"

    @property
    def socket(self) -> Path:
        """Where it listens beside its port."""
        return self.folder / "redis.sock"

    def command(self, upstream_port: int) -> list[str]:  # noqa: ARG002  the end of the chain has no upstream
        if shutil.which("redis-server") is None:
            raise BenchError("the benchmark needs redis-server: on Debian, apt-get install redis-server")
        where = ["--bind", "127.0.0.1", "--port", str(self.port), "--unixsocket", str(self.socket)]
        return ["redis-server", *where, "--save", "", "--appendonly", "no", "--dir", str(self.folder)]

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline and not self.ended():
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=5) as client:
                    client.sendall(b"PING\r\n")
                    if client.recv(16).startswith(b"+PONG"):
                        return
            except OSError:
                time.sleep(0.05)
        raise BenchError(f"{self.name} doesn't answer\n{self.log_tail()}")


class AigwInProcess(Aigw):
    """aigw as it comes: answers are kept in the gateway's process."""

    name = "aigw, in process"
    in_process = True
    _hits = 0
    _misses = 0

    def cache(self) -> str:
        """The profile's section."""
        return "{ttl: 24h}"

    def wait_until_ready(self) -> None:
        super().wait_until_ready()
        _wait_for_hits(self)
        self._counted()

    def confirm(self) -> None:
        """Raises BenchError if it has not answered out of the tier that is measured."""
        hits, misses, entries = self._counted()
        if misses > hits * _MISSES or bool(entries) != self.in_process:
            where = f"{entries} answers in its process"
            raise BenchError(f"{self.name} counts {hits} hits, {misses} misses and {where}")

    def _counted(self) -> tuple[int, int, int]:
        """Hits and misses since it was last asked, and answers in its process."""
        stats = json.loads(self.run_command("cache", "stats", "--json"))
        hits, misses = stats["total"]["hits"], stats["total"]["misses"]
        since = hits - self._hits, misses - self._misses
        self._hits, self._misses = hits, misses
        return *since, stats["memory"]["entries"]


class AigwRedis(AigwInProcess):
    """Every hit comes from Redis: no answer fits into the gateway's memory for them."""

    in_process = False

    def __init__(self, folder: Path, core: int, redis: Redis) -> None:
        super().__init__(folder, core)
        self.redis = redis

    def cache(self) -> str:
        return f"{{ttl: 24h, memory: 1KiB, redis: '{self.url()}'}}"

    def url(self) -> str:
        """Of its Redis."""
        return f"redis://127.0.0.1:{self.redis.port}/0"


class AigwRedisTcp(AigwRedis):
    """By TCP on loopback."""

    name = "aigw, Redis by TCP"


class AigwRedisSocket(AigwRedis):
    """By a Unix socket, as a managed Redis is reached."""

    name = "aigw, Redis by socket"

    def url(self) -> str:
        return f"unix://{self.redis.socket}?db=1"


class LiteLlmRedis(LiteLlm):
    """LiteLLM with its Redis cache."""

    name = "litellm, Redis"

    def __init__(self, folder: Path, core: int, redis: Redis) -> None:
        super().__init__(folder, core)
        self.redis = redis

    def settings(self) -> dict[str, object]:
        redis = {"type": "redis", "host": "127.0.0.1", "port": self.redis.port, "ttl": 86_400}
        return {"litellm_settings": {"cache": True, "cache_params": redis}}

    def wait_until_ready(self) -> None:
        super().wait_until_ready()
        _wait_for_hits(self)

    def confirm(self) -> None:
        """Raises BenchError if it has not answered from its cache."""
        if not _is_hit(_answer(self)):
            raise BenchError(f"{self.name} does not answer from its cache any more")


def _wait_for_hits(proxy: Proxy) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if _is_hit(_answer(proxy)):
            return
        time.sleep(0.1)
    raise BenchError(f"{proxy.name} keeps no answer")


def _is_hit(answer: httpx.Response) -> bool:
    """What aigw and LiteLLM say of a kept answer."""
    return answer.headers.get("x-aigw-cache") == "hit" or "x-litellm-cache-key" in answer.headers


def _answer(proxy: Proxy) -> httpx.Response:
    url = f"http://127.0.0.1:{proxy.port}/v1/chat/completions"
    try:
        return httpx.post(url, json=REQUEST, timeout=30).raise_for_status()
    except httpx.HTTPError as error:
        raise BenchError(f"{proxy.name} failed: {error}") from error
