"""How often a Redis that doesn't answer is tried: five times soon, then once a minute (rule B22). Pure."""

import random
from collections.abc import Callable
from typing import Final

FAILURES_TO_OPEN: Final = 5
"""In a row. From then on there is one try in `OPEN_SECONDS`, and its failure starts the next wait."""
OPEN_SECONDS: Final = 60.0
FIRST_PAUSE: Final = 0.5
"""Seconds after the first failure; doubled for each further one, so that a Redis that restarts is soon back."""
JITTER: Final = 0.2


class Pace:
    """Counts the failures of one connection's user. Nobody waits for it: while it pauses, the cache does without."""

    def __init__(self, random: Callable[[], float] = random.random, unit: float = 1.0) -> None:
        self._random = random
        self._unit = unit
        self.failures = 0
        """In a row."""

    @property
    def open(self) -> bool:
        """Whether so many failed that only one probe in a while is left."""
        return self.failures >= FAILURES_TO_OPEN

    def failed(self) -> None:
        """An operation, or an attempt to connect."""
        self.failures += 1

    def succeeded(self) -> None:
        """An operation: that a connection comes about is not enough, for a slow Redis accepts them, too."""
        self.failures = 0

    def pause(self) -> float:
        """Seconds until the next try."""
        if not self.failures:
            return 0.0
        seconds = OPEN_SECONDS if self.open else FIRST_PAUSE * 2.0 ** (self.failures - 1)
        return self._unit * seconds * (1 + JITTER * (2 * self._random() - 1))
