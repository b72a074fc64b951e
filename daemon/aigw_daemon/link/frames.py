"""Framing of the link: a length of four bytes (big-endian), then that many bytes of msgpack.

The first frame of a connection may carry descriptors beside it (SCM_RIGHTS, unix(7)); the kernel delivers them with
the first byte of the message that sent them, so the receiver asks for them while it reads the length.
"""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Sequence

_LENGTH = struct.Struct(">I")
MAX_FRAME = 64 * 1024 * 1024
"""Bytes; a larger length means that the other side doesn't speak this protocol."""
MAX_FIRST = 64 * 1024
"""Likewise for the first frame, which comes before anybody is known."""
MAX_DESCRIPTORS = 16


class LinkError(Exception):
    """The other side broke the protocol, or is not who it should be."""


def frame(payload: bytes) -> bytes:
    """Put the length before the payload."""
    return _LENGTH.pack(len(payload)) + payload


def send_first(sock: socket.socket, payload: bytes, descriptors: Sequence[int]) -> None:
    """Send one small frame with descriptors on a fresh socket, whose buffer is empty and takes it whole."""
    data = frame(payload)
    sent = socket.send_fds(sock, [data], descriptors)
    if sent != len(data):
        raise LinkError(f"the link took {sent} of {len(data)} bytes of the first message")


async def receive_first(sock: socket.socket) -> tuple[bytes, list[int]]:
    """Read one frame and the descriptors that came with it; the socket is non-blocking.

    Raises LinkError when the peer leaves or sends something else. Descriptors are closed on the way out of an error.
    """
    await _readable(sock)
    head, descriptors, _flags, _address = socket.recv_fds(sock, _LENGTH.size, MAX_DESCRIPTORS)
    received = [socket.socket(fileno=fd) for fd in descriptors]
    try:
        payload = await _rest(sock, head)
    except BaseException:
        for listener in received:
            listener.close()
        raise
    return payload, [listener.detach() for listener in received]


async def _rest(sock: socket.socket, head: bytes) -> bytes:
    head += await _exactly(sock, _LENGTH.size - len(head))
    return await _exactly(sock, _checked_length(head, MAX_FIRST))


async def _exactly(sock: socket.socket, count: int) -> bytes:
    loop = asyncio.get_running_loop()
    data = bytearray()
    while len(data) < count:
        piece = await loop.sock_recv(sock, count - len(data))
        if not piece:
            raise LinkError("the other side left in the middle of its first message")
        data += piece
    return bytes(data)


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(sock.fileno(), ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(sock.fileno())


def _checked_length(head: bytes, limit: int = MAX_FRAME) -> int:
    (length,) = _LENGTH.unpack(head)
    if length > limit:
        raise LinkError(f"a frame of {length} bytes is beyond the limit of {limit}")
    return int(length)


async def frames(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Every further frame until the other side leaves."""
    while True:
        try:
            head = await reader.readexactly(_LENGTH.size)
            yield await reader.readexactly(_checked_length(head))
        except (asyncio.IncompleteReadError, ConnectionError):
            return
