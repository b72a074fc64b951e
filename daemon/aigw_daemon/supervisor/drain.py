"""Waiting until a backend has finished its requests, before its process is told to end."""

from collections.abc import Callable
from typing import Final

from aigw_daemon.supervisor.clock import Clock

POLL_SECONDS: Final = 0.05
SETTLE_SECONDS: Final = 0.3
"""How long it must have been idle: the gateway tells its counts ten times a second, and hears of the drain as late."""


async def drained(in_flight: Callable[[], int], clock: Clock, grace: float, hurried: Callable[[], bool]) -> None:
    """Return once nothing is in flight any more, after ``grace`` seconds, or when somebody is in a hurry."""
    began = busy_at = clock.monotonic()
    while not hurried() and (now := clock.monotonic()) - began < grace:
        if in_flight():
            busy_at = now
        elif now - busy_at >= SETTLE_SECONDS:
            return
        await clock.sleep(POLL_SECONDS)
