"""Random SIGKILL and SIGSTOP of every part of a live aigw under load; what its clients saw, and what was left behind.

`scripts/bench/storm` starts it. Two stand-in engines, one behind a route of its own and both behind another, the cache
in a managed Redis, clients of the openai library with its two retries and without. Every answer can be checked. Exit
code 1 when a request failed that need not, an answer was wrong or looked whole though it wasn't, or a process was left.
"""

import argparse
import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Final

import httpx
import psutil

from scripts.bench import storm_engine
from scripts.bench.storm_clients import Clients
from scripts.bench.storm_faults import Faults, living
from scripts.bench.storm_tally import INHERENT, is_clean, judge, lines, outages, table

ENGINES: Final = ("first", "second")
READY_SECONDS: Final = 60.0
END_SECONDS: Final = 60.0
STEP_SECONDS: Final = 0.05
SHOWN: Final = 20
LOG_BYTES: Final = 4_000
PROFILE: Final = """
version: 1
gateway: {{port: {port}}}
cache: {{redis: managed, ttl: 1m}}
restart: {{crash_exits: 1000, failed_starts: 1000}}
backends:
  first: {{engine: command, command: {command}, models: [first], max_concurrency: 64}}
  second: {{engine: command, command: {command}, models: [second], max_concurrency: 64}}
routes:
  alone: {{targets: [{{backend: first, model: first}}]}}
  pair: {{targets: [{{backend: second, model: second}}, {{backend: first, model: first}}]}}
"""


class Manager:
    """Keeps a daemon running, as a service manager would."""

    def __init__(self, folder: Path, port: int) -> None:
        self.home = folder / "home"
        self.pid: int | None = None
        self.over = False
        runtime = folder / "run"
        runtime.mkdir()
        self._env = {**os.environ, "AIGW_HOME": str(self.home), "XDG_RUNTIME_DIR": str(runtime)}
        self._profile = folder / "storm.yaml"
        program = f'["{sys.executable}", "{storm_engine.__file__}", "{{host}}", "{{port}}", "any"]'
        self._profile.write_text(PROFILE.format(port=port, command=program))

    async def run(self) -> None:
        """Start it, and start it again whenever it is gone."""
        arguments = ["--up", "--profile", str(self._profile)]
        while not self.over:
            daemon = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "aigw_daemon.main", *arguments,
                env=self._env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            self.pid, arguments = daemon.pid, []
            await daemon.wait()
            self.pid = None

    def log(self) -> str:
        """The end of the daemon's log."""
        return (self.home / "logs/aigwd.log").read_text(errors="replace")[-LOG_BYTES:]

    def end(self) -> None:
        """Have it stop everything."""
        self.over = True
        if self.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)


def main() -> int:
    """Runs what the options ask for."""
    options = _options()
    if shutil.which("redis-server") is None:
        print("redis-server is not on the PATH; install it, such as by: apt-get install redis-server", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="aigw-storm-") as folder:
        return asyncio.run(_storm(Path(folder), options))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench/storm", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="how long to strike (default 600)")
    parser.add_argument("--seed", type=int, default=1, help="of all that is random (default 1)")
    parser.add_argument("--clients", type=int, default=8, help="how many ask at a time (default 8)")
    return parser.parse_args()


async def _storm(folder: Path, options: argparse.Namespace) -> int:
    port = _free_port()
    manager = Manager(folder, port)
    faults = Faults(manager.home, ENGINES, lambda: manager.pid, options.seed)
    clients = Clients(f"http://127.0.0.1:{port}/v1", options.seed)
    left: list[str] = []
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(manager.run())
        try:
            await _until_ready(port)
            async with asyncio.TaskGroup() as load:
                load.create_task(clients.run(options.clients))
                await faults.run(options.seconds)
                clients.over = True
        finally:
            left = await _end(manager, running)
    return _report(clients, faults, left)


async def _until_ready(port: int) -> None:
    async with httpx.AsyncClient(trust_env=False) as client, asyncio.timeout(READY_SECONDS):
        while True:
            with suppress(httpx.TransportError):
                health = (await client.get(f"http://127.0.0.1:{port}/health")).json()
                if health.get("status") in {"ok", "healthy"}:
                    return
            await asyncio.sleep(STEP_SECONDS)


async def _end(manager: Manager, running: "asyncio.Task[None]") -> list[str]:
    """Stop everything; what is left then, in words, which is killed."""
    manager.end()
    await asyncio.wait({running}, timeout=END_SECONDS)
    if manager.pid is not None:
        print(f"the daemon did not end within {END_SECONDS:g} s; the end of its log:\n{manager.log()}", file=sys.stderr)
        os.kill(manager.pid, signal.SIGKILL)
        await asyncio.wait({running})
    orphans = living(manager.home)
    told = [f"{process.pid} of {name or 'nobody'}" for process, name in orphans]
    for process, _ in orphans:
        with suppress(psutil.Error):
            process.kill()
    return told


def _report(clients: Clients, faults: Faults, left: list[str]) -> int:
    without = outages(clients.asked, faults.worker_deaths)
    counts = table(clients.asked, without)
    print("\n".join(lines(counts)))
    print("\nfaults: " + ", ".join(f"{count} times {name}" for name, count in sorted(faults.done.items())))
    longest = max((asked.ended - asked.began for asked in clients.asked), default=0.0)
    print(f"the longest request took {longest:.1f} s; processes left at the end: {len(left)} {' '.join(left)}".rstrip())
    bad = [asked for asked in clients.asked if judge(asked, without) not in INHERENT]
    kinds = Counter(asked.error or f"got {asked.got!r}" for asked in bad)
    for what, count in kinds.most_common(SHOWN):
        print(f"  {count} times: {what}")
    return 0 if is_clean(counts) and not left else 1


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        return int(holder.getsockname()[1])


if __name__ == "__main__":
    raise SystemExit(main())
