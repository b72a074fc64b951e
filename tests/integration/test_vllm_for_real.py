"""The real vLLM on the CPU beside llama.cpp and Ollama under one daemon: answers, deaths, adoption, a freeze.

Ollama is the real one where it is on the PATH, else its stand-in.

A start takes a minute of both cores, so the tests share one aigw and go in the order in which they stand here; each
begins and, but for the last two, ends with both backends ready.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from aigw_daemon.supervisor.launcher import STOP_GRACE
from tests.support import ollama_registry
from tests.support.aigw import MODEL, Aigw, alive, llamacpp_section, profile_text
from tests.support.engines import smollm2, vllm_python
from tests.support.ollama import KINDS, program
from tests.support.vllm import CONTEXT, READY_SECONDS, SERVED, vllm_section
from tests.support.wait import eventually_now

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * READY_SECONDS)]

GONE_SECONDS = 10.0
"""For what a killed leader leaves behind (fault 1)."""
STOP_SECONDS = 30.0
"""For a frozen engine: the grace of a stop, and what comes after it (fault 5)."""

Note = Callable[[str, object], None]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aigw]:
    whole = Aigw(tmp_path_factory.mktemp("vllm"))
    text = profile_text(whole.port, backends=llamacpp_section() + vllm_section() + ollama_section(whole.folder))
    try:
        whole.run("up", "--profile", str(whole.write_profile(text)), seconds=READY_SECONDS)
        yield whole
    finally:
        whole.end()


def ollama_section(folder: Path) -> str:
    """Ollama with a home and a models folder of its own, as an entry of ``backends``."""
    binary = program(KINDS[-1], folder / "bin")
    return f"  ollama: {{engine: ollama, binary: {binary}, models_dir: {folder}/ollama, env: {{HOME: {folder}}}}}\n"


def ask(whole: Aigw, model: str) -> str:
    """Which backend answered; the text may be anything, but it has tokens."""
    with whole.openai() as client:
        messages = [{"role": "user", "content": "Hello?"}]
        answer = client.chat.completions.with_raw_response.create(model=model, messages=messages, max_tokens=4)  # type: ignore[arg-type]  # plain dicts are what users write
    usage = answer.parse().usage
    assert usage is not None
    assert 1 <= usage.completion_tokens <= 4
    return str(answer.headers["x-aigw-backend"])


def test_both_engines_answer_through_one_port(both: Aigw) -> None:
    assert ask(both, SERVED) == "vllm"
    assert ask(both, MODEL) == "llamacpp"
    shown = both.backend("vllm")
    assert (shown["state"], shown["engine"], shown["gpus"], shown["restarts"]) == ("ready", "vllm", [], 0)
    assert shown["models"] == [SERVED]
    assert httpx.get(f"{both.url}/v1/models/{SERVED}", timeout=10).json()["context_length"] == CONTEXT
    assert shown["memory_bytes"] > 100_000_000


def test_three_engines_answer_at_once_through_one_port(both: Aigw) -> None:
    with ollama_registry.serving() as registry:
        registry.offer_file("smollm2:latest", smollm2())
        pulled = registry.name("smollm2")
        both.run("pull", pulled, "--backend", "ollama", "--insecure")
    models = {SERVED: "vllm", MODEL: "llamacpp", pulled: "ollama"}
    with ThreadPoolExecutor(len(models)) as pool:
        assert list(pool.map(lambda model: ask(both, model), models)) == list(models.values())
    assert {backend["name"]: backend["state"] for backend in both.status()["backends"]} == dict.fromkeys(
        ("llamacpp", "vllm", "ollama"), "ready"
    )


def test_engine_asks_for_the_key_and_listens_on_the_loopback_only(both: Aigw) -> None:
    shown = both.backend("vllm")
    refused = httpx.get(f"{shown['address']}/v1/models", timeout=10)
    assert refused.status_code == 401
    addresses = {
        connection.laddr.ip
        for connection in psutil.Process(shown["pid"]).net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and f":{connection.laddr.port}" in shown["address"]
    }
    assert addresses == {"127.0.0.1"}


def test_killed_daemon_leaves_it_serving_and_the_next_one_adopts_it(both: Aigw, record_property: Note) -> None:
    before = both.backend("vllm")
    tree = {process.pid for process in both.processes("vllm")}
    both.kill_daemon()
    assert ask(both, SERVED) == "vllm"
    started = time.monotonic()
    both.run("up")
    record_property("recover_s", round(time.monotonic() - started, 2))
    after = both.backend("vllm")
    assert (after["pid"], after["state"], after["restarts"]) == (before["pid"], "ready", 0)
    assert {process.pid for process in both.processes("vllm")} == tree
    assert ask(both, SERVED) == "vllm"


def test_killed_leader_leaves_nothing_and_is_started_again_once(both: Aigw, record_property: Note) -> None:
    before = both.backend("vllm")
    leader = psutil.Process(before["pid"])
    family = {process.pid for process in leader.children(recursive=True)}
    # Its engine and its worker at the least: the processes that would hold a GPU's memory for good.
    assert len(family) >= 2
    started = time.monotonic()
    leader.kill()
    eventually_now(lambda: not any(map(alive, family)), seconds=GONE_SECONDS, what="the end of what the leader left")
    record_property("detect_s", round(time.monotonic() - started, 2))
    assert ask(both, MODEL) == "llamacpp"

    def ready_again() -> bool:
        shown = both.backend("vllm")
        return bool(shown["state"] == "ready" and shown["pid"] != before["pid"])

    eventually_now(ready_again, seconds=READY_SECONDS, what="another vLLM")
    record_property("recover_s", round(time.monotonic() - started, 2))
    assert both.backend("vllm")["restarts"] == before["restarts"] + 1
    leaders = [process for process in both.processes("vllm") if os.getsid(process.pid) == process.pid]
    assert [process.pid for process in leaders] == [both.backend("vllm")["pid"]]
    assert ask(both, SERVED) == "vllm"


def test_frozen_engine_is_stopped_all_the_same(both: Aigw, record_property: Note) -> None:
    leader = psutil.Process(both.backend("vllm")["pid"])
    tree = [leader, *leader.children(recursive=True)]
    for process in tree:
        process.send_signal(signal.SIGSTOP)
    started = time.monotonic()
    both.run("stop", "vllm", seconds=STOP_SECONDS)
    record_property("recover_s", round(time.monotonic() - started, 2))
    assert both.backend("vllm")["state"] == "stopped"
    assert not both.processes("vllm")
    assert not any(alive(process.pid) for process in tree)
    assert ask(both, MODEL) == "llamacpp"


def test_daemon_killed_while_it_loads_is_followed_by_one_whose_stop_leaves_nothing(both: Aigw) -> None:
    with both.started("start", "vllm"):
        # The server, its engine and what they need: the moment at which a SIGTERM to the first is known to lose others.
        eventually_now(lambda: len(both.processes("vllm")) >= 3, seconds=READY_SECONDS, what="the engine's own process")
        loading = both.backend("vllm")
        assert loading["state"] == "starting"
        tree = [process.pid for process in both.processes("vllm")]
        both.kill_daemon()
    with both.started("up"):
        eventually_now(lambda: shown(both, "vllm") == ("starting", loading["pid"]), seconds=30, what="its adoption")
        both.run("stop", "vllm")
        assert both.backend("vllm")["state"] == "stopped"
        assert not both.processes("vllm")
        assert not any(map(alive, tree))


def test_start_that_is_stopped_late_ends_in_seconds(both: Aigw, record_property: Note) -> None:
    with both.started("start", "vllm"):
        eventually_now(
            lambda: "setting up its engine" in (both.backend("vllm")["progress"] or ""),
            seconds=READY_SECONDS,
            what="vLLM waiting for its engine",
        )
        started = time.monotonic()
        both.run("stop", "vllm")
        record_property("stopped_s", round(time.monotonic() - started, 2))
    # Its server swallows the first SIGTERM and would wait for ten minutes: a stop took the whole grace.
    assert time.monotonic() - started < STOP_GRACE - 2
    assert both.backend("vllm")["state"] == "stopped"
    assert not both.processes("vllm")


def test_start_that_cannot_succeed_is_failed_at_the_first_try(tmp_path: Path) -> None:
    folder = tmp_path / "noconfig"
    folder.mkdir()
    program = f"[{vllm_python()}, -m, vllm.entrypoints.openai.api_server]"
    sections = (
        f"  nomodule: {{engine: vllm, command: [{sys.executable}, -m, vllm.entrypoints.openai.api_server], "
        "model: o/m}\n"
        f"  noconfig: {{engine: vllm, command: {program}, model: {folder}, env: {{HF_HUB_OFFLINE: '1'}}}}\n"
    )
    whole = Aigw(tmp_path / "aigw")
    try:
        text = profile_text(whole.port, backends=sections, names=())
        whole.run("up", "--profile", str(whole.write_profile(text)), code=1, seconds=READY_SECONDS)
        told = {name: json.loads(whole.run("why", name, "--json").stdout) for name in ("nomodule", "noconfig")}
        restarts = [whole.backend(name)["restarts"] for name in told]
    finally:
        whole.end()
    assert {name: why["failure"] for name, why in told.items()} == {
        "nomodule": "missing_binary",
        "noconfig": "model_unreadable",
    }
    assert restarts == [0, 0]
    assert "No module named 'vllm'" in told["nomodule"]["lines"][0]
    assert str(folder) in told["noconfig"]["lines"][0]
    assert not any('File "' in line for why in told.values() for line in why["lines"])


def shown(whole: Aigw, name: str) -> tuple[str, int] | None:
    """State and PID of a backend; None while no daemon answers."""
    said = whole.run("status", "--json", code=None)
    backends = json.loads(said.stdout)["backends"] if said.returncode == 0 else []
    return next(((found["state"], found["pid"]) for found in backends if found["name"] == name), None)
