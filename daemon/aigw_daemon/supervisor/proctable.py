"""The process table of this machine, read from /proc. It only looks: signals are sent by `process.py` alone."""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

INSTANCE: Final = "AIGW_INSTANCE"
BACKEND: Final = "AIGW_BACKEND"
"""The two variables by which a process of ours, and of which backend, is recognised."""

PAGE: Final = os.sysconf("SC_PAGE_SIZE")
TICKS: Final = os.sysconf("SC_CLK_TCK")


class Process(NamedTuple):
    """One line of the table; see proc_pid_stat(5)."""

    pid: int
    name: str
    state: str
    ppid: int
    pgid: int
    sid: int
    cpu_ticks: int
    start_ticks: int
    resident_pages: int

    @property
    def zombie(self) -> bool:
        """Ended, and not yet reaped; counts as gone."""
        return self.state in {"Z", "X"}


class Cookie(NamedTuple):
    """Whose process it is: the instance of an aigw, and the backend."""

    instance: str
    backend: str


def read(pid: int) -> Process | None:
    """One process; None when there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The name, in parentheses, may itself hold spaces and parentheses: fields are counted after its last one.
    end = stat.rindex(b")")
    name = stat[stat.index(b"(") + 1 : end].decode(errors="replace")
    fields = stat[end + 2 :].split()
    state, (ppid, pgid, sid) = fields[0].decode(), map(int, fields[1:4])
    cpu_ticks = int(fields[11]) + int(fields[12])
    return Process(pid, name, state, ppid, pgid, sid, cpu_ticks, int(fields[19]), int(fields[21]))


def table() -> dict[int, Process]:
    """All processes, zombies included."""
    pids = (int(entry) for entry in os.listdir("/proc") if entry.isdigit())  # noqa: PTH208  # Path.iterdir costs twice
    return {pid: process for pid in pids if (process := read(pid)) is not None}


def cookie(pid: int) -> Cookie | None:
    """By its environment at start; None when it carries none, has erased it, or belongs to another user."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return None
    found = {}
    for entry in environment.split(b"\0"):
        variable, _, value = entry.partition(b"=")
        found[variable] = value
    instance = found.get(INSTANCE.encode())
    if instance is None:
        return None
    return Cookie(instance.decode(errors="replace"), found.get(BACKEND.encode(), b"").decode(errors="replace"))


def oom_kills() -> int:
    """How many processes the out-of-memory killer has killed since the boot; 0 where the kernel doesn't say."""
    with suppress(OSError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return 0


def memory_total() -> int:
    """Bytes of memory that the machine has, or that our control group may take; 0 where neither says."""
    found = []
    with suppress(OSError, ValueError):
        found.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    with suppress(OSError, ValueError, IndexError):
        # The first line: MemTotal, in kB.
        found.append(int(Path("/proc/meminfo").read_text().split(maxsplit=2)[1]) * 1024)
    return min(found, default=0)


def argv(pid: int) -> tuple[str, ...]:
    """Its arguments as they are now; empty when there is no such process, or it has erased them."""
    with suppress(OSError):
        content = Path(f"/proc/{pid}/cmdline").read_bytes()
        return tuple(part.decode(errors="surrogateescape") for part in content.removesuffix(b"\0").split(b"\0"))
    return ()


def line_of(processes: Mapping[int, Process], pid: int) -> set[int]:
    """The process, its parent, and so on up to the first one."""
    found: set[int] = set()
    while pid in processes and pid not in found:
        found.add(pid)
        pid = processes[pid].ppid
    return found


def descendants(processes: Mapping[int, Process], roots: Iterable[int]) -> set[int]:
    """The PIDs of all children of ``roots``, their children and so on, without the roots."""
    children: dict[int, list[int]] = {}
    for process in processes.values():
        children.setdefault(process.ppid, []).append(process.pid)
    found: set[int] = set()
    ahead = list(roots)
    while ahead:
        for child in children.get(ahead.pop(), ()):
            if child not in found:
                found.add(child)
                ahead.append(child)
    return found
