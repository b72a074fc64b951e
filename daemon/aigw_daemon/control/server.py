"""Serves the control API on the home's Unix socket, to the operator's own uid only (rules S13, S16)."""

import asyncio
import contextlib
import logging
import os
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from aigw_daemon.sockets import bound

FLUSH_SECONDS = 1.0
_UCRED = struct.Struct("3i")

log = logging.getLogger(__name__)


class OwnerOnlyProtocol(HttpToolsProtocol):
    """HTTP for callers of our own uid; the kernel says who calls. Folder and file modes say the same once more."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # narrower, as uvicorn's
        """Turn other users away before a byte is read."""
        sock = transport.get_extra_info("socket")
        pid, uid, _gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        if uid not in {os.getuid(), 0}:
            log.warning("control: process %d of user %d was turned away", pid, uid)
            transport.abort()
            return
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """A caller that was turned away has nothing to be cleared up, and uvicorn's own clearing would stumble."""
        if self.transport is not None:
            super().connection_lost(exc)


@contextlib.asynccontextmanager
async def serving(app: Starlette, path: Path) -> AsyncIterator[None]:
    """Listen on ``path`` for as long as the context lasts, then let answers under way be flushed.

    A socket whose file vanishes is made anew; conversations under way go on. The caller holds the lock of the home.
    Raises HomeError and OSError.
    """
    config = uvicorn.Config(app, lifespan="off", log_config=None, access_log=False)
    config.load()
    state = ServerState()
    listeners = bound(path)
    server = await _listen(await anext(listeners), config, state)
    async with asyncio.TaskGroup() as tasks:
        keeper = tasks.create_task(_keep_listening(server, listeners, config, state), name="control-socket")
        try:
            yield
        finally:
            keeper.cancel()
            server.close()  # the keeper may not have begun
    with contextlib.suppress(OSError):
        path.unlink()
    await _flush(state)


async def _keep_listening(
    server: asyncio.AbstractServer, listeners: AsyncIterator[socket.socket], config: uvicorn.Config, state: ServerState
) -> None:
    try:
        async for listener in listeners:
            before, server = server, await _listen(listener, config, state)
            before.close()
    finally:
        server.close()


async def _listen(listener: socket.socket, config: uvicorn.Config, state: ServerState) -> asyncio.AbstractServer:
    return await asyncio.get_running_loop().create_unix_server(
        lambda: OwnerOnlyProtocol(config=config, server_state=state, app_state={}), sock=listener
    )


async def _flush(state: ServerState) -> None:
    for connection in list(state.connections):
        connection.shutdown()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(FLUSH_SECONDS):
            await asyncio.gather(*state.tasks, return_exceptions=True)
