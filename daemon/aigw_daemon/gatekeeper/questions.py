"""Questions to a worker, each waiting for the reply that bears its number."""

import asyncio
import itertools

import msgspec

from aigw_daemon.gatekeeper.worker import Worker
from aigw_daemon.link.caching import CacheCommand, CacheReply


class NoAnswer(Exception):
    """There is no worker, it has ended meanwhile, or it takes too long; the text says which."""


class Questions:
    """All that are open."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._open: dict[int, tuple[Worker, asyncio.Future[CacheReply]]] = {}

    async def ask(self, worker: Worker | None, command: CacheCommand, seconds: float) -> CacheReply:
        """Send it, and wait for the reply. Raises NoAnswer."""
        if worker is None or worker.connection is None:
            raise NoAnswer("no gateway worker is there at this moment")
        number = next(self._numbers)
        reply: asyncio.Future[CacheReply] = asyncio.get_running_loop().create_future()
        self._open[number] = (worker, reply)
        try:
            worker.send(msgspec.structs.replace(command, id=number))
            async with asyncio.timeout(seconds):
                return await reply
        except TimeoutError as error:
            raise NoAnswer(f"the gateway worker {worker.pid} gave no answer within {seconds:g} s") from error
        finally:
            del self._open[number]

    def answered(self, reply: CacheReply) -> None:
        """One has come; if nobody waits for it any more, it is passed over."""
        if (waiting := self._open.get(reply.id)) is not None and not waiting[1].done():
            waiting[1].set_result(reply)

    def gone(self, worker: Worker) -> None:
        """This worker will answer nothing any more."""
        for asked, reply in self._open.values():
            if asked is worker and not reply.done():
                reply.set_exception(NoAnswer(f"the gateway worker {worker.pid} ended meanwhile"))
