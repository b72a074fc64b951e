"""The daemon's end of the link: hears workers out, checks that they are ours, and talks to them."""

import asyncio
import logging
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec

from aigw_daemon.identity import boot_id, start_ticks
from aigw_daemon.link.frames import LinkError, frame, frames, receive_first
from aigw_daemon.link.messages import Down, Hello, Up, decode_up, encode
from aigw_daemon.sockets import bound

HELLO_SECONDS = 5.0
ACCEPT_PAUSE_SECONDS = 0.5
_UCRED = struct.Struct("3i")
"""pid, uid, gid of a Unix socket's peer: SO_PEERCRED, unix(7)."""

log = logging.getLogger(__name__)


class WorkerConnection:
    """One worker that has said hello. Its listeners are ours to close."""

    def __init__(
        self,
        hello: Hello,
        listeners: list[socket.socket],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.hello = hello
        self.listeners = listeners
        self._reader = reader
        self._writer = writer

    def send(self, message: Down) -> None:
        """Send without waiting; a connection that is gone swallows it."""
        if not self._writer.is_closing():
            self._writer.write(frame(encode(message)))

    async def messages(self) -> AsyncIterator[Up]:
        """What the worker reports, until it leaves. Raises msgspec.DecodeError for garbage."""
        async for payload in frames(self._reader):
            try:
                yield decode_up(payload)
            except msgspec.ValidationError as error:
                # A newer side may say more (it is about to be replaced): what isn't understood is passed over.
                log.debug("link: worker %d said what is not understood: %s", self.hello.pid, error)

    def close(self) -> None:
        """Drop the connection; the worker goes on and dials again."""
        self._writer.close()


class LinkServer:
    """Listens on ``link.sock`` and hands every worker of this aigw to ``accept``, each in a task of its own."""

    def __init__(self, path: Path, cookie: str, accept: Callable[[WorkerConnection], Awaitable[None]]) -> None:
        self._path = path
        self._cookie = cookie
        self._accept = accept

    async def run(self) -> None:
        """Accept until cancelled. The caller holds the lock of the home, so a socket left behind is stale."""
        async with asyncio.TaskGroup() as tasks:
            accepting: asyncio.Task[None] | None = None
            async for listener in bound(self._path):
                if accepting is not None:
                    accepting.cancel()
                accepting = tasks.create_task(self._accept_from(listener, tasks), name="link-accept")

    async def _accept_from(self, listener: socket.socket, tasks: asyncio.TaskGroup) -> None:
        with listener:
            while True:
                try:
                    sock, _ = await asyncio.get_running_loop().sock_accept(listener)
                except OSError as error:
                    # No descriptors left, for one: a worker dials again, and the daemon must live on.
                    log.warning("link: cannot accept: %s", error)
                    await asyncio.sleep(ACCEPT_PAUSE_SECONDS)
                    continue
                sock.setblocking(False)
                tasks.create_task(self._greet(sock), name="link-worker")

    async def _greet(self, sock: socket.socket) -> None:
        try:
            async with asyncio.timeout(HELLO_SECONDS):
                connection = await self._open(sock)
        except (LinkError, OSError, msgspec.DecodeError, TimeoutError) as error:
            sock.close()
            log.warning("link: a caller was turned away: %s", str(error) or type(error).__name__)
            return
        try:
            await self._accept(connection)
        except Exception:  # whatever one worker's conversation meets, the others and the daemon go on
            log.exception("link: the conversation with worker %d broke", connection.hello.pid)
        finally:
            connection.close()

    async def _open(self, sock: socket.socket) -> WorkerConnection:
        payload, descriptors = await receive_first(sock)
        listeners = [socket.socket(fileno=fd) for fd in descriptors]
        try:
            hello = _checked_hello(sock, payload, self._cookie)
            reader, writer = await asyncio.open_unix_connection(sock=sock)
        except BaseException:
            for listener in listeners:
                listener.close()
            raise
        return WorkerConnection(hello, listeners, reader, writer)


def _checked_hello(sock: socket.socket, payload: bytes, cookie: str) -> Hello:
    """The kernel says who calls; the hello must agree, and the process must be of this aigw and this boot."""
    hello = decode_up(payload)
    if not isinstance(hello, Hello):
        raise LinkError("the first message is not a hello")
    pid, uid, _gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    if uid != os.getuid():
        raise LinkError(f"process {pid} belongs to user {uid}")
    if hello.cookie != cookie:
        raise LinkError(f"process {pid} belongs to another aigw")
    if (hello.pid, hello.boot_id, hello.start_ticks) != (pid, boot_id(), start_ticks(pid)):
        raise LinkError(f"process {pid} says that it is {hello.pid}")
    return hello
