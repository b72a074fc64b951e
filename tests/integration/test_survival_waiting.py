"""Waits end, whatever becomes of what is waited for: idle again, stopped, switched away or taken down by others."""

import json
from pathlib import Path

import pytest

from tests.support.aigw import Aigw, Started
from tests.support.stub_engine import install
from tests.support.wait import eventually_now


def two_engines(aigw: Aigw, *, load: float, name: str = "test", others: str = "") -> Path:
    """One that is ready at once, and one that takes so many seconds."""
    model = aigw.folder / "model.gguf"
    model.write_bytes(b"GGUF")
    stub = f"engine: llamacpp, binary: {install(aigw.folder / 'bin')}, model: {model}"
    return aigw.write_profile(
        f"version: 1\ngateway: {{port: {aigw.port}}}\nbackends:\n"
        f"  quick: {{{stub}, served_name: quick{others}}}\n"
        f'  slow: {{{stub}, served_name: slow, args: [--load, "{load}"]}}\n',
        name,
    )


def waits(aigw: Aigw, command: Started) -> None:
    """The command has seen that the quick one is ready, and waits for the slow one."""
    command.says("quick  ready")
    eventually_now(lambda: aigw.backend("slow")["state"] == "starting", what="the slow one starting")


def test_up_ends_though_one_has_gone_idle_before_the_other_is_ready(aigw: Aigw) -> None:
    profile = two_engines(aigw, load=5, others=", idle_stop: 1s")
    done = aigw.run("up", "--profile", str(profile), seconds=40)
    assert "quick  stopped" in done.stdout
    assert "a request starts it" in done.stdout
    assert "slow  ready" in done.stdout


@pytest.mark.parametrize("command", ["up", "start", "restart", "profile use"])
def test_a_wait_ends_when_another_command_stops_what_it_waits_for(aigw: Aigw, command: str) -> None:
    profile = two_engines(aigw, load=60)
    if command in {"start", "restart"}:
        with aigw.started("up", "--profile", str(profile)) as first:
            waits(aigw, first)
        aigw.run("stop", "slow")
        words = [command, "slow"]
    elif command == "profile use":
        aigw.run("up", "--profile", str(two_engines(aigw, load=0, name="before")))
        words = ["profile", "use", str(profile)]
    else:
        words = ["up", "--profile", str(profile)]
    with aigw.started(*words) as waiting:
        waiting.says("slow  starting")
        aigw.run("stop", "slow")
        assert waiting.process.wait(10) == 1
    assert "slow: it was stopped meanwhile" in waiting.text()


def test_a_wait_ends_when_the_profile_is_switched_or_everything_goes_down(aigw: Aigw) -> None:
    other = two_engines(aigw, load=60, name="other")
    other.write_text(other.read_text().replace("slow:", "slower:"))
    with aigw.started("up", "--profile", str(two_engines(aigw, load=60)), "--json") as waiting:
        waiting.says('"slow", "state": "starting"')
        with aigw.started("profile", "use", str(other)) as switching:
            assert waiting.process.wait(20) == 1
            assert json.loads(waiting.text().splitlines()[-1])["ended"] == ["slow"]
            switching.says("slower  starting")
            aigw.run("down")
            assert switching.process.wait(10) == 1
    assert "everything is being stopped" in switching.text()
