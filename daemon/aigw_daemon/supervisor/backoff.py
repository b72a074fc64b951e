"""How long to wait before the next start, and when to stop trying: pure arithmetic over times (rules A4, A5)."""

from dataclasses import dataclass, replace
from typing import Final

FIRST_DELAY: Final = 0.5
FACTOR: Final = 2.0
LONGEST_DELAY: Final = 30.0
JITTER: Final = 0.2
"""Of the delay, to either side: backends that fell together don't start together."""
STEADY_SECONDS: Final = 30.0
STEADY_FACTOR: Final = 10.0


@dataclass(frozen=True)
class Limits:
    """When failing counts as failed; the profile's ``restart:``. Times in seconds."""

    crash_exits: int = 5
    crash_window: float = 60.0
    failed_starts: int = 3
    retry_after: float = 300.0


@dataclass(frozen=True)
class History:
    """What of the past decides about the next start. Times in monotonic seconds."""

    failures: int = 0
    """In a row, since it was last steady."""
    failed_starts: int = 0
    """In a row, since it was last ready."""
    exits: tuple[float, ...] = ()
    """Unexpected ends, oldest first."""

    def after_failure(self, now: float, ready_for: float | None, limits: Limits) -> "History":
        """It failed: while starting when ``ready_for`` is None, else after being ready for so many seconds."""
        steady = ready_for is not None and ready_for >= steady_after(self.failures)
        exits = (*(at for at in self.exits if now - at < limits.crash_window), now)
        return replace(
            self,
            failures=1 if steady else self.failures + 1,
            failed_starts=self.failed_starts + 1 if ready_for is None else 0,
            exits=exits[-limits.crash_exits :],
        )

    def crash_loop(self, limits: Limits) -> str | None:
        """What makes this a crash loop, in words; None when it isn't one (rule A5)."""
        if self.failed_starts >= limits.failed_starts:
            return f"{self.failed_starts} failed starts in a row"
        if len(self.exits) >= limits.crash_exits and self.exits[-1] - self.exits[0] < limits.crash_window:
            return f"{len(self.exits)} unexpected exits in {limits.crash_window:.0f} s"
        return None

    def next_try(self, limits: Limits) -> str | None:
        """Which try the next start is, where starts have failed and it isn't a crash loop yet: ``try 2 of 3``."""
        if 0 < self.failed_starts < limits.failed_starts:
            return f"try {self.failed_starts + 1} of {limits.failed_starts}"
        return None

    @property
    def next_delay(self) -> float:
        """Seconds before the next start, without jitter (rule A4)."""
        return delay(self.failures)


def delay(failures: int) -> float:
    """Seconds to wait after so many failures in a row: 0.5, 1, 2 … 30."""
    if failures < 1:
        return 0.0
    # The exponent is bounded first: a long row of failures would overflow a float.
    return float(min(LONGEST_DELAY, FIRST_DELAY * FACTOR ** min(failures - 1, 16)))


def with_jitter(seconds: float, random: float) -> float:
    """Spread a delay by up to 20 % to either side; ``random`` is from 0 to 1."""
    return seconds * (1 + JITTER * (2 * random - 1))


def steady_after(failures: int) -> float:
    """How long it must be ready before its past failures are forgotten: max(30 s, 10 times the delay)."""
    return max(STEADY_SECONDS, STEADY_FACTOR * delay(failures))
