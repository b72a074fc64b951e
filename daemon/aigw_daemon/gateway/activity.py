"""Wakes the reporter: every lane holds the worker's `Activity`, so no caller has to remember to report."""

import asyncio


class Activity:
    """Shared by all lanes of a worker and its reporter.

    The hot path pays one check: ``if activity.asleep: activity.wake()``. The reporter falls asleep only while every
    lane is empty and everything is reported, so only what begins (an entrance, a place in a line, a circuit that
    moves, a record) has to wake it; what ends finds it awake.
    """

    __slots__ = ("_woken", "asleep")

    def __init__(self) -> None:
        self.asleep = True
        """Whether the reporter sleeps until `wake`."""
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Have the reporter look at the lanes within its interval, until it falls asleep again."""
        self.asleep = False
        self._woken.set()

    async def wait(self) -> None:
        """Return at the next `wake`, or at once after one that nobody has waited for yet."""
        await self._woken.wait()
        self._woken.clear()
