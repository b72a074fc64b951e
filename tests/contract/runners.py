"""The engines that aigw can run, each as the contract's tests need it: made by aigw's own code, started for real.

A new kind of engine is one more entry of `RUNNERS`, and passes the same tests. Where engines differ in fact, the entry
says how.
"""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from aigw_daemon.home import Home
from aigw_daemon.link.messages import Secret
from aigw_daemon.models.resolve import resolve
from aigw_daemon.profile.backends import BackendSection
from aigw_daemon.profile.load import parse
from aigw_daemon.supervisor.engines.base import Engine, Launch, LaunchContext
from aigw_daemon.supervisor.engines.registry import ENGINES
from tests.support.aigw import free_port
from tests.support.engines import llama_server, smollm2

MODEL = "contract-model"
"""Under which each engine is told to serve its model."""
KEY = "a-key-of-the-test"
FRESH = httpx.Limits(max_keepalive_connections=0)


@dataclass(frozen=True)
class Runner:
    """One way in which an engine runs. ``section`` is the backend in a profile, without its model."""

    section: Mapping[str, Any]
    model: Path
    answers_any_name: bool
    """It answers a request for another model with the one that it has."""
    stops_within: float = 5.0
    """Seconds from SIGTERM to the end of its whole tree."""


RUNNERS: Mapping[str, Runner] = {
    "llamacpp-embedded": Runner({"engine": "llamacpp", "runner": "embedded", "context": 512}, smollm2(), True),
    "llamacpp-binary": Runner(
        {"engine": "llamacpp", "runner": "binary", "binary": str(llama_server()), "context": 512}, smollm2(), True
    ),
}


@dataclass(frozen=True)
class Command:
    """A command line by aigw's own code, with what it was made from."""

    kind: Engine
    section: BackendSection
    launch: Launch
    url: str


def command(runner: Runner, folder: Path, *, model: Path | None = None, port: int | None = None) -> Command:
    """What the supervisor would start for this runner."""
    declared = {**runner.section, "model": str(model or runner.model), "served_name": MODEL}
    # JSON is YAML.
    profile = parse(json.dumps({"version": 1, "backends": {"b": declared}}), str(folder / "contract.yaml"))
    section = profile.backends["b"]
    kind = ENGINES[section.engine]
    port = port or free_port()
    home = Home.from_environment({"AIGW_HOME": str(folder / "home")})
    launch = kind.launch(LaunchContext("b", section, profile, home, port, Secret(KEY), dict(os.environ), resolve))
    return Command(kind, section, launch, f"http://127.0.0.1:{port}")


@contextmanager
def process(made: Command, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The engine's process, its output in a file, as the supervisor starts it; killed with its tree at the end."""
    with log.open("wb") as output:
        started = subprocess.Popen(
            made.launch.argv,
            env=dict(made.launch.env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield started
    finally:
        for member in tree(started.pid):
            member.kill()
        started.wait()


def tree(pid: int) -> list[psutil.Process]:
    """The process and all below it, as far as they live."""
    try:
        leader = psutil.Process(pid)
        return [leader, *leader.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def client(made: Command, key: str | None = KEY) -> httpx.Client:
    """Asks the engine directly, on a new connection each time: engines close idle ones, and httpx may be too late."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx.Client(base_url=made.url, headers=headers, timeout=60, limits=FRESH)


def health(asked: httpx.Client, made: Command) -> int | None:
    """The status of its health path; None while nobody listens."""
    try:
        return asked.get(made.kind.health_path).status_code
    except httpx.TransportError:
        return None
