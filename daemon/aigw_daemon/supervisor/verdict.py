"""What follows once nothing of a backend runs: pure (rules A4 to A6, A24, A26)."""

from dataclasses import dataclass

from aigw_daemon.supervisor import backoff
from aigw_daemon.supervisor.backoff import History, Limits
from aigw_daemon.supervisor.failures import Failure, FailureKind
from aigw_daemon.supervisor.lifecycle import Event, after_end


@dataclass(frozen=True)
class Ended:
    """How it came to run no more."""

    failure: Failure | None
    """None when it was asked to end."""
    wanted: bool
    again: bool
    """A start or restart was asked for meanwhile."""
    ready_for: float | None
    """Seconds; None when it never became ready."""


@dataclass(frozen=True)
class Verdict:
    """What follows."""

    event: Event
    history: History
    failure: Failure | None = None
    """As it is shown."""
    why: str | None = None
    """With what happens next."""
    delay: float = 0.0
    """Seconds before the next try; without meaning when there is none."""


def judge(ended: Ended, history: History, limits: Limits, now: float, random: float) -> Verdict:
    """Decide. ``now`` is in monotonic seconds, ``random`` from 0 to 1."""
    failure = ended.failure
    if failure is None or not ended.wanted or ended.again:
        return Verdict(after_end(wanted=ended.wanted, again=ended.again, failed=False, hopeless=False), history)
    if failure.permanent:
        # It is tried again only after something has changed: what was before counts no more.
        return Verdict(_failed(hopeless=True), History(), failure, failure.sentence)
    history = history.after_failure(now, ended.ready_for, limits)
    loop = history.crash_loop(limits)
    if loop is not None:
        sentence = f"crash loop: {loop}; the last time {failure.sentence}"
        failure = Failure(FailureKind.CRASH_LOOP, sentence, failure.lines)
    delay = limits.retry_after if loop is not None else backoff.with_jitter(history.next_delay, random)
    # Of a long wait only the rhythm is said: the sentence stays on the screen, and a time to go would soon be wrong.
    next_try = f"tried again every {_duration(delay)}" if loop is not None else f"trying again in {_duration(delay)}"
    count = history.next_try(limits) if loop is None else None
    why = f"{failure.sentence}; {next_try}{f' ({count})' if count is not None else ''}"
    return Verdict(_failed(hopeless=loop is not None), history, failure, why, delay)


def _failed(*, hopeless: bool) -> Event:
    return after_end(wanted=True, again=False, failed=True, hopeless=hopeless)


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < backoff.LONGEST_DELAY else f"{seconds:.0f} s"
