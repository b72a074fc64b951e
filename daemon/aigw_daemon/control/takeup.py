"""The first moments of a daemon that finds engines running: until it knows them, the worker knows more.

A worker that outlived its daemon routes on the last snapshot. A new one that showed backends as starting, while they
are merely being recognised, would hold up or turn away requests that the engines could answer.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Self

from aigw_daemon.identity import is_alive
from aigw_daemon.profile.backends import BackendSection
from aigw_daemon.profile.caching import REDIS, redis_section
from aigw_daemon.profile.model import Profile
from aigw_daemon.state_file import BackendRecord, Document
from aigw_daemon.supervisor.backend import BackendReport
from aigw_daemon.words import State

UNKNOWN = frozenset({State.STOPPED, State.STARTING, State.UNREACHABLE})
"""What a backend is before it has answered us; one that somebody else runs begins as unreachable."""
LONGEST_SECONDS = 5.0
"""An engine that has not been recognised by then is shown as it is."""


@dataclass(frozen=True)
class TakeUp:
    """Which backends are still to be taken up, and until when they are waited for (monotonic seconds)."""

    names: frozenset[str]
    deadline: float

    @classmethod
    def of(cls, document: Document, profile: Profile, *, then: Callable[[], None]) -> Self | None:
        """What a dead daemon left running of this profile; None: nothing. ``then`` is called at the deadline."""
        if not document.serving or document.applied != profile.file:
            return None
        redis = redis_section(profile.cache)
        sections = {**profile.backends, **({REDIS: redis} if redis is not None else {})}
        names = {
            name
            for name, record in document.backends.items()
            if record.wanted and (section := sections.get(name)) is not None and _may_serve(section, record)
        }
        if not names:
            return None
        asyncio.get_running_loop().call_later(LONGEST_SECONDS, then)
        return cls(frozenset(names), time.monotonic() + LONGEST_SECONDS)

    def is_over(self, reports: Iterable[BackendReport], record: Callable[[str], BackendRecord]) -> bool:
        """Whether each has been recognised, or is not wanted any more, or it takes too long."""
        if time.monotonic() >= self.deadline:
            return True
        known = {report.name for report in reports if report.state not in UNKNOWN}
        return not any(record(name).wanted for name in self.names - known)


def _may_serve(section: BackendSection, record: BackendRecord) -> bool:
    """Whether it answers although we know nothing of it yet: it outlived the daemon, or never was a process of ours."""
    return not section.managed or (record.identity is not None and is_alive(record.identity))
