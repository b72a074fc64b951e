"""A whole aigw for a test: a home and ports of its own, driven through its command line, gone afterwards."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
from openai import OpenAI

from tests.support.engines import llama_server, smollm2
from tests.support.wait import eventually_now

MODEL = "smollm2:135m"
PROGRAM = (sys.executable, "-m", "aigw_cli.main")


def free_port() -> int:
    """A port that nobody listened on a moment ago, on either loopback."""
    with socket.create_server(("127.0.0.1", 0)) as holder:
        return int(holder.getsockname()[1])


def llamacpp_section(runner: str = "embedded", name: str = "llamacpp", model: str = MODEL, context: int = 2048) -> str:
    """A llama.cpp backend with the small model, as an entry of ``backends``."""
    binary = f"\n            binary: {llama_server()}" if runner == "binary" else ""
    return textwrap.indent(
        textwrap.dedent(f"""\
          {name}:
            engine: llamacpp
            runner: {runner}{binary}
            model: {smollm2()}
            served_name: "{model}"
            context: {context}
        """),
        "  ",
    )


def profile_text(
    port: int,
    *,
    runner: str = "embedded",
    extra: str = "",
    backends: str | None = None,
    context: int = 2048,
    names: Iterable[str] = ("chat",),
) -> str:
    """One llama.cpp backend with the small model (or ``backends``), limits raised for tests that kill on purpose.

    ``names`` are aliases of the model; ``extra`` is more of the profile's sections.
    """
    aliases = "".join(f'  "{name}": {{alias: "{MODEL}"}}\n' for name in names)
    head = f"""
        version: 1
        description: one small model, for a test
        gateway: {{port: {port}}}
        restart: {{crash_exits: 1000, failed_starts: 1000}}
    """
    section = llamacpp_section(runner, context=context) if backends is None else backends
    routes = f"routes:\n{aliases}" if aliases else ""
    return f"{textwrap.dedent(head)}{textwrap.dedent(extra)}\n{routes}backends:\n{section}"


NO_CACHE = "cache: {mode: off}\n"


class Aigw:
    """One home; the daemon in it is started and stopped by the commands that a test runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.port = free_port()
        runtime = folder / "run"
        runtime.mkdir(parents=True)
        self.env = {**os.environ, "AIGW_HOME": str(self.home), "XDG_RUNTIME_DIR": str(runtime), "NO_COLOR": "1"}

    @property
    def url(self) -> str:
        """The gateway's base address."""
        return f"http://127.0.0.1:{self.port}"

    def write_profile(self, text: str | None = None, name: str = "test", **options: Any) -> Path:
        """A profile file for `--profile`. Unless it says so itself, no answer is kept: tests ask engines."""
        path = self.folder / f"{name}.yaml"
        text = text or profile_text(self.port, **options)
        path.write_text(text if "cache:" in text else text.rstrip() + "\n" + NO_CACHE)
        return path

    def run(self, *arguments: str, code: int | None = 0, seconds: float = 90) -> subprocess.CompletedProcess[str]:
        """Run the command line; ``code`` is the exit code it must have (None: any)."""
        done = subprocess.run(
            [*PROGRAM, *arguments],
            env=self.env,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        if code is not None and done.returncode != code:
            raise AssertionError(
                f"aigw {' '.join(arguments)} ended with {done.returncode}, not {code}\n{done.stdout}\n{done.stderr}\n"
                f"--- the daemon's log\n{self.log('aigwd')}"
            )
        return done

    def json(self, *arguments: str, code: int | None = 0) -> Any:
        """What a command answers with `--json`: its one document."""
        return json.loads(self.run(*arguments, "--json", code=code).stdout)

    def events(self, *arguments: str, code: int | None = 0) -> list[dict[str, Any]]:
        """What a command that streams says with `--json`, line by line."""
        return [json.loads(line) for line in self.run(*arguments, "--json", code=code).stdout.splitlines()]

    @contextlib.contextmanager
    def started(self, *arguments: str) -> Iterator["Started"]:
        """A command that stays, its output in a file; killed at the end if it is still there."""
        # A file, not a pipe: nobody has to read along for the command to go on.
        output = self.folder / f"{'-'.join(re.findall(r'[a-z]+', ' '.join(arguments)))}.out"
        with output.open("w") as target:
            process = subprocess.Popen(
                [*PROGRAM, *arguments], env=self.env, cwd=self.folder, stdout=target, stderr=target, text=True
            )
        try:
            yield Started(process, output)
        finally:
            process.kill()
            process.wait()

    def up(self, *arguments: str, **options: Any) -> None:
        """Bring the test profile up, and wait until it is ready."""
        self.run("up", "--profile", str(self.write_profile(**options)), *arguments)

    def status(self) -> dict[str, Any]:
        """What `aigw status --json` says."""
        found: dict[str, Any] = self.json("status")
        return found

    def backend(self, name: str = "llamacpp") -> dict[str, Any]:
        """One backend of the status."""
        return next(backend for backend in self.status()["backends"] if backend["name"] == name)

    def log(self, name: str) -> str:
        """One of the home's logs, its end."""
        path = self.home / "logs" / f"{name}.log"
        return path.read_text(errors="replace")[-6000:] if path.exists() else ""

    def processes(self, backend: str | None = None) -> list[psutil.Process]:
        """Every living process of this home, by the cookie in its environment; of one backend, or all."""
        instance = self.home / "state/instance"
        cookie = instance.read_text().strip() if instance.exists() else None
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.status() == psutil.STATUS_ZOMBIE or cookie is None:
                    continue
                env = process.environ()
                if env.get("AIGW_INSTANCE") == cookie and backend in {None, env.get("AIGW_BACKEND")}:
                    found.append(process)
        return found

    def connect(self) -> socket.socket:
        """A bare connection to the gateway."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def engine(self, name: str = "llamacpp") -> httpx.Client:
        """A client of the engine itself, past the gateway, with the key that only aigw and the engine know."""
        shown = self.backend(name)
        key = psutil.Process(shown["pid"]).environ()["LLAMA_API_KEY"]
        # A new connection each time: engines close idle ones, and httpx may notice too late.
        fresh = httpx.Limits(max_keepalive_connections=0)
        headers = {"Authorization": f"Bearer {key}"}
        return httpx.Client(base_url=shown["address"], headers=headers, timeout=10, limits=fresh)

    def kill_daemon(self, number: signal.Signals = signal.SIGKILL) -> int:
        """Signal the daemon by its own PID and wait until it is gone."""
        pid = int(self.status()["daemon"]["pid"])
        os.kill(pid, number)
        eventually_now(lambda: not alive(pid), what=f"the end of daemon {pid}")
        return pid

    def openai(self, **options: Any) -> OpenAI:
        """The real client, without retries of its own: a test sees what aigw answers."""
        return OpenAI(base_url=f"{self.url}/v1", api_key="not-needed", **{"max_retries": 0, "timeout": 60, **options})

    def ask(self, prompt: str = "Say hi.", **options: Any) -> str:
        """One short chat answer."""
        with self.openai() as client:
            answer = client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": prompt}], max_tokens=8, **options
            )
        return str(answer.choices[0].message.content)

    def health(self) -> httpx.Response:
        """`GET /health`."""
        return httpx.get(f"{self.url}/health", timeout=10)

    def end(self) -> None:
        """Stop everything, and fail when something of this home is left."""
        self.run("down", code=None)
        left = self.processes()
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        assert not left, f"left behind: {[(process.pid, process.name()) for process in left]}"


class Started:
    """A command that runs beside the test."""

    def __init__(self, process: subprocess.Popen[str], output: Path) -> None:
        self.process = process
        self.output = output

    def text(self) -> str:
        """What it has said so far."""
        return self.output.read_text()

    def says(self, words: str, seconds: float = 30) -> str:
        """Wait until it has said this; answers all that it has said."""
        eventually_now(lambda: words in self.text(), seconds=seconds, what=f"{words!r} in {self.output.name}")
        return self.text()

    def interrupt(self, seconds: float = 30) -> int:
        """Ctrl-C; answers its exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(seconds)


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
