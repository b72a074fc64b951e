"""A real `llama-server` that freezes under load: requests fall back within its limit, and it is replaced (fault 6)."""

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable

import httpx

from aigw_daemon.supervisor.probe import TIMEOUT
from tests.support.aigw import MODEL, Aigw, llamacpp_section, profile_text
from tests.support.stub_engine import settings
from tests.support.wait import eventually

HANG_SECONDS = 2.0
SLACK_SECONDS = TIMEOUT + 2.0
"""For a liveness probe that waits for the frozen engine, two looks of the daemon, and the kill."""
AT_ONCE_SECONDS = 1.0
BODY = {"model": "chat", "messages": [{"role": "user", "content": "Count to a thousand."}], "max_tokens": 1500}


async def test_frozen_engine_costs_a_request_no_more_than_its_limit_and_the_next_nothing(
    aigw: Aigw, record_property: Callable[[str, object], None]
) -> None:
    real = llamacpp_section("binary").rstrip("\n") + f"\n    hang_timeout: {HANG_SECONDS:.0f}s\n"
    backup = f"  backup: {settings(aigw.folder / 'bin', aigw.folder)}}}\n"
    targets = json.dumps([{"backend": "llamacpp", "model": MODEL}, {"backend": "backup", "model": "m"}])
    text = profile_text(aigw.port, backends=real + backup, names=())
    path = aigw.write_profile(f"{text}routes:\n  chat: {{targets: {targets}}}\n")
    await asyncio.to_thread(aigw.run, "up", "--profile", str(path))
    frozen = (await asyncio.to_thread(aigw.backend))["pid"]
    async with httpx.AsyncClient(base_url=aigw.url, timeout=30, trust_env=False) as client:
        os.kill(frozen, signal.SIGSTOP)
        waited = await seconds_to_the_backup(client)
        assert waited < HANG_SECONDS + SLACK_SECONDS
        record_property("detect_s", round(waited, 2))
        assert await seconds_to_the_backup(client) < AT_ONCE_SECONDS
    await eventually(lambda: "starting -> ready" in aigw.log("aigwd").partition("hung")[2], what="another engine")
    assert [process.pid for process in await asyncio.to_thread(aigw.processes, "llamacpp")] != [frozen]


async def seconds_to_the_backup(client: httpx.AsyncClient) -> float:
    """How long a request takes that the other backend answers."""
    began = time.monotonic()
    answer = await client.post("/v1/chat/completions", json=BODY)
    assert (answer.status_code, answer.headers["x-aigw-backend"]) == (200, "backup"), answer.text
    return time.monotonic() - began
