"""One connection to Redis and its whole life: made, asked, dropped, made again. The only file that knows redis-py.

A connection is used by one task, which asks one thing at a time. Whatever goes wrong while a reply is outstanding, a
timeout and a cancel included, the connection is dropped, so that no reply can ever meet another question
(CVE-2023-28858, CVE-2023-28859).

Pools and connections are Any here: redis-py types half of their methods.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from redis.asyncio import ConnectionPool
from redis.exceptions import RedisError, ResponseError
from redis.maint_notifications import MaintNotificationsConfig
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from aigw_daemon.gateway.cache.pace import Pace

OPERATION_SECONDS: Final = 0.1
"""The longest that anything may take that a request waits for (rule B22)."""
CONNECT_SECONDS: Final = 1.0
"""Nobody waits for a connection: TLS to a distant host may take its time."""

_log = logging.getLogger(__name__)


class Gone(Exception):
    """There is no connection, or there is none any more."""


class Refusal(str):
    """An error that Redis answers to one command, such as OOM; the connection is fine."""

    __slots__ = ()


Reply = bytes | int | list[Any] | Refusal | None


class Link:
    """The connection of one task. ``url`` is redis://, rediss:// or unix://, and may hold a password."""

    def __init__(
        self,
        url: str,
        role: str,
        pace: Pace | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.name = shown(url)
        """Of the server, without user and password."""
        self.role = role
        self.pace = pace or Pace()
        self._sleep = sleep
        self._pool: Any = ConnectionPool.from_url(
            url,
            client_name=f"aigw-{role}",
            # No retries, timeouts or handshakes of the library's own: each operation's time is limited in `ask`.
            retry=None,
            socket_timeout=None,
            socket_connect_timeout=CONNECT_SECONDS,
            driver_info=None,
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
            protocol=2,
        )
        self._connection: Any = None
        self._answers = False
        """Whether the connection has answered: while its first question is out, nobody else may wait on it."""
        self._transport: asyncio.WriteTransport | None = None
        self._told_down = False

    @property
    def up(self) -> bool:
        """Whether it can be asked now."""
        return self._answers

    async def connect(self) -> None:
        """Make a connection, however long it takes; what can't be reached is a warning, once for each outage."""
        retrying = AsyncRetrying(sleep=self._sleep, wait=self._wait, retry=retry_if_exception_type(Gone))
        await self._sleep(self.pace.pause())
        async for attempt in retrying:
            with attempt:
                await self.dial()
        if self._told_down:
            _log.info("the cache's Redis at %s answers again", self.name)
            self._told_down = False

    async def ask(self, *commands: Sequence[bytes | int], seconds: float = OPERATION_SECONDS) -> list[Reply]:
        """The replies to commands, sent together. Raises Gone, with the connection dropped, after ``seconds``."""
        connection = self._connection
        if connection is None:
            raise Gone(f"there is no connection to {self.name}")
        try:
            async with asyncio.timeout(seconds):
                await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
                return [await _reply(connection) for _ in commands]
        except (RedisError, OSError, TimeoutError) as error:
            reason = f"no answer within {seconds:g} s" if isinstance(error, TimeoutError) else str(error)
            await self.fail(reason)
            raise Gone(reason) from error
        except BaseException:
            await self.close()
            raise

    async def dial(self) -> None:
        """One attempt to connect, with a question that shows whether it answers. Raises Gone."""
        connection = self._pool.make_connection()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await connection.connect()
        except (RedisError, OSError, TimeoutError) as error:
            reason = str(error) or f"no connection within {CONNECT_SECONDS:g} s"
            await self.fail(reason)
            raise Gone(reason) from error
        self._connection = connection
        self._transport = connection._writer.transport  # noqa: SLF001  its own disconnect would first flush
        [pong] = await self.ask((b"PING",))
        if isinstance(pong, Refusal):
            # While it loads what it has on disk, it refuses everything.
            await self.fail(pong)
            raise Gone(pong)
        self._answers = True

    async def fail(self, reason: str) -> None:
        """Drop the connection because of what it answered, or didn't."""
        await self.close()
        self.pace.failed()
        if not self._told_down:
            self._told_down = True
            _log.warning(
                "the cache's Redis at %s is left out until it answers again (%s); answers are kept in this process "
                "meanwhile",
                self.name,
                reason,
            )

    async def close(self) -> None:
        """Drop the connection, at once: nothing in here waits, so a cancel can't come between."""
        self._answers = False
        connection, self._connection = self._connection, None
        if connection is not None:
            if self._transport is not None:
                self._transport.abort()
            await connection.disconnect(nowait=True)

    def _wait(self, _: RetryCallState) -> float:
        return self.pace.pause()


async def _reply(connection: Any) -> Reply:
    try:
        reply: Reply = await connection.read_response()
    except ResponseError as error:
        return Refusal(error)
    return reply


def shown(url: str) -> str:
    """Where a Redis URL leads, without its secrets (rule S12)."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return parts.path
    return f"{parts.hostname or 'localhost'}:{parts.port or 6379}"
