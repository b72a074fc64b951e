"""The worker's end of the link: dials the daemon for ever, says hello with the listeners, hears snapshots.

If the daemon dies, the worker goes on serving on its last snapshot and redials every 200 ms: the next daemon finds it,
checks it and adopts it together with its sockets. What is sent meanwhile waits in a bounded queue. Where the daemon
listens is looked up at every dial: its next one may have to listen elsewhere.
"""

import asyncio
import contextlib
import logging
import socket
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from aigw_daemon.link.frames import LinkError, frame, frames, send_first
from aigw_daemon.link.messages import Applied, Down, Hello, Records, Up, decode_down, encode
from aigw_daemon.place import read

REDIAL_SECONDS = 0.2
KEPT_WHILE_AWAY = 1_000
"""Messages. A message of records holds at most a few hundred, so memory stays bounded for as long as it takes."""

log = logging.getLogger(__name__)


class WorkerLink:
    """Keeps one connection to the daemon and never lets its absence be felt."""

    def __init__(
        self,
        path: Path,
        hello: Callable[[], Hello],
        listeners: Sequence[socket.socket],
        receive: Callable[[Down], None],
        *,
        place: Path | None = None,
    ) -> None:
        """``path`` is the daemon's link socket, unless the file ``place`` names another one."""
        self._path = path
        self._place = place
        self._hello = hello
        self._listeners = listeners
        self._receive = receive
        self._waiting: deque[Up] = deque()
        self._dropped = 0
        self._writer: asyncio.StreamWriter | None = None

    async def run(self) -> None:
        """Dial, talk until the daemon leaves, dial again; ends by cancellation."""
        while True:
            try:
                await self._converse()
            except (OSError, LinkError, msgspec.DecodeError) as error:
                log.debug("link: %s", error)
            await asyncio.sleep(REDIAL_SECONDS)

    def send(self, message: Up) -> None:
        """Send, or keep for later; never blocks. What only this daemon can understand isn't kept for the next."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(frame(encode(message)))
            return
        if isinstance(message, Applied):
            return
        self._waiting.append(message)
        if len(self._waiting) > KEPT_WHILE_AWAY:
            lost = self._waiting.popleft()
            if isinstance(lost, Records):
                self._dropped += len(lost.records) + lost.dropped

    async def _converse(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, self._address())
            open_listeners = [listener.fileno() for listener in self._listeners if listener.fileno() >= 0]
            send_first(sock, encode(self._hello()), open_listeners)
            reader, writer = await asyncio.open_unix_connection(sock=sock)
        except BaseException:
            sock.close()
            raise
        try:
            self._flush_to(writer)
            async for payload in frames(reader):
                try:
                    message = decode_down(payload)
                except msgspec.ValidationError as error:
                    # A newer daemon may say more; what it says last, to drain, is understood by all.
                    log.debug("link: the daemon said what is not understood: %s", error)
                    continue
                self._receive(message)
        finally:
            self._writer = None
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _address(self) -> str:
        place = read(self._place) if self._place is not None else None
        return place.link if place is not None else str(self._path)

    def _flush_to(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        if self._dropped:
            self._waiting.append(Records(records=(), dropped=self._dropped))
            self._dropped = 0
        while self._waiting:
            writer.write(frame(encode(self._waiting.popleft())))
