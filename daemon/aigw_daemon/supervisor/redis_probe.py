"""Asking the managed Redis how it is: a PING over its Unix socket."""

import asyncio
from pathlib import Path
from typing import Final

from aigw_daemon.link.messages import Secret
from aigw_daemon.profile.backends import BackendSection
from aigw_daemon.supervisor.engines.base import Counters, Engine, LoadedModel
from aigw_daemon.supervisor.probe import Listing, Reading

PING_SECONDS: Final = 2.0
"""For an answer: it takes a Redis well below a millisecond."""
_PING: Final = b"PING\r\n"
_PONG: Final = b"+PONG"
_SHOWN: Final = 200


class PingProber:
    """See Prober. ``socket`` is where it answers; addresses and keys mean nothing to it."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    async def ready(self, engine: Engine, section: BackendSection, base: str, key: Secret | None) -> Reading:
        """See Prober."""
        why = await self.alive(engine, section, base, key)
        return Reading(up=why is None, why=why)

    async def alive(self, _engine: Engine, _section: BackendSection, _base: str, _key: Secret | None) -> str | None:
        """See Prober."""
        try:
            async with asyncio.timeout(PING_SECONDS):
                answer = await self._ping()
        except TimeoutError:
            return f"it does not answer within {PING_SECONDS:g} s"
        except (OSError, ValueError) as error:
            return f"its socket can't be used ({error})"
        if answer == _PONG:
            return None
        return f"it answers {answer.decode(errors='replace')[:_SHOWN]!r} to a PING" if answer else "it hangs up"

    async def counter(self, _counters: Counters, _base: str, _key: Secret | None) -> float | None:
        """See Prober: it has none."""
        return None

    async def loaded(self, _engine: Engine, _base: str, _key: Secret | None) -> tuple[LoadedModel, ...] | None:
        """See Prober: it is no such engine."""
        return None

    async def unload(self, _engine: Engine, _base: str, _key: Secret | None) -> None:
        """See Prober: there is nothing to unload."""

    async def listing(self, _base: str, _key: Secret | None) -> Listing:
        """See Prober: it has no models."""
        return Listing()

    async def _ping(self) -> bytes:
        reader, writer = await asyncio.open_unix_connection(str(self._socket))
        try:
            writer.write(_PING)
            return (await reader.readline()).rstrip()
        finally:
            writer.transport.abort()
