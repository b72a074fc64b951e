"""A profile whose first link is an unreachable URL, and whose second can serve: what an operator is told of it."""

import os
import signal
from pathlib import Path

from tests.support.aigw import MODEL, Aigw, alive, free_port, llamacpp_section, profile_text
from tests.support.wait import eventually_now

ROUTES = f"""
routes:
  chain:
    targets: [{{backend: far, model: m}}, {{backend: llamacpp, model: "{MODEL}"}}]
  "gpt-*": {{alias: chain}}
"""


def chain(aigw: Aigw) -> Path:
    """The profile of this module."""
    far = f'  far: {{engine: openai, url: "http://127.0.0.1:{free_port()}/v1", models: [m]}}\n'
    return aigw.write_profile(profile_text(aigw.port, names=(), backends=llamacpp_section() + far, extra=ROUTES))


def test_a_chain_with_an_unreachable_link_is_up_and_every_screen_says_how(aigw: Aigw) -> None:
    profile = chain(aigw)
    said = aigw.run("up", "--profile", str(profile)).stdout
    assert "far  unreachable" in said
    assert "Routes   chain" in said
    assert aigw.events("up")[-1]["failed"] == []
    assert aigw.events("up", "--strict", code=1)[-1]["failed"] == ["far"]
    assert "far  unreachable" in aigw.run("start", "far", code=1).stdout

    refused = aigw.run("logs", "far", code=1).stderr
    assert refused.splitlines() == [
        "aigw: aigw doesn't run far, so it has no log of it",
        "  'aigw why far' explains its state",
    ]
    names = {entry["name"]: entry for entry in aigw.json("status", "--models")}
    assert (names["chain"]["backends"], names["chain"]["state"]) == (["far", "llamacpp"], "ready")
    assert (names["gpt-*"]["kind"], names[MODEL]["kind"]) == ("pattern", "model")

    profile.write_text(profile.read_text() + "# edited\n")
    told = f"{profile} has changed since it was loaded: 'aigw up' applies it"
    assert told in aigw.run("status").stdout
    assert told in aigw.run("restart", "llamacpp").stdout
    assert told not in aigw.run("up").stdout
    assert aigw.status()["profile_edited"] is False

    daemon = aigw.status()["daemon"]["pid"]
    os.kill(daemon, signal.SIGKILL)
    eventually_now(lambda: not alive(daemon), what="the end of the daemon")
    assert "llama.cpp is up" in aigw.run("logs", "llamacpp").stdout
    assert "ready" in aigw.run("events", "llamacpp").stdout
