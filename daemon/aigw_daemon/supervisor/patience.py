"""How long a start may take, and what it says meanwhile: pure decisions over its log and its CPU time (rule A2)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

CPU_STEP: Final = 1.0
"""Seconds of CPU that count as work: an idle Python process uses a little all the time."""


@dataclass(frozen=True)
class Stage:
    """A log line that tells how far a start is. In ``sentence``, ``{0}`` is the pattern's first group."""

    pattern: re.Pattern[str]
    sentence: str


def stage(pattern: str, sentence: str) -> Stage:
    """A stage whose pattern matches anywhere in a line."""
    return Stage(re.compile(pattern), sentence)


def progress(stages: Sequence[Stage], lines: Sequence[str]) -> str | None:
    """The stage that the newest telling line shows; else the last line, if any."""
    for line in reversed(lines):
        for candidate in stages:
            if match := candidate.pattern.search(line):
                return candidate.sentence.format(*match.groups())
    return lines[-1] if lines else None


@dataclass
class Patience:
    """Counts one start. ``limit`` and ``stall`` are seconds; a stall is a time without a new byte in the log or work.

    ``stall`` None: only the limit counts.
    """

    limit: float
    stall: float | None
    began: float
    moved: float
    """When it last did anything; ``began`` at first."""
    log_bytes: int = 0
    cpu_seconds: float = 0.0

    def over(self, now: float, log_bytes: int, cpu_seconds: float) -> str | None:
        """Take a look at it; why it is waited for no longer, if so."""
        # A log that shrinks was rotated: that, too, takes new lines.
        if log_bytes != self.log_bytes or cpu_seconds >= self.cpu_seconds + CPU_STEP:
            self.moved, self.log_bytes, self.cpu_seconds = now, log_bytes, cpu_seconds
        elif cpu_seconds < self.cpu_seconds:
            # A child has ended and takes its share along.
            self.cpu_seconds = cpu_seconds
        if now - self.began > self.limit:
            return f"it was not ready within {self.limit:g} s"
        if self.stall is not None and now - self.moved > self.stall:
            return f"it stalled: for {self.stall:g} s it neither wrote to its log nor used the CPU"
        return None
