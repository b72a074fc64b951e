"""The README's first command, for real: a fresh checkout, the network, a real model, and the gateway that answers."""

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkout_copy import CheckoutCopy, copy_checkout

QUESTION = "3/3  In one sentence: what is a language model?\n"


class Newcomer:
    """Somebody with a fresh checkout, an aigw home and a port of their own, and this user's settings for pip."""

    def __init__(self, folder: Path) -> None:
        self.checkout: CheckoutCopy = copy_checkout(folder)
        self.environment = dict(os.environ) | {"AIGW_HOME": str(folder / "aigw")}
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = str(listener.getsockname()[1])

    def quickstart(self) -> str:
        """Its output, once it has succeeded."""
        done = self.checkout.run("quickstart", "--port", self.port, **self.environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def aigw(self, *arguments: str) -> str:
        command = [str(self.checkout.venv / "bin" / "aigw"), *arguments]
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=True, timeout=60
        ).stdout

    def pids(self) -> list[int]:
        """Daemon, gateway and engine."""
        status: dict[str, Any] = json.loads(self.aigw("status", "--json"))
        return [status["daemon"]["pid"], status["gateway"]["pid"], *(each["pid"] for each in status["backends"])]


@pytest.fixture
def newcomer(tmp_path: Path) -> Iterator[Newcomer]:
    newcomer = Newcomer(tmp_path)
    yield newcomer
    if newcomer.checkout.venv.exists():
        newcomer.aigw("down")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_one_command_leads_to_an_answer_and_the_same_again_does_nothing_twice(newcomer: Newcomer) -> None:
    first = newcomer.quickstart()
    running = newcomer.pids()
    second = newcomer.quickstart()

    for output in (first, second):
        answer, _, advice = output.partition(QUESTION)[2].partition("\n\n")
        assert answer.strip()
        assert f"http://127.0.0.1:{newcomer.port}/v1" in advice
    assert "install" in first
    assert "install" not in second
    assert newcomer.pids() == running
