"""When a worker's crashes are too many to go on at once (pure)."""

from collections import deque

CRASHES = 5
WINDOW_SECONDS = 60.0


class CrashWindow:
    """Counts crashes of the last minute."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=CRASHES)

    def add(self, now: float) -> bool:
        """Note a crash at ``now`` (monotonic seconds); whether there were too many."""
        self._times.append(now)
        return len(self._times) == CRASHES and now - self._times[0] <= WINDOW_SECONDS
