"""A request that is refused changes nothing: what a killed daemon left running serves on, and is taken up again."""

import json
import os
import signal
import socket

import httpx
import pytest

from tests.support.aigw import Aigw, alive, free_port
from tests.support.stub_engine import install
from tests.support.wait import eventually_now

BROKEN = "\nroutez: {}\n"


@pytest.fixture
def left(aigw: Aigw) -> "Left":
    """An aigw with an engine of our own making, whose daemon has been killed."""
    whole = Left(aigw)
    whole.lose_daemon()
    return whole


class Left:
    """What a killed daemon left: a worker and an engine that serve on."""

    def __init__(self, aigw: Aigw) -> None:
        self.aigw = aigw
        model = aigw.folder / "model.gguf"
        model.write_bytes(b"GGUF")
        stub = f"{{engine: llamacpp, binary: {install(aigw.folder / 'bin')}, model: {model}, served_name: m}}"
        self.profile = aigw.write_profile(f"version: 1\ngateway: {{port: {aigw.port}}}\nbackends: {{stub: {stub}}}\n")
        aigw.run("up", "--profile", str(self.profile))
        self.pids = self.now()

    def lose_daemon(self) -> None:
        self.aigw.kill_daemon(signal.SIGKILL)
        assert self.serves()

    def now(self) -> dict[str, int]:
        found = {process.environ()["AIGW_BACKEND"]: process.pid for process in self.aigw.processes()}
        assert sorted(found) == ["gateway", "stub"]
        return found

    def serves(self) -> bool:
        """The same processes run, and a request is answered."""
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        answer = httpx.post(f"{self.aigw.url}/v1/chat/completions", json=body, timeout=10)
        return answer.status_code == 200 and self.now() == self.pids

    def replaces_the_engine(self) -> None:
        """The engine is looked after again: another one comes when it is killed."""
        engine = self.aigw.backend("stub")["pid"]
        assert engine == self.pids["stub"]
        os.kill(engine, signal.SIGKILL)
        eventually_now(
            lambda: self.aigw.backend("stub")["pid"] not in {engine, None}, seconds=20, what="another engine"
        )


def test_an_unknown_name_takes_nothing_down_and_brings_no_daemon(left: Left) -> None:
    for name in (["nosuch"], ["--profile", "nosuch"], ["--profile", "/nowhere/nosuch.yaml"]):
        assert "nosuch" in left.aigw.run("up", *name, code=4).stderr
        assert left.serves()
        assert left.aigw.run("status", code=3).stderr.count("still running without it") == 1
    left.aigw.run("up")
    assert left.serves()


@pytest.mark.parametrize("harm", ["typo", "gone", "not text"])
def test_a_broken_active_profile_is_told_and_what_runs_goes_on_with_it_as_it_was(left: Left, harm: str) -> None:
    whole = left.profile.read_bytes()
    if harm == "gone":
        left.profile.unlink()
    else:
        left.profile.write_bytes(whole + (BROKEN.encode() if harm == "typo" else b"\xff\xfe"))
    refused = left.aigw.run("up", code=4 if harm == "gone" else 5)
    assert str(left.profile) in refused.stderr
    assert left.serves()
    # A daemon that comes all the same goes on with what was applied last, and says so.
    left.aigw.run("pull", "nosuch", code=None)
    assert left.serves()
    status = left.aigw.status()
    assert [backend["name"] for backend in status["backends"]] == ["stub"]
    assert any("it goes on as it was applied last" in warning for warning in status["daemon"]["warnings"])
    left.aigw.run("up", code=None)
    assert left.serves()
    left.replaces_the_engine()
    left.profile.write_bytes(whole)
    left.aigw.run("up")
    assert left.aigw.status()["daemon"]["warnings"] == []


def test_a_daemon_restart_with_a_broken_profile_goes_on_with_it_as_it_was(aigw: Aigw) -> None:
    left = Left(aigw)
    left.profile.write_text(left.profile.read_text() + BROKEN)
    aigw.run("daemon", "restart")
    eventually_now(lambda: aigw.backend("stub")["state"] == "ready", what="the engine, taken up")
    assert left.serves()


def test_a_port_that_is_taken_takes_nothing_down(left: Left) -> None:
    with socket.create_server(("127.0.0.1", free_port())) as other:
        port = other.getsockname()[1]
        moved = left.aigw.write_profile(left.profile.read_text().replace(str(left.aigw.port), str(port)), "moved")
        refused = left.aigw.run("up", "--profile", str(moved), code=1)
    assert f"port {port}" in refused.stderr
    assert left.serves()
    assert left.aigw.backend("stub")["pid"] == left.pids["stub"]


def test_in_the_foreground_a_refusal_leaves_what_runs(left: Left) -> None:
    left.aigw.run("up", "--foreground", "--profile", "nosuch", code=4)
    left.profile.write_text(left.profile.read_text() + BROKEN)
    left.aigw.run("up", "--foreground", code=5)
    assert left.serves()


def test_what_is_kept_of_the_profile_is_private(aigw: Aigw) -> None:
    left = Left(aigw)
    kept = aigw.home / "state/profile.json"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert json.loads(kept.read_bytes())["file"] == str(left.profile)
    assert all(alive(pid) for pid in left.pids.values())
