"""Idle backends stop and come back, and of a group one runs at a time: real llama.cpp, asked through the gateway."""

import concurrent.futures
import textwrap

import httpx

from tests.support.aigw import Aigw, llamacpp_section, profile_text
from tests.support.wait import eventually_now


def section(name: str, settings: str) -> str:
    """An embedded llama.cpp of its own model name, with more settings."""
    return llamacpp_section("embedded", name, model=name, context=512) + textwrap.indent(f"{settings}\n", "    ")


def bring_up(aigw: Aigw, *backends: str) -> None:
    text = profile_text(aigw.port, backends="".join(backends), names=())
    aigw.run("up", "--profile", str(aigw.write_profile(text)))


def ask(aigw: Aigw, model: str) -> str:
    """Which backend answers."""
    body = {"model": model, "messages": [{"role": "user", "content": "Say hi."}], "max_tokens": 4}
    answer = httpx.post(f"{aigw.url}/v1/chat/completions", json=body, timeout=90)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-aigw-backend"]


def words(aigw: Aigw, *backend: str) -> list[tuple[str, str]]:
    return [(event["backend"], event["event"]) for event in aigw.events("events", *backend)]


def test_of_a_group_one_runs_at_a_time_and_requests_for_both_are_answered(aigw: Aigw) -> None:
    bring_up(aigw, section("one", "group: small"), section("two", "group: small\nstart: on_demand"))
    assert [backend["state"] for backend in aigw.status()["backends"]] == ["ready", "stopped"]
    assert ask(aigw, "two") == "two"
    one = aigw.backend("one")
    assert one["state"] == "stopped"
    assert one["why"] == "evicted for two, of the same group small; a request starts it again"
    assert aigw.processes("one") == []
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        asked = ["one", "two"] * 3
        assert list(pool.map(lambda name: ask(aigw, name), asked)) == asked
    told = words(aigw)
    running = 0
    for _, word in told:
        running += {"ready": 1, "evicted": -1}.get(word, 0)
        assert running in {0, 1}, told
    assert "evicted for two, of the same group small" in aigw.run("events", "one").stdout


def test_operators_stop_holds_and_up_puts_nobody_out(aigw: Aigw) -> None:
    bring_up(aigw, section("one", "group: small"), section("two", "group: small\nstart: on_demand"))
    aigw.run("start", "two")
    assert [backend["state"] for backend in aigw.status()["backends"]] == ["stopped", "ready"]
    pid = aigw.backend("two")["pid"]
    aigw.run("up")
    assert aigw.backend("two")["pid"] == pid
    refused = aigw.run("start", "one", "two", code=None)
    assert refused.returncode != 0
    assert "one and two are of the group small, of which one runs at a time" in refused.stderr
    aigw.run("stop", "one")
    body = {"model": "one", "messages": [{"role": "user", "content": "Say hi."}]}
    assert httpx.post(f"{aigw.url}/v1/chat/completions", json=body).status_code == 503
    assert aigw.backend("two")["pid"] == pid


def test_idle_backend_stops_and_the_next_request_starts_it_again(aigw: Aigw) -> None:
    bring_up(aigw, section("one", "idle_stop: 3s"))
    pid = aigw.backend("one")["pid"]
    eventually_now(lambda: aigw.backend("one")["state"] == "stopped", seconds=20, what="the idle stop")
    assert aigw.processes("one") == []
    shown = aigw.backend("one")
    assert (shown["why"], shown["restarts"]) == ("stopped after 3 s without a request; a request starts it", 0)
    assert "a request starts it" in aigw.run("status").stdout
    told = aigw.json("why", "one")
    assert "after 3 s without a request" in told["sentence"]
    assert aigw.health().status_code == 200
    assert ask(aigw, "one") == "one"
    assert aigw.backend("one")["pid"] != pid
    eventually_now(lambda: words(aigw, "one")[-1] == ("one", "stop"), seconds=20, what="the next idle stop")
    assert [word for _, word in words(aigw, "one")] == ["start", "ready", "idle stop", "stop"] * 2
