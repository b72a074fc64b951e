"""When a running engine counts as failing, and when as lost: pure counting over probes (rule A3)."""

from dataclasses import dataclass
from typing import Final

from aigw_daemon.supervisor.lifecycle import Event

INTERVAL: Final = 10.0
"""Seconds between two probes."""
ALLOWED: Final = 3
"""Probes in a row that fail, with nothing from the engine in between, before it is replaced."""


@dataclass
class Liveness:
    """The row of probes so far. ``heard`` grows while the engine sends: a busy one may be too busy to answer."""

    heard: float
    failures: int = 0
    quiet: int = 0
    """Of the failures, how many in a row came without a byte since the probe before."""

    def take(self, why: str | None, heard: float) -> Event:
        """Count one probe: READY when nothing is wrong with it, else FAILING or LOST."""
        if why is None:
            self.failures = self.quiet = 0
        else:
            self.failures += 1
            self.quiet = self.quiet + 1 if heard == self.heard else 0
        self.heard = heard
        if self.failures == 0:
            return Event.READY
        return Event.LOST if self.quiet >= ALLOWED else Event.FAILING
