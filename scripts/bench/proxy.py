"""What the benchmark can start in front of an upstream, and how it tells that it relays."""

import os
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import httpx
import psutil

from scripts.bench.answers import MODEL
from scripts.bench.machine import BenchError, free_port, pinned, tree

HERE = Path(__file__).parent
READY_SECONDS = 60.0
SLOW_SECONDS = 2
_SLOW_START_SECONDS = 240.0
_STOP_SECONDS = 15.0
_LOG_LINES = 5


class Proxy(ABC):
    """Something that listens on `port` and relays to the upstream that `start` was given."""

    name: str
    slow = False
    """Takes milliseconds of CPU time for each request, and minutes to start where the core is shared."""

    def __init__(self, folder: Path, core: int) -> None:
        self.folder = folder
        self.core = core
        self.port = 0
        self.headers: dict[str, str] = {}
        """What it must be sent with each request."""
        folder.mkdir(parents=True, exist_ok=True)

    @abstractmethod
    def start(self, upstream_port: int) -> None:
        """Starts it in front of 127.0.0.1:`upstream_port`. Raises BenchError when it doesn't come up."""

    @abstractmethod
    def stop(self) -> None:
        """Ends it, started or not."""

    @abstractmethod
    def pids(self) -> list[int]:
        """The processes whose CPU time and memory are the price of relaying."""

    def seconds(self, asked: int) -> int:
        """How long a turn of it is: a slow one shows in two seconds what it can do."""
        return min(asked, SLOW_SECONDS) if self.slow else asked

    def wait_until_ready(self) -> None:
        """Waits until a chat request comes through. Raises BenchError with the end of the log otherwise."""
        deadline = time.monotonic() + (_SLOW_START_SECONDS if self.slow else READY_SECONDS)
        url = f"http://127.0.0.1:{self.port}/v1/chat/completions"
        request = {"model": MODEL, "messages": [{"role": "user", "content": "Are you there?"}]}
        seen = ""
        while time.monotonic() < deadline and not self.ended():
            try:
                answer = httpx.post(url, json=request, headers=self.headers, timeout=5)
                if answer.status_code == httpx.codes.OK:
                    return
                seen = f"{answer.status_code} {answer.text[:200]}"
            except httpx.HTTPError as error:
                seen = str(error)
            time.sleep(0.05)
        raise BenchError(f"{self.name} doesn't relay: {seen}\n{self.log_tail()}")

    def ended(self) -> bool:
        """Whether its process is gone already."""
        return False

    def log_tail(self) -> str:
        """The last lines that it wrote."""
        log = self.folder / "log"
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        return "\n".join(lines[-_LOG_LINES:])


class Direct(Proxy):
    """No proxy: the upstream itself, what everything else is added to."""

    name = "direct"

    def start(self, upstream_port: int) -> None:
        self.port = upstream_port

    def stop(self) -> None:
        pass

    def pids(self) -> list[int]:
        return []


class ProcessProxy(Proxy):
    """A proxy that is one child process, perhaps with children of its own."""

    environment: ClassVar[Mapping[str, str]] = {}
    _process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self, upstream_port: int) -> list[str]:
        """The command line that makes it listen on `self.port`."""

    def start(self, upstream_port: int) -> None:
        self.port = free_port()
        command = pinned(self.core, *self.command(upstream_port))
        environment = {**os.environ, **self.environment}
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=HERE.parent.parent, env=environment)
        try:
            self.wait_until_ready()
        except BenchError:
            self.stop()
            raise

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        family = [psutil.Process(pid) for pid in tree(process.pid)]
        process.terminate()
        _, left = psutil.wait_procs(family, timeout=_STOP_SECONDS)
        for each in left:
            each.kill()
        process.wait()

    def pids(self) -> list[int]:
        return tree(self._process.pid) if self._process else []

    def ended(self) -> bool:
        return self._process is None or self._process.poll() is not None


def nginx_command(folder: Path, template: Path, values: dict[str, str]) -> list[str]:
    """Fills the template in and gives the command that runs it; all of nginx's files stay in `folder`."""
    text = template.read_text()
    for key, value in values.items():
        text = text.replace(f"@{key}@", value)
    (folder / "nginx.conf").write_text(text)
    return ["nginx", "-p", str(folder), "-e", "error.log", "-c", "nginx.conf"]
