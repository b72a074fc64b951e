"""When a running engine counts as hung: pure counting over looks at it (the design's rule: judged by progress).

An engine is hung when requests wait on it while nothing of it moves: no byte of an answer, no counter of its own, no
CPU time of its process tree. Any one of them is progress: a long prefill sends nothing and may not answer its
``/metrics``, but it computes.
"""

from dataclasses import dataclass
from typing import Final

CPU_SHARE: Final = 0.05
"""Of one core: what an engine that only waits stays below, probes of ours included."""
LONGEST_STEP: Final = 10.0
"""What one look may add, in seconds: if we ourselves were held up for longer, the engine is not to blame for it."""


@dataclass(frozen=True)
class Look:
    """One look at a running engine."""

    at: float
    """Monotonic seconds."""
    in_flight: int
    relayed: int
    """Grows with every piece of an answer."""
    cpu_seconds: float
    """Of its whole tree so far."""


class Hang:
    """How long requests have waited for one process without any progress."""

    def __init__(self) -> None:
        self._last: Look | None = None
        self._counter: float | None = None
        self._quiet = 0.0

    def take(self, look: Look) -> float:
        """Count one look; returns the seconds so far.

        They add up over requests that give up, and end with the first sign of progress: clients that leave after 30
        seconds and come again must not hide a hung engine.
        """
        last, self._last = self._last, look
        if last is None or self._moved(last, look):
            self._quiet = 0.0
        elif last.in_flight and look.in_flight:
            self._quiet += min(look.at - last.at, LONGEST_STEP)
        return self._quiet

    def hear(self, counter: float | None) -> float:
        """Take in the engine's own counter, None when it doesn't tell; returns the seconds as they are then."""
        if counter is not None:
            if self._counter is not None and counter != self._counter:
                self._quiet = 0.0
            self._counter = counter
        return self._quiet

    def _moved(self, last: Look, look: Look) -> bool:
        worked = look.cpu_seconds - last.cpu_seconds > CPU_SHARE * (look.at - last.at)
        return worked or look.relayed != last.relayed


def sentence(in_flight: int, limit: float) -> str:
    """What is said of a hung engine; ``limit`` in seconds."""
    requests = "1 request" if in_flight == 1 else f"{in_flight} requests"
    return f"hung: {requests} in flight and no progress for {limit:g} s"
