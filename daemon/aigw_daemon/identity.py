"""Telling one process from another that later got its number (rules A12, A16).

A PID is reused; a PID with its start time in ticks since boot, on one boot, is not. The wall clock plays no part.
"""

from functools import cache
from pathlib import Path

import msgspec

START_TICKS_FIELD = 22
"""Of /proc/PID/stat, counted from 1 (proc_pid_stat(5))."""


class Identity(msgspec.Struct, frozen=True):
    """One process, for ever. ``node`` is empty on this machine."""

    pid: int
    start_ticks: int
    boot_id: str
    pgid: int
    cookie: str
    argv: tuple[str, ...] = ()
    node: str = ""


@cache
def boot_id() -> str:
    """The kernel's identifier of this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_ticks(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None when there is none (a zombie counts as gone)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The name, in parentheses, may itself hold spaces and parentheses: fields are counted after its last one.
    fields = stat[stat.rindex(b")") + 2 :].split()
    if fields[0] in {b"Z", b"X"}:
        return None
    return int(fields[START_TICKS_FIELD - 3])


def is_suspended(pid: int) -> bool:
    """Whether the process is stopped (Ctrl-Z, SIGSTOP, a debugger) and does nothing until it is continued."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return stat[stat.rindex(b")") + 2 :][:1] in {b"T", b"t"}


def is_alive(identity: Identity) -> bool:
    """Whether this very process still runs, on this boot."""
    return identity.boot_id == boot_id() and identity.start_ticks == start_ticks(identity.pid)
