"""Looking at a running engine for progress: what the gateway relays, its own counters, the CPU time of its tree."""

import asyncio
import contextlib
from typing import Final

from aigw_daemon.supervisor.backend import Address, Edges
from aigw_daemon.supervisor.bringup import Running
from aigw_daemon.supervisor.engines.base import LOOPBACK, Engine
from aigw_daemon.supervisor.hang import Hang, Look

STALE_SECONDS: Final = 5.0
"""After which what the gateway said last counts no more: it may be the gateway that is stuck."""
LOOKS: Final = 4
"""How often, at least, an engine is looked at within its limit."""


class Progress:
    """Follows one process of a backend."""

    def __init__(self, name: str, edges: Edges, kind: Engine) -> None:
        self._name = name
        self._edges = edges
        self._kind = kind
        self._hang = Hang()

    async def quiet(self, process: Running, limit: float) -> float:
        """Look once; returns for how many seconds requests have waited without any progress.

        ``limit``: after how many it counts as hung; a frozen engine must not hold up the look much beyond it.
        """
        edges, traffic = self._edges, self._edges.traffic(self._name)
        now = edges.clock.monotonic()
        in_flight = traffic.in_flight if now - traffic.told_at < STALE_SECONDS else 0
        usage = edges.launcher.usage(process.handle)
        quiet = self._hang.take(Look(now, in_flight, traffic.relayed, usage.cpu_seconds))
        counters = self._kind.counters
        if counters is None or not quiet:
            return quiet
        # Asked only when nothing else moves: an answer costs the engine something, and a frozen one costs us time.
        url = Address(LOOPBACK, process.port).url
        counter = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit / LOOKS):
                counter = await edges.prober.counter(counters, url, process.key)
        return self._hang.hear(counter)
