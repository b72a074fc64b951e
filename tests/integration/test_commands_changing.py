"""Commands that change something, end to end: up, down, start, stop, restart, use, daemon restart."""

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import httpx
import psutil

from tests.support.aigw import PROGRAM, Aigw, alive, llamacpp_section, profile_text
from tests.support.llamacpp import chat
from tests.support.wait import eventually_now

NEEDS_A_DAEMON = [
    ["status"], ["health"], ["start"], ["stop"], ["restart"], ["daemon", "restart"], ["tail"], ["logs", "llamacpp"],
    ["test-routing", "chat"], ["events"],
]  # fmt: skip


def asked(whole: Aigw) -> httpx.Response:
    """One chat request."""
    return httpx.post(f"{whole.url}/v1/chat/completions", json=chat(), timeout=60)


def test_without_a_daemon_commands_exit_with_3_and_say_what_starts_it(aigw: Aigw) -> None:
    for command in NEEDS_A_DAEMON:
        assert "'aigw up' starts it" in aigw.run(*command, code=3).stderr
    assert aigw.json("status", code=3)["error"]["code"] == "daemon_not_running"
    assert aigw.run("down").returncode == 0
    assert "starter" in aigw.run("profile", "list").stdout


def test_up_shows_the_way_to_ready_and_what_to_do_next(aigw: Aigw) -> None:
    profile = aigw.write_profile()
    said = aigw.run("up", "--profile", str(profile)).stdout
    assert "llamacpp  starting" in said
    assert "llamacpp  ready" in said
    assert f"{aigw.url}/v1" in said
    assert aigw.ask()


def test_up_as_json_ends_with_the_result(aigw: Aigw) -> None:
    events = aigw.events("up", "--profile", str(aigw.write_profile()))
    assert {"event": "state", "backend": "llamacpp", "state": "ready", "why": None} in events
    assert events[-1]["event"] == "result"
    assert events[-1]["ok"] is True
    assert events[-1]["failed"] == []


def test_stop_start_and_restart_change_the_engine_alone(aigw: Aigw) -> None:
    aigw.up()
    first, gateway = aigw.backend()["pid"], aigw.status()["gateway"]["pid"]
    assert "stopped" in aigw.run("stop", "llamacpp").stdout
    assert not alive(first)
    assert aigw.backend()["state"] == "stopped"
    refused = asked(aigw)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "service_unavailable")
    assert "llamacpp: stopped by the operator" in refused.json()["error"]["message"]
    assert {model["state"] for model in httpx.get(f"{aigw.url}/v1/models").json()["data"]} == {"stopped"}
    aigw.run("health", code=1)
    assert aigw.backend()["state"] == "stopped", "a request must not undo an operator's stop"
    aigw.run("start", "llamacpp")
    second = aigw.backend()["pid"]
    aigw.run("restart")
    third = aigw.backend()["pid"]
    assert len({first, second, third}) == 3
    told = aigw.json("why", "llamacpp")
    assert (told["well"], told["failure"], told["lines"]) == (True, None, [])
    assert asked(aigw).status_code == 200
    assert aigw.status()["gateway"]["pid"] == gateway


def test_down_stops_everything_and_frees_the_port(aigw: Aigw) -> None:
    aigw.up()
    assert len(aigw.processes()) >= 2
    assert aigw.run("down").stdout.endswith("everything is stopped\n")
    assert aigw.processes() == []
    socket.create_server(("127.0.0.1", aigw.port)).close()
    aigw.run("status", code=3)


def test_down_stops_what_a_dead_daemon_left(aigw: Aigw) -> None:
    aigw.up()
    engine = aigw.backend()["pid"]
    aigw.kill_daemon()
    assert alive(engine)
    assert asked(aigw).status_code == 200
    aigw.run("down")
    assert not alive(engine)
    assert aigw.processes() == []


def test_up_after_a_dead_daemon_finds_engine_and_gateway(aigw: Aigw) -> None:
    aigw.up()
    before = aigw.status()
    aigw.kill_daemon(signal.SIGKILL)
    aigw.run("up")
    after = aigw.status()
    assert after["daemon"]["pid"] != before["daemon"]["pid"]
    assert after["gateway"]["pid"] == before["gateway"]["pid"]
    assert after["backends"][0]["pid"] == before["backends"][0]["pid"]
    assert after["backends"][0]["restarts"] == 0
    assert asked(aigw).status_code == 200


def test_daemon_restart_replaces_the_program_and_nothing_else(aigw: Aigw) -> None:
    aigw.up()
    before = aigw.status()
    with aigw.openai() as client:
        stream = client.chat.completions.create(**chat("Count.", stream=True, max_tokens=60))
        next(stream)
        began = time.monotonic()
        assert "took over" in aigw.run("daemon", "restart").stdout
        assert list(stream)[-1].choices[0].finish_reason
    after = aigw.status()
    assert after["daemon"]["pid"] == before["daemon"]["pid"]
    assert after["daemon"]["uptime_s"] < time.monotonic() - began
    assert after["gateway"]["pid"] == before["gateway"]["pid"]
    assert after["backends"][0]["pid"] == before["backends"][0]["pid"]
    assert asked(aigw).status_code == 200


def test_daemon_restart_is_refused_while_the_state_cannot_be_written(aigw: Aigw) -> None:
    aigw.up()
    # A folder where the fresh file is to be stops root, too.
    in_the_way = aigw.home / "state/state.json.new"
    in_the_way.mkdir()
    said = aigw.run("daemon", "restart", code=1).stderr
    assert "cannot write" in said
    assert "free space there" in said
    assert asked(aigw).status_code == 200
    in_the_way.rmdir()
    assert "took over" in aigw.run("daemon", "restart").stdout


def test_profile_use_spares_what_is_unchanged(aigw: Aigw) -> None:
    one, two, three = (llamacpp_section(name=name, model=name, context=512) for name in ("one", "two", "three"))
    first = profile_text(aigw.port, backends=one + two, names=())
    second = profile_text(aigw.port, backends=one + three, names=())
    aigw.run("up", "--profile", str(aigw.write_profile(first, "first")))
    kept, gone = aigw.backend("one")["pid"], aigw.backend("two")["pid"]
    aigw.run("profile", "use", str(aigw.write_profile(second, "second")))
    status = aigw.status()
    assert status["profile"] == "second"
    assert {backend["name"]: backend["state"] for backend in status["backends"]} == {"one": "ready", "three": "ready"}
    assert aigw.backend("one")["pid"] == kept
    assert not alive(gone)
    assert httpx.get(f"{aigw.url}/v1/models/two").status_code == 404


def test_up_with_names_starts_these_only(aigw: Aigw) -> None:
    both = "".join(llamacpp_section(name=name, model=name, context=512) for name in ("one", "two"))
    profile = aigw.write_profile(profile_text(aigw.port, backends=both, names=()))
    aigw.run("up", "two", "--profile", str(profile))
    assert (aigw.backend("one")["state"], aigw.backend("two")["state"]) == ("stopped", "ready")


def test_a_taken_port_is_told_with_pid_and_program(aigw: Aigw) -> None:
    with socket.create_server(("127.0.0.1", aigw.port)):
        said = aigw.run("up", "--profile", str(aigw.write_profile()), code=1).stderr
    assert f"port {aigw.port}" in said
    assert f"PID {os.getpid()}" in said
    assert psutil.Process().name() in said
    assert "gateway.port" in said
    assert aigw.processes() == []
    eventually_now(lambda: aigw.run("status", code=None).returncode == 3, what="the end of the daemon brought for it")


def test_a_model_that_is_no_model_fails_with_the_lines_that_show_it(aigw: Aigw) -> None:
    broken = aigw.folder / "broken.gguf"
    broken.write_bytes(b"this is no model" * 100)
    section = f"  llamacpp: {{engine: llamacpp, runner: embedded, model: {broken}, served_name: m}}\n"
    text = profile_text(aigw.port, backends=section, names=())
    done = aigw.run("up", "--profile", str(aigw.write_profile(text)), code=1)
    assert f"llama.cpp can't read the model {broken}" in done.stdout + done.stderr
    assert aigw.backend()["state"] == "failed"
    assert aigw.backend()["log_tail"]
    assert aigw.health().status_code == 503


def test_a_model_file_that_is_not_there_is_told(aigw: Aigw) -> None:
    section = "  llamacpp: {engine: llamacpp, runner: embedded, model: /nowhere/x.gguf, served_name: m}\n"
    text = profile_text(aigw.port, backends=section, names=())
    done = aigw.run("up", "--profile", str(aigw.write_profile(text)), code=1)
    assert "there is no model file /nowhere/x.gguf" in done.stdout + done.stderr


def test_two_homes_run_beside_each_other(aigw: Aigw, tmp_path: Path) -> None:
    other = Aigw(tmp_path / "other")
    try:
        aigw.up()
        other.up()
        assert aigw.ask()
        aigw.run("down")
        assert other.ask()
        assert aigw.processes() == []
    finally:
        other.end()


def test_two_ups_at_once_make_one_daemon_and_one_engine(aigw: Aigw) -> None:
    command = [*PROGRAM, "up", "--profile", str(aigw.write_profile())]
    ups = [
        subprocess.Popen(command, env=aigw.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=90)[0] for process in ups]
    assert [process.returncode for process in ups] == [0, 0], said
    assert len(aigw.processes("llamacpp")) == 1
    assert asked(aigw).status_code == 200


def test_ctrl_c_ends_the_waiting_and_not_the_backends(aigw: Aigw) -> None:
    with aigw.started("up", "--profile", str(aigw.write_profile())) as up:
        up.says("starting")
        assert up.interrupt() == 130
    assert "still starting in the background:" in up.text()
    eventually_now(lambda: aigw.backend()["state"] == "ready", seconds=30, what="ready")


def test_in_the_foreground_ctrl_c_stops_everything(aigw: Aigw) -> None:
    with aigw.started("up", "--foreground", "--profile", str(aigw.write_profile())) as up:
        up.says(f"Gateway  {aigw.url}/v1")
        up.says("Models   ")
        assert up.interrupt() == 0
    assert "Ctrl-C stops everything." in up.text()
    assert aigw.processes() == []


def test_single_backends_do_not_go_with_the_foreground(aigw: Aigw) -> None:
    assert "--foreground" in aigw.run("up", "--foreground", "llamacpp", code=2).stderr
