"""The Redis tier of the cache by itself, with answers that tell which they are."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from aigw_daemon.gateway.cache.entry import Entry
from aigw_daemon.gateway.cache.key import Keys, KeySpace
from aigw_daemon.gateway.cache.pace import Pace
from aigw_daemon.gateway.cache.redis_tier import RedisTier
from aigw_daemon.link.messages import CHAT
from tests.support.cached import whole_answer
from tests.support.wait import eventually

SPACE = KeySpace(CHAT, "ollama", "llama3.1:8b")
STORE = Keys(b"a secret").store


def key(number: int) -> bytes:
    """The key of the answer number so-and-so."""
    return number.to_bytes(32)


def answer(number: int, content: str = "Paris.") -> Entry:
    """The answer number so-and-so, which says its number."""
    return whole_answer(f"{number} {content}", key=key(number), created=time.time())


def soon() -> Pace:
    """The same pace, faster: a minute is a second."""
    return Pace(unit=1 / 60)


@asynccontextmanager
async def running(
    url: str, pace: Callable[[], Pace] = soon, now: Callable[[], float] = time.time
) -> AsyncIterator[RedisTier]:
    """The tier at this Redis, at work until the end of the block; ``now`` is its host's clock."""
    tier = RedisTier(url, STORE, pace=pace, now=now)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(tier.run())
        try:
            yield tier
        finally:
            task.cancel()


async def both_up(tier: RedisTier) -> None:
    """Wait until it can look and store."""
    await eventually(lambda: tier.up and tier.writable, what="both connections")


async def stored(tier: RedisTier, entry: Entry) -> None:
    """Store it until it can be found: a write on a connection that has died unseen is lost."""
    async with asyncio.timeout(10):
        while await tier.find(entry.origin.key) is None:
            tier.store(entry)
            await asyncio.sleep(0.02)


@asynccontextmanager
async def slowed(url: str, seconds: float) -> AsyncIterator[str]:
    """A server by TCP, behind a way on which each piece takes so long."""
    parts = urlsplit(url)

    carrying: list[asyncio.Task[None]] = []

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(65_536):
                await asyncio.sleep(seconds)  # the slowness is what is tested
                writer.write(piece)
        except ConnectionError:
            pass
        finally:
            writer.close()

    async with asyncio.TaskGroup() as tasks:

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there, back = await asyncio.open_connection(parts.hostname, parts.port)
            carrying.append(tasks.create_task(carry(reader, back)))
            carrying.append(tasks.create_task(carry(there, writer)))

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        try:
            yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
        finally:
            server.close()
            for task in carrying:
                task.cancel()
