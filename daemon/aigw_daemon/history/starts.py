"""How long each backend's last start took, read off its events. Pure counting.

The events outlive the daemon, so a fresh one knows it as well. A process that was taken up is no start.
"""

from collections.abc import Iterable
from typing import Final, Protocol

BEGINS: Final = frozenset({"start", "restart"})
READY: Final = "ready"
"""The events between which a start lies; another one in between means that this start came to nothing."""
SWEEP: Final = "sweep"
"""But for this: what an earlier process had left is killed first."""


class Happened(Protocol):
    """An event of `history.events`."""

    @property
    def at(self) -> float:
        """Seconds since the epoch."""

    @property
    def backend(self) -> str:
        """Whose it is."""

    @property
    def event(self) -> str:
        """Its word."""


class StartTimes:
    """Takes events as they happen, oldest first."""

    def __init__(self, events: Iterable[Happened] = ()) -> None:
        self._began: dict[str, float] = {}
        self._took: dict[str, float] = {}
        for event in events:
            self.take(event)

    def take(self, event: Happened) -> None:
        """Count one event in."""
        if event.event in BEGINS:
            self._began[event.backend] = event.at
        if event.event in BEGINS or event.event == SWEEP:
            return
        began = self._began.pop(event.backend, None)
        # The wall clock may have been set back meanwhile (rule A21): then nothing is known.
        if event.event == READY and began is not None and event.at >= began:
            self._took[event.backend] = event.at - began

    def seconds(self, backend: str) -> float | None:
        """From its last start to ready; None where none is known."""
        return self._took.get(backend)
