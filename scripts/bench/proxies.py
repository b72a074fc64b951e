"""The proxies that are measured: each can be started in front of an upstream, and knows its processes."""

import contextlib
import json
import os
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from scripts.bench.answers import ANSWER, MODEL, MODELS
from scripts.bench.machine import BenchError, free_port, pinned, tree
from scripts.bench.vllm_router import vllm_router_program

HERE = Path(__file__).parent
READY_SECONDS = 60.0
_STOP_SECONDS = 15.0
_LOG_LINES = 5


class Proxy(ABC):
    """Something that listens on `port` and relays to the upstream that `start` was given."""

    name: str

    def __init__(self, folder: Path, core: int) -> None:
        self.folder = folder
        self.core = core
        self.port = 0
        folder.mkdir(parents=True, exist_ok=True)

    @abstractmethod
    def start(self, upstream_port: int) -> None:
        """Starts it in front of 127.0.0.1:`upstream_port`. Raises BenchError when it doesn't come up."""

    @abstractmethod
    def stop(self) -> None:
        """Ends it, started or not."""

    @abstractmethod
    def pids(self) -> list[int]:
        """The processes whose CPU time is the price of relaying."""

    def wait_until_ready(self) -> None:
        """Waits until a chat request comes through. Raises BenchError with the end of the log otherwise."""
        deadline = time.monotonic() + READY_SECONDS
        request = {"model": MODEL, "messages": [{"role": "user", "content": "Are you there?"}]}
        seen = ""
        while time.monotonic() < deadline and not self.ended():
            try:
                answer = httpx.post(f"http://127.0.0.1:{self.port}/v1/chat/completions", json=request, timeout=5)
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

    _process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self, upstream_port: int) -> list[str]:
        """The command line that makes it listen on `self.port`."""

    def start(self, upstream_port: int) -> None:
        self.port = free_port()
        command = pinned(self.core, *self.command(upstream_port))
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=HERE.parent.parent)
        try:
            self.wait_until_ready()
        except BenchError:
            self.stop()
            raise

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def pids(self) -> list[int]:
        return tree(self._process.pid) if self._process else []

    def ended(self) -> bool:
        return self._process is None or self._process.poll() is not None


class Nginx(ProcessProxy):
    """nginx `proxy_pass` with connections kept."""

    name = "nginx"

    def command(self, upstream_port: int) -> list[str]:
        return nginx_command(
            self.folder, HERE / "nginx.conf", {"PORT": str(self.port), "UPSTREAM_PORT": str(upstream_port)}
        )


class FixedUpstream(ProcessProxy):
    """nginx that answers by itself: what the request benchmark relays to."""

    name = "fixed upstream"

    def command(self, upstream_port: int) -> list[str]:  # noqa: ARG002  the end of the chain has no upstream
        values = {"PORT": str(self.port), "ANSWER": ANSWER, "MODELS": MODELS}
        return nginx_command(self.folder, HERE / "upstream.conf", values)


class StreamUpstream(ProcessProxy):
    """What the stream benchmark relays to. `events` per stream."""

    name = "stream upstream"

    def __init__(self, folder: Path, core: int, events: int) -> None:
        super().__init__(folder, core)
        self._events = events

    def command(self, upstream_port: int) -> list[str]:  # noqa: ARG002  the end of the chain has no upstream
        options = ["--port", str(self.port), "--events", str(self._events)]
        return [sys.executable, "-m", "scripts.bench.stream_upstream", *options]


class BareRelay(ProcessProxy):
    """Our dispatcher and upstream client on uvicorn, without features: the yardstick."""

    name = "bare relay"
    program = "bare_relay.py"

    def command(self, upstream_port: int) -> list[str]:
        options = ["--port", str(self.port), "--upstream-port", str(upstream_port)]
        return [sys.executable, str(HERE / self.program), *options]


class BareServer(BareRelay):
    """The same on the gateway's own server."""

    name = "bare relay, own server"
    program = "bare_server.py"


class VllmRouter(ProcessProxy):
    """The Rust router of the vLLM project, from its wheel."""

    name = "vllm-router"

    def command(self, upstream_port: int) -> list[str]:
        options = ["--host", "127.0.0.1", "--port", str(self.port), "--policy", "round_robin", "--log-level", "error"]
        metrics = ["--prometheus-host", "127.0.0.1", "--prometheus-port", str(free_port())]
        return [str(vllm_router_program()), *options, *metrics, "--worker-urls", f"http://127.0.0.1:{upstream_port}"]


class Aigw(Proxy):
    """aigw as an operator runs it: daemon and worker, all features on, the upstream as an `openai` backend."""

    name = "aigw"
    _worker = 0

    def start(self, upstream_port: int) -> None:
        profile = self.folder / "bench.yaml"
        profile.write_text(
            "version: 1\n"
            "gateway: {port: 0}\n"
            f"backends: {{upstream: {{engine: openai, url: 'http://127.0.0.1:{upstream_port}/v1'}}}}\n"
            f"routes: {{{MODEL}: {{targets: [upstream]}}}}\n"
        )
        self._command("up", "--profile", str(profile))
        gateway = json.loads(self._command("status", "--json"))["gateway"]
        self._worker = gateway["pid"]
        self.port = urlsplit(gateway["url"]).port or 0
        try:
            self.wait_until_ready()
        except BenchError:
            self.stop()
            raise

    def stop(self) -> None:
        if self._worker:
            self._worker = 0
            self._command("down")

    def pids(self) -> list[int]:
        return tree(self._worker) if self._worker else []

    def _command(self, *arguments: str) -> str:
        program = str(Path(sys.executable).with_name("aigw"))
        environment = {**os.environ, "AIGW_HOME": str(self.folder / "home")}
        command = pinned(self.core, program, *arguments)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            with contextlib.suppress(OSError):
                (self.folder / "log").write_text(done.stdout + done.stderr)
            raise BenchError(f"aigw {arguments[0]} failed with exit code {done.returncode}: {self.log_tail()}")
        return done.stdout


def nginx_command(folder: Path, template: Path, values: dict[str, str]) -> list[str]:
    """Fills the template in and gives the command that runs it; all of nginx's files stay in `folder`."""
    text = template.read_text()
    for key, value in values.items():
        text = text.replace(f"@{key}@", value)
    (folder / "nginx.conf").write_text(text)
    return ["nginx", "-p", str(folder), "-e", "error.log", "-c", "nginx.conf"]


ALL: tuple[type[Proxy], ...] = (Direct, Nginx, BareRelay, BareServer, VllmRouter, Aigw)
