"""Watching one process through its pidfd: when it ends, how it ended, and that it is reaped exactly once."""

import asyncio
import os
import select
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from aigw_daemon.identity import Identity
from aigw_daemon.state_file import Member
from aigw_daemon.supervisor import proctable
from aigw_daemon.supervisor.failures import Exit
from aigw_daemon.supervisor.launcher import LogStart

_STEP_SECONDS: Final = 0.005


class LocalProcess:
    """A leader on this machine, watched through its pidfd; the launcher makes these."""

    def __init__(self, name: str, identity: Identity, descriptor: int, log_start: LogStart | None = None) -> None:
        loop = asyncio.get_running_loop()
        self.name = name
        self.log_start = log_start
        self.members: tuple[Member, ...] = ()
        self._identity = identity
        self._descriptor: int | None = descriptor
        self._loop = loop
        self._exit: asyncio.Future[Exit] = loop.create_future()
        # A pidfd becomes readable when its process has ended, all its threads included.
        loop.add_reader(descriptor, self._ended)

    @property
    def identity(self) -> Identity:
        """See Handle."""
        return self._identity

    @property
    def running(self) -> bool:
        """Whether the leader has not ended; its PID and group can't belong to anybody else then."""
        return not self._exit.done()

    @property
    def exit(self) -> Exit | None:
        """How it ended, once it has."""
        return self._exit.result() if self._exit.done() else None

    async def wait(self) -> Exit:
        """See Handle."""
        return await asyncio.shield(self._exit)

    async def ends_within(self, seconds: float) -> bool:
        """Whether it ends in that time."""
        done, _ = await asyncio.wait({self._exit}, timeout=seconds)
        return bool(done)

    def close(self) -> None:
        """Stop watching; the process is left as it is."""
        if self._descriptor is not None:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None

    def _ended(self) -> None:
        descriptor = self._descriptor
        if descriptor is not None:
            ended = reap(descriptor)
            self.close()
            self._exit.set_result(ended)


def reap(descriptor: int) -> Exit:
    """The status of an ended child, by pidfd; an exit that nobody knows when it was not our child (rule A10)."""
    try:
        status = os.waitid(os.P_PIDFD, descriptor, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        return Exit()
    if status is None:
        return Exit()
    if status.si_code == os.CLD_EXITED:
        return Exit(code=status.si_status)
    return Exit(signal=status.si_status)


def reap_ended(descriptor: int) -> None:
    """Reap the process of a pidfd if it is a child of ours that has ended; otherwise do nothing."""
    with suppress(ChildProcessError):
        os.waitid(os.P_PIDFD, descriptor, os.WEXITED | os.WNOHANG)


def open_member(member: Member) -> int | None:
    """A pidfd of this very process; None when it is gone."""
    try:
        descriptor = os.pidfd_open(member.pid)
    except OSError:
        return None
    # Compared after the pidfd was opened: from here on the number can't come to mean another process.
    found = proctable.read(member.pid)
    if found is not None and found.start_ticks == member.start_ticks:
        return descriptor
    os.close(descriptor)
    return None


async def all_ended(descriptors: Sequence[int], seconds: float) -> bool:
    """Whether the processes of all these pidfds end in that time."""
    deadline = time.monotonic() + seconds
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    while len(poll.poll(0)) < len(descriptors):
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(_STEP_SECONDS)
    return True
