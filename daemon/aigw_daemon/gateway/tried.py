"""What one request has tried: which processes failed it and how, which of them may have died under it. Pure.

A process is part of a candidate's identity: an engine that was started again hasn't failed yet, whatever the process
before it did. Times are monotonic seconds.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

from aigw_daemon.gateway.failures import AttemptFailed
from aigw_daemon.gateway.plans import Hop
from aigw_daemon.link.messages import BackendView
from aigw_daemon.words import SERVING

CUT_NOTICE_SECONDS: Final = 1.0
"""How long the daemon may take to notice that the process behind a broken connection has died. It takes milliseconds;
a connection may also break for another reason, so after that the process counts as alive."""
REFUSED_NOTICE_SECONDS: Final = 15.0
"""The same where nobody listens any more: then it is dead, but its daemon may be dead as well, and the next one has to
be started and to take over first."""
DEADLY: Final = 2
"""Processes of one backend that died with a request in flight: then the request is the likely cause."""

Name = tuple[str, str]
"""A backend and a model of it."""
Key = tuple[str, str, int | None]
"""The same, and the process that was asked; None while there is none, and where aigw doesn't run it."""


def name_of(hop: Hop) -> Name:
    """The candidate, whichever process serves it."""
    return hop.candidate.backend, hop.candidate.model


def key_of(hop: Hop) -> Key:
    """The candidate as it is now."""
    return (*name_of(hop), hop.pid)


class Tried:
    """Filled in as a request goes along its candidates."""

    def __init__(self) -> None:
        self.failures: dict[Key, AttemptFailed] = {}
        """What each said last."""
        self.unsent = 0
        """Attempts that found nobody listening where aigw runs the engine: they cost nothing, and count for nothing."""
        self._asked: set[Key] = set()
        self._lost: dict[tuple[str, int], float] = {}
        """Processes that may have died under it, and until when the daemon may take to notice."""
        self._deaths: defaultdict[str, set[int]] = defaultdict(set)
        """Those among them that may have had the request, by backend."""

    def ask(self, hop: Hop) -> bool:
        """It is asked now; whether this very process has been asked before."""
        key = key_of(hop)
        again = key in self._asked
        self._asked.add(key)
        return again

    def was_asked(self, hop: Hop) -> bool:
        """Whether this very process has been asked before."""
        return key_of(hop) in self._asked

    def note(self, hop: Hop, failure: AttemptFailed, now: float) -> None:
        """It was asked, and failed."""
        self.failures[key_of(hop)] = failure
        backend = hop.candidate.backend
        if not failure.lost or hop.pid is None:
            failure.lost = False
            return
        self._lost[backend, hop.pid] = now + (CUT_NOTICE_SECONDS if failure.passing else REFUSED_NOTICE_SECONDS)
        if failure.sent:
            self._deaths[backend].add(hop.pid)
        else:
            self.unsent += 1

    def skip(self, hop: Hop, failure: AttemptFailed) -> None:
        """It can't be asked now."""
        self.failures[key_of(hop)] = failure

    def left(self, hops: Iterable[Hop]) -> list[Hop]:
        """Those that have not failed, last of all those that must come back from a death under this request."""
        left = [hop for hop in hops if key_of(hop) not in self.failures]
        if self._lost:
            died = {backend for backend, _ in self._lost}
            left.sort(key=lambda hop: hop.cold and hop.candidate.backend in died)
        return left

    def forgive(self, seconds: float) -> None:
        """So much time has passed: those whose failure may have passed can be asked once more."""
        self.failures = {key: failure for key, failure in self.failures.items() if not _has_passed(failure, seconds)}

    def unnoticed(self, backends: Mapping[str, BackendView], now: float) -> tuple[str, float] | None:
        """A backend whose process may have died while the daemon still calls it ready, and how long to wait for news.

        None when there is none, or its time is over.
        """
        waits = {
            backend: until - now
            for (backend, pid), until in self._lost.items()
            if until > now and (view := backends.get(backend)) is not None
            if view.pid == pid and view.state in SERVING
        }
        return max(waits.items(), key=lambda wait: wait[1], default=None)

    def killed(self) -> str | None:
        """The backend that died under the request too often for chance."""
        return next((backend for backend, pids in self._deaths.items() if len(pids) >= DEADLY), None)


def _has_passed(failure: AttemptFailed, seconds: float) -> bool:
    """Whether it may ask again after so many seconds; an engine's Retry-After is never undercut."""
    return failure.passing and (failure.retry_after or 0) <= seconds
