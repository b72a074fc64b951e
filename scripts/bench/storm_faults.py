"""The storm's faults: SIGKILL, or SIGSTOP and SIGCONT, of the worker, the daemon, engines, their children and Redis."""

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

COOKIE: Final = "AIGW_INSTANCE"
NAME: Final = "AIGW_BACKEND"
WORKER, REDIS, DAEMON, LEADER, CHILD = "worker", "redis", "daemon", "leader", "child"
VICTIMS: Final = (WORKER, DAEMON, LEADER, CHILD, REDIS)
PAUSES: Final = (1.0, 4.0)
"""Seconds between two faults, from and to."""
FREEZES: Final = (0.3, 3.0)


class Faults:
    """Strikes until it is told to stop. ``daemon`` gives the daemon's PID, which carries no cookie."""

    def __init__(self, home: Path, engines: tuple[str, ...], daemon: Callable[[], int | None], seed: int) -> None:
        self.done: Counter[str] = Counter()
        self.worker_deaths: list[float] = []
        self._home = home
        self._engines = engines
        self._daemon = daemon
        self._choose = random.Random(seed)

    async def run(self, seconds: float) -> None:
        """Strike for so long."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            await asyncio.sleep(min(left, self._choose.uniform(*PAUSES)))
            victim, freeze = self._choose.choice(VICTIMS), self._choose.random() < 0.5
            pid = await asyncio.to_thread(self._find, victim)
            if pid is not None:
                await self._strike(victim, pid, freeze=freeze)

    async def _strike(self, victim: str, pid: int, *, freeze: bool) -> None:
        with suppress(ProcessLookupError):
            if freeze:
                self.done[f"{victim} frozen"] += 1
                os.kill(pid, signal.SIGSTOP)
                await asyncio.sleep(self._choose.uniform(*FREEZES))
                os.kill(pid, signal.SIGCONT)
                return
            self.done[f"{victim} killed"] += 1
            if victim == WORKER:
                self.worker_deaths.append(time.monotonic())
            os.kill(pid, signal.SIGKILL)

    def _find(self, victim: str) -> int | None:
        if victim == DAEMON:
            return self._daemon()
        running = living(self._home)
        if victim in {WORKER, REDIS}:
            names = {WORKER: "gateway", REDIS: "redis"}
            found = [process for process, name in running if names[victim] in name]
        else:
            pids = {process.pid for process, _ in running}
            engines = [process for process, name in running if name in self._engines]
            with suppress(psutil.Error):
                engines = [each for each in engines if (_parent(each) in pids) is (victim == CHILD)]
            found = engines
        return self._choose.choice(sorted(process.pid for process in found)) if found else None


def living(home: Path) -> list[tuple[psutil.Process, str]]:
    """Every living process of this home by the cookie in its environment, and which backend it belongs to."""
    instance = home / "state/instance"
    cookie = instance.read_text().strip() if instance.exists() else None
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            env = process.environ() if process.status() != psutil.STATUS_ZOMBIE else {}
            if cookie is not None and env.get(COOKIE) == cookie:
                found.append((process, env.get(NAME, "")))
    return found


def _parent(process: psutil.Process) -> int:
    return int(process.ppid())
