"""Commands that look, end to end against a whole aigw: what an operator sees, and how each command exits."""

import json
import re

import httpx
import psutil
import pytest

from tests.support.aigw import MODEL, Aigw

GATEWAY_KEYS = {"url", "state", "pid"}
DAEMON_KEYS = {"pid", "version", "uptime_s", "warnings"}
BACKEND_KEYS = {
    "name", "engine", "state", "pid", "address", "gpus", "memory_bytes", "models", "uptime_s", "restarts", "in_flight",
    "why",
}  # fmt: skip
"""The contract of `aigw status --json`: more may be added, none of these goes away."""


def test_status_as_json_keeps_its_contract(running: Aigw) -> None:
    status = running.status()
    assert set(status) >= {"profile", "daemon", "gateway", "backends"}
    assert set(status["daemon"]) >= DAEMON_KEYS
    assert set(status["gateway"]) >= GATEWAY_KEYS
    (backend,) = status["backends"]
    assert set(backend) >= BACKEND_KEYS
    assert status["profile"] == "test"
    assert status["gateway"]["url"] == running.url
    assert status["gateway"]["state"] == "ready"


def test_status_as_json_tells_what_is_so(running: Aigw) -> None:
    status = running.status()
    (backend,) = status["backends"]
    known = {key: backend[key] for key in ("name", "engine", "state", "gpus", "models", "restarts", "in_flight", "why")}
    assert known == {
        "name": "llamacpp",
        "engine": "llamacpp",
        "state": "ready",
        "gpus": [],
        "models": [MODEL],
        "restarts": 0,
        "in_flight": 0,
        "why": None,
    }
    assert backend["uptime_s"] > 0
    assert backend["memory_bytes"] > 50_000_000
    assert httpx.get(f"{backend['address']}/health").status_code == 200
    for pid in (backend["pid"], status["gateway"]["pid"], status["daemon"]["pid"]):
        assert psutil.pid_exists(pid)


def test_status_is_a_plain_table_where_nobody_watches(running: Aigw) -> None:
    said = running.run("status").stdout
    assert "\x1b" not in said
    assert re.search(rf"llamacpp +llamacpp +ready +\d+ +127\.0\.0\.1:\d+ +- +\d+MiB +{MODEL}", said)


def test_status_that_watches_says_it_again_until_ctrl_c(running: Aigw) -> None:
    with running.started("status", "--watch", "--json") as watching:
        watching.says("\n")
        assert watching.interrupt() == 130
    assert json.loads(watching.text().splitlines()[0])["profile"] == "test"


def test_health_has_the_facts_of_the_gateway(running: Aigw) -> None:
    assert running.json("health") == running.health().json()
    assert running.run("health").stdout.startswith("ok\n")


def test_logs_show_the_end_of_an_engines_log(running: Aigw) -> None:
    running.ask()
    lines = running.run("logs", "llamacpp", "-n", "3").stdout.splitlines()
    assert len(lines) == 3
    assert lines[-1] in running.log("llamacpp")
    assert running.run("logs", "daemon", "-n", "1").stdout.strip()
    assert running.run("logs", "gateway", "-n", "0").stdout == ""


def test_logs_whose_file_was_renamed_are_still_shown(running: Aigw) -> None:
    log = running.home / "logs" / "llamacpp.log"
    before = running.run("logs", "llamacpp", "-n", "3").stdout
    away = log.rename(log.with_suffix(".1"))
    try:
        assert running.run("logs", "llamacpp", "-n", "3").stdout == before
    finally:
        away.rename(log)


def test_logs_that_follow_show_what_the_engine_writes(running: Aigw) -> None:
    with running.started("logs", "llamacpp", "--follow", "-n", "1") as following:
        following.says("\n")
        before = following.text()
        running.ask()
        following.says("stop processing")
        assert following.interrupt() == 130
    assert following.text().startswith(before)


def test_tail_shows_a_request_as_it_finishes(running: Aigw) -> None:
    with running.started("tail") as tail:
        tail.says("STATUS")
        running.ask()
        assert re.search(rf"\d\d:\d\d:\d\d +200 +{MODEL} +llamacpp .*\d+\+\d+", tail.says(MODEL))
        httpx.post(f"{running.url}/v1/chat/completions", json={"model": "nobody", "messages": []})
        assert "404" in tail.says("model_not_found")
        assert tail.interrupt() == 130


def test_tail_as_json_tells_beginning_and_end(running: Aigw) -> None:
    with running.started("tail", "--json") as tail:
        # Nothing says that it listens, so requests are made until it has heard one.
        for _ in range(20):
            running.ask()
            if "finished" in tail.text():
                break
        events = [json.loads(line) for line in tail.says("finished").splitlines()]
        tail.interrupt()
    finished = next(event for event in events if event["event"] == "finished")
    assert (finished["model"], finished["backend"], finished["status"]) == (MODEL, "llamacpp", 200)
    assert finished["completion_tokens"] > 0
    assert finished["duration_ms"] > finished["overhead_ms"] >= 0


def test_test_routing_tells_what_the_router_would_do(running: Aigw) -> None:
    answer = running.json("test-routing", "chat")
    assert answer["matched"] == "alias"
    assert [(c["backend"], c["model"], c["kept"]) for c in answer["candidates"]] == [("llamacpp", MODEL, True)]
    assert "llamacpp" in running.run("test-routing", f"llamacpp/{MODEL}").stdout


def test_test_routing_without_the_only_backend_has_nothing_left(running: Aigw) -> None:
    said = running.run("test-routing", "chat", "--assume-down", "llamacpp", "--explain", code=1).stdout
    assert "assumed down" in said


def test_test_routing_names_what_is_near_an_unknown_model(running: Aigw) -> None:
    assert MODEL in running.run("test-routing", "smollm:135m", code=4).stderr
    assert running.json("test-routing", "smollm:135m", code=4)["nearest"] == [MODEL]


@pytest.mark.parametrize(
    "command",
    [["logs"], ["why"], ["events"], ["stop"], ["start"], ["restart"], ["test-routing", "chat", "--assume-down"]],
)
def test_an_unknown_backend_is_answered_with_those_that_there_are(running: Aigw, command: list[str]) -> None:
    said = running.run(*command, "lamacpp", code=4).stderr
    assert "there is no backend 'lamacpp'" in said
    assert "choose from: llamacpp" in said


@pytest.mark.parametrize(
    "command", [["up", "--profile"], ["profile", "use"], ["profile", "validate"], ["profile", "show"]]
)
def test_an_unknown_profile_is_answered_with_those_that_there_are(running: Aigw, command: list[str]) -> None:
    said = running.run(*command, "startr", code=4).stderr
    assert "starter" in said


@pytest.mark.parametrize(
    "wrong", [["upp"], ["status", "--all"], ["logs"], ["pull"], ["logs", "llamacpp", "-n", "many"]]
)
def test_wrong_usage_exits_with_2_and_says_where_help_is(running: Aigw, wrong: list[str]) -> None:
    assert "--help" in running.run(*wrong, code=2).stderr


@pytest.mark.parametrize("command", [["up", "--profile"], ["profile", "use"], ["profile", "validate"]])
def test_an_invalid_profile_is_told_with_each_place_and_changes_nothing(running: Aigw, command: list[str]) -> None:
    before = running.backend()["pid"]
    wrong = running.folder / "wrong.yaml"
    wrong.write_text("version: 1\nbackends:\n  b:\n    engine: vlm\n    prot: 1\nroutes:\n  chat: {alias: b}\n")
    said = running.run(*command, str(wrong), code=5).stderr
    assert re.search(r"wrong\.yaml:4:\d+: backends\.b\.engine: .*'?\"?vlm.*vllm", said)
    assert running.backend()["pid"] == before
    assert running.status()["profile"] == "test"


def test_an_error_as_json_is_one_document(running: Aigw) -> None:
    error = running.json("logs", "lamacpp", code=4)["error"]
    assert error["code"] == "unknown_backend"
    assert set(error) == {"code", "message", "hint", "details"}
    assert "llamacpp" in error["details"]


def test_profile_list_marks_the_active_one(running: Aigw) -> None:
    own = running.home / "config/profiles/broken.yaml"
    own.parent.mkdir(parents=True, exist_ok=True)
    own.write_text("version: 1\nbackends: {b: {engine: llamacp}}\n")
    listed = {profile["name"]: profile for profile in running.json("profile", "list")}
    assert listed.keys() >= {"starter", "workstation", "broken"}
    assert "broken.yaml:2:" in listed["broken"]["problems"][0]
    assert "broken.yaml:2:" in running.run("profile", "list").stdout


def test_up_again_leaves_everything_as_it_is(running: Aigw) -> None:
    before = running.status()
    running.run("up")
    after = running.status()
    assert after["backends"][0]["pid"] == before["backends"][0]["pid"]
    assert (after["daemon"]["pid"], after["gateway"]["pid"]) == (before["daemon"]["pid"], before["gateway"]["pid"])
