"""Ollama for tests: the stand-in, and the real one where it is on the PATH, each as a server of a test's own."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.support import ollama_standin
from tests.support.aigw import free_port
from tests.support.wait import eventually_now

KINDS = ("stand-in", *(["real"] if shutil.which("ollama") else []))
"""What the contract is held against here."""


def program(kind: str, folder: Path) -> Path:
    """The program ``ollama`` of that kind."""
    found = shutil.which("ollama")
    return Path(found) if kind == "real" and found else ollama_standin.install(folder)


class Server:
    """One ``ollama serve`` with a models folder of its own."""

    def __init__(self, binary: Path, folder: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "ollama.log"
        self._binary = binary
        self._env = {
            **os.environ,
            "OLLAMA_HOST": f"127.0.0.1:{self.port}",
            "OLLAMA_MODELS": str(folder / "models"),
            "HOME": str(folder),
            "OLLAMA_NOPRUNE": "1",
        }
        self.process = self._spawn(self.log)
        eventually_now(lambda: self.answers() or self.process.poll() is not None, what="ollama answering")
        assert self.process.poll() is None, self.log.read_text()

    def answers(self) -> bool:
        """Whether somebody answers on the port."""
        try:
            return self.get("/api/version").status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, trust_env=False, timeout=10)

    def post(self, path: str, body: dict[str, Any], seconds: float = 60) -> httpx.Response:
        return httpx.post(self.url + path, json=body, trust_env=False, timeout=seconds)

    def events(self, path: str, body: dict[str, Any]) -> Iterator[str]:
        """The lines of a streamed answer. Raises httpx.TransportError when it is cut."""
        with httpx.stream("POST", self.url + path, json=body, trust_env=False, timeout=60) as answer:
            yield from (line for line in answer.iter_lines() if line)

    def runners(self) -> list[psutil.Process]:
        """Its children: one per loaded model."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def second(self) -> tuple[int, str]:
        """What becomes of another one on the same port: its exit code and what it said."""
        log = self.log.with_name("second.log")
        process = self._spawn(log)
        return process.wait(20), log.read_text()

    def _spawn(self, log: Path) -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            return subprocess.Popen(
                [self._binary, "serve"],
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )


@contextmanager
def served(binary: Path, folder: Path) -> Iterator[Server]:
    """Run it; afterwards neither it nor a runner of it is left."""
    server = Server(binary, folder)
    try:
        yield server
    finally:
        left = server.runners() if server.process.poll() is None else []
        server.process.kill()
        server.process.wait()
        for runner in left:
            with suppress(psutil.NoSuchProcess):
                runner.kill()
