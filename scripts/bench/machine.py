"""What the benchmark needs of the machine: tools, cores, clocks of CPU time, and a description for the report."""

import datetime as dt
import os
import platform
import resource
import shutil
import socket
import subprocess
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

LOOK_SECONDS: Final = 0.25
REST_SECONDS: Final = 30.0
RESTING: Final = 0.1
"""Of a core: less is what any server does by itself."""

_PACKAGES = {"nginx": "nginx", "wrk": "wrk", "taskset": "util-linux"}


class BenchError(Exception):
    """Something the benchmark needs is missing or does not work; the text says what and what to do."""


@dataclass(frozen=True)
class Cores:
    """Which core runs what: every proxy the same one; load and upstream share the other if there are only two."""

    proxy: int
    load: int
    upstream: int


def check_tools() -> None:
    """Raises BenchError when a program is missing."""
    missing = [tool for tool in _PACKAGES if shutil.which(tool) is None]
    if missing:
        packages = " ".join(sorted({_PACKAGES[tool] for tool in missing}))
        raise BenchError(f"the benchmark needs {' and '.join(missing)}: on Debian, apt-get install {packages}")


def cores() -> Cores:
    """Takes the first cores that this process may use. Raises BenchError when there is only one."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) == 1:
        raise BenchError("the benchmark needs two cores: one for the proxy, one for the load and the upstream")
    return Cores(allowed[0], allowed[1], allowed[2] if len(allowed) > 2 else allowed[1])


def pinned(core: int, *command: str) -> list[str]:
    """The command on one core; its children stay there too."""
    return ["taskset", "-c", str(core), *command]


def free_port() -> int:
    """A loopback port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def cpu_seconds(pids: list[int]) -> float:
    """The CPU time, user and system, that these processes have used so far."""
    try:
        times = [psutil.Process(pid).cpu_times() for pid in pids]
    except psutil.NoSuchProcess as error:
        raise BenchError(f"process {error.pid} ended while it was measured") from error
    return sum(time.user + time.system for time in times)


def until_at_rest(pids: list[int]) -> bool:
    """Wait until these processes use next to no CPU time; whether that came true in time.

    A slow proxy goes on working for requests that the load has given up, and the next turn is on the same core.
    """
    before = cpu_seconds(pids)
    for _ in range(int(REST_SECONDS / LOOK_SECONDS)):
        time.sleep(LOOK_SECONDS)  # only the passing of time shows that nothing happens in it
        now = cpu_seconds(pids)
        if now - before < RESTING * LOOK_SECONDS:
            return True
        before = now
    return False


@dataclass(frozen=True)
class Memory:
    """What processes have in memory, in MB. PSS counts a page that several share once in all, RSS once in each."""

    pss: float
    rss: float


def memory_mb(pids: list[int]) -> Memory:
    """The memory of these processes together. Raises BenchError when one is gone."""
    try:
        taken = [psutil.Process(pid).memory_full_info() for pid in pids]
    except psutil.NoSuchProcess as error:
        raise BenchError(f"process {error.pid} ended while it was measured") from error
    return Memory(sum(each.pss for each in taken) / 1e6, sum(each.rss for each in taken) / 1e6)


def allow_many_files() -> None:
    """Lifts the limit of open files, for this process and those that it starts: 1,000 streams take 2,000 in a proxy."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def tree(pid: int) -> list[int]:
    """A process and all its descendants."""
    process = psutil.Process(pid)
    return [pid, *(child.pid for child in process.children(recursive=True))]


def describe() -> dict[str, str | int | float]:
    """The machine, for the report: figures mean little without it."""
    optimised = "--enable-optimizations" in str(sysconfig.get_config_var("CONFIG_ARGS"))
    return {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": f"{platform.python_version()}{'' if optimised else ', built without --enable-optimizations'}",
        "nginx": _version(["nginx", "-v"]),
        "load_before": round(os.getloadavg()[0], 2),
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return (done.stdout or done.stderr).strip().rpartition("/")[2]
