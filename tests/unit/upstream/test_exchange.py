"""One exchange: how a body arrives and ends, how both sides are held back, and what a cancel does."""

import asyncio
from collections.abc import Callable

import pytest

from aigw_daemon.gateway.upstream.base import (
    Address,
    BodyTooLarge,
    ProtocolViolation,
    Response,
    Truncated,
    request_head,
)
from aigw_daemon.gateway.upstream.connection import READ_AHEAD_BYTES, UPLOAD_PIECE_BYTES, Connection
from aigw_daemon.gateway.upstream.pool import PooledClient
from tests.support.upstream_server import ANSWER, Peer, UpstreamServer
from tests.support.wait import eventually

HEAD = request_head("POST", "/v1/chat/completions", "engine.test")
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: Text/Event-Stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
# The most that one read of a socket brings, on top of the bound.
ONE_READ_BYTES = 256 * 1024


class WireStandIn(asyncio.Transport):
    """Takes what is written; lets a test order events within one turn of the loop, which a socket can't."""

    def __init__(self) -> None:
        super().__init__()
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass

    def abort(self) -> None:
        self.aborted = True


def only_connection(client: PooledClient) -> Connection:
    """The one connection that the client has."""
    (connection,) = client._open
    return connection


async def rest_of(response: Response) -> list[bytes]:
    """All pieces up to the end of the body."""
    pieces = []
    while (piece := await response.chunk()) is not None:
        pieces.append(piece)
    return pieces


async def test_the_request_goes_out_as_it_was_given(client: PooledClient) -> None:
    seen: list[tuple[bytes, bytes]] = []

    async def remember(peer: Peer) -> None:
        seen.append(await peer.request())
        await peer.send(ANSWER)

    async with UpstreamServer(remember) as server:
        await (await client.request(server.address, HEAD, b'{"a":1}')).read(10)
    assert seen == [(HEAD + b"content-length: 7\r\n\r\n", b'{"a":1}')]


async def test_a_small_answer_is_whole_when_the_request_returns(client: PooledClient) -> None:
    async with UpstreamServer(Peer.answer_all) as server:
        response = await client.request(server.address, HEAD, b"")
        assert (response.status, response.content_type) == (200, b"application/json")
        assert client.idle(server.address) == 1
        assert response.body_if_complete() == b"ok"
        assert await response.chunk() is None


async def test_a_stream_arrives_piece_by_piece(client: PooledClient) -> None:
    step = asyncio.Event()

    async def stream(peer: Peer) -> None:
        await peer.request()
        await peer.send(STREAM)
        for piece in (b"4\r\none \r\n", b"3\r\ntwo\r\n", b"0\r\nx-trailer: 1\r\n\r\n"):
            await step.wait()
            step.clear()
            await peer.send(piece)
        await peer.client_left()

    async with UpstreamServer(stream) as server:
        response = await client.request(server.address, HEAD, b"")
        assert (response.content_type, response.body_if_complete()) == (b"text/event-stream", None)
        for expected in (b"one ", b"two", None):
            step.set()
            assert await response.chunk() == expected
        assert [name for name, _ in response.headers] == [b"content-type", b"transfer-encoding"]
        assert client.idle(server.address) == 1


async def test_interim_answers_are_skipped(client: PooledClient) -> None:
    early = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"
    async with UpstreamServer(lambda peer: peer.answer_all(early + ANSWER)) as server:
        response = await client.request(server.address, HEAD, b"")
        assert (response.status, response.header(b"link"), await response.read(10)) == (200, None, b"ok")


async def test_the_end_of_the_connection_is_the_end_of_a_body_without_a_length(client: PooledClient) -> None:
    async def until_closed(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\nto the ", b"end")
        peer.close()

    async with UpstreamServer(until_closed) as server:
        response = await client.request(server.address, HEAD, b"")
        assert await response.read(100) == b"to the end"
        assert client.idle(server.address) == 0


@pytest.mark.parametrize("half", [ANSWER[:-1], STREAM + b"1\r\no\r\n", STREAM + b"5\r\no"])
@pytest.mark.parametrize("end", [Peer.close, Peer.reset])
async def test_a_cut_body_is_handed_out_and_then_said_to_be_truncated(
    client: PooledClient, half: bytes, end: Callable[[Peer], None]
) -> None:
    handed_out = asyncio.Event()

    async def cut(peer: Peer) -> None:
        await peer.request()
        await peer.send(half)
        await handed_out.wait()
        end(peer)

    async with UpstreamServer(cut) as server:
        response = await client.request(server.address, HEAD, b"")
        assert await response.chunk() == b"o"
        handed_out.set()
        with pytest.raises(Truncated):
            await response.chunk()
        with pytest.raises(Truncated):
            await response.read(10)
        assert response.body_if_complete() is None


async def test_what_arrived_before_a_cut_is_not_lost(client: PooledClient) -> None:
    async def cut(peer: Peer) -> None:
        await peer.request()
        await peer.send(STREAM + b"3\r\nabc\r\n")
        peer.close()

    async with UpstreamServer(cut) as server:
        response = await client.request(server.address, HEAD, b"")
        await eventually(lambda: not client._open, what="the end of the connection")
        assert await response.chunk() == b"abc"
        with pytest.raises(Truncated):
            await response.chunk()


async def test_junk_in_the_middle_is_a_violation_and_ends_the_connection(client: PooledClient) -> None:
    handed_out = asyncio.Event()

    async def stray(peer: Peer) -> None:
        await peer.request()
        await peer.send(STREAM + b"1\r\na\r\n")
        await handed_out.wait()
        await peer.send(b"zz\r\n")
        await peer.client_left()

    async with UpstreamServer(stray) as server:
        response = await client.request(server.address, HEAD, b"")
        assert await response.chunk() == b"a"
        handed_out.set()
        with pytest.raises(ProtocolViolation, match=rf"127\.0\.0\.1:{server.port}: not a valid HTTP answer"):
            await response.chunk()
        assert client.idle(server.address) == 0


async def test_a_head_without_end_is_a_violation(client: PooledClient) -> None:
    async def endless(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\n")
        while True:
            await peer.send(b"x-pad: %b\r\n" % (b"a" * 1000))

    async with UpstreamServer(endless) as server:
        with pytest.raises(ProtocolViolation, match="more than 65536 bytes"):
            await client.request(server.address, HEAD, b"")


async def test_a_body_above_the_limit_is_refused_and_its_connection_closed(client: PooledClient) -> None:
    async def long(peer: Peer) -> None:
        await peer.request()
        await peer.send(STREAM, *[b"400\r\n%b\r\n" % (b"a" * 1024)] * 20)
        await peer.client_left()

    async with UpstreamServer(long) as server:
        response = await client.request(server.address, HEAD, b"")
        with pytest.raises(BodyTooLarge, match="limit of 10000 bytes"):
            await response.read(10_000)
        assert client.idle(server.address) == 0


async def test_a_whole_body_above_the_limit_is_refused(client: PooledClient) -> None:
    async with UpstreamServer(Peer.answer_all) as server:
        response = await client.request(server.address, HEAD, b"")
        with pytest.raises(BodyTooLarge):
            await response.read(1)


async def test_a_slow_reader_holds_the_upstream_back(client: PooledClient) -> None:
    size = 32 * 1024 * 1024
    sent = 0

    async def flood(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        for _ in range(size // 65536):
            await peer.send(b"a" * 65536)
            sent += 65536
        await peer.client_left()

    async with UpstreamServer(flood) as server:
        response = await client.request(server.address, HEAD, b"")
        connection = only_connection(client)
        await eventually(lambda: connection._read_paused, what="the pause")
        held = sum(map(len, connection._parser.pieces))
        assert READ_AHEAD_BYTES < held <= READ_AHEAD_BYTES + ONE_READ_BYTES
        assert sent < size
        assert sum(map(len, await rest_of(response))) == size
        assert client.idle(server.address) == 1


async def test_a_large_upload_goes_no_faster_than_it_is_read(client: PooledClient) -> None:
    body = bytes(range(256)) * (32 * 4096)
    read_on = asyncio.Event()

    async def read_late(peer: Peer) -> None:
        await read_on.wait()
        _, received = await peer.request()
        await peer.send(ANSWER if received == body else b"HTTP/1.1 500 Not what was sent\r\n\r\n")
        await peer.client_left()

    async with UpstreamServer(read_late) as server, asyncio.TaskGroup() as group:
        asking = group.create_task(client.request(server.address, HEAD, body))
        await eventually(lambda: client._open and only_connection(client)._write_paused, what="the pause")
        assert only_connection(client)._transport.get_write_buffer_size() <= 3 * UPLOAD_PIECE_BYTES
        read_on.set()
        assert (await asking).status == 200
        assert client.idle(server.address) == 1


async def test_an_early_refusal_is_read_while_still_uploading(client: PooledClient) -> None:
    refusal = b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno"

    async def refuse(peer: Peer) -> None:
        await peer.head()
        await peer.send(refusal)
        await peer.client_left()

    async def refuse_unread(peer: Peer) -> None:
        await peer.head()
        await peer.send(refusal)
        await done.wait()

    done = asyncio.Event()
    for script in (refuse, refuse_unread):
        async with UpstreamServer(script) as server:
            response = await client.request(server.address, HEAD, b"a" * (64 * 1024 * 1024))
            assert (response.status, await response.read(10)) == (413, b"no")
            assert client.idle(server.address) == 0
            done.set()


async def test_an_early_answer_that_is_no_refusal_lets_the_upload_go_on(client: PooledClient) -> None:
    size = 16 * 1024 * 1024
    received = 0

    async def answer_first(peer: Peer) -> None:
        nonlocal received
        await peer.head()
        await peer.send(STREAM)
        received = len(await peer.reader.readexactly(size))
        await peer.send(b"2\r\nok\r\n0\r\n\r\n")
        await peer.client_left()

    async with UpstreamServer(answer_first) as server:
        response = await client.request(server.address, HEAD, b"a" * size)
        assert (await response.read(10), received) == (b"ok", size)


async def test_a_connection_lost_while_uploading_is_truncated(client: PooledClient) -> None:
    async def leave(peer: Peer) -> None:
        await peer.head()
        peer.reset()

    async with UpstreamServer(leave) as server:
        with pytest.raises(Truncated):
            await client.request(server.address, HEAD, b"a" * (64 * 1024 * 1024))


@pytest.mark.parametrize(
    ("part", "body"),
    [
        (b"", b""),
        (b"HTTP/1.1 200", b""),
        (STREAM, b""),
        (STREAM + b"1\r\na\r\n", b""),
        (b"", b"a" * (64 * 1024 * 1024)),
    ],
    ids=["before the answer", "in the head", "before the body", "in the body", "while uploading"],
)
async def test_a_cancel_closes_the_connection_at_once(client: PooledClient, part: bytes, body: bytes) -> None:
    waiting, left = asyncio.Event(), asyncio.Event()

    async def never_end(peer: Peer) -> None:
        await peer.head()
        await peer.send(part)
        waiting.set()
        await peer.client_left()
        left.set()

    async def read_all(server: UpstreamServer) -> None:
        await rest_of(await client.request(server.address, HEAD, body))

    async with UpstreamServer(never_end) as server, asyncio.TaskGroup() as group:
        asking = group.create_task(read_all(server))
        await waiting.wait()
        asking.cancel()
        async with asyncio.timeout(1):
            await left.wait()
        assert asking.cancelled()
        assert client.idle(server.address) == 0


async def test_closing_an_unfinished_answer_closes_its_connection(client: PooledClient) -> None:
    left = asyncio.Event()

    async def stream(peer: Peer) -> None:
        await peer.request()
        await peer.send(STREAM + b"1\r\na\r\n")
        await peer.client_left()
        left.set()

    async with UpstreamServer(stream) as server:
        response = await client.request(server.address, HEAD, b"")
        response.close()
        response.close()
        async with asyncio.timeout(1):
            await left.wait()
        assert client.idle(server.address) == 0


async def test_closing_a_finished_answer_leaves_its_connection_alone(client: PooledClient) -> None:
    async with UpstreamServer(Peer.answer_all) as server:
        first = await client.request(server.address, HEAD, b"")
        second = await client.request(server.address, HEAD, b"")
        first.close()
        assert await second.read(10) == b"ok"
        assert server.accepted == 1


async def test_a_cancel_after_the_end_does_not_touch_the_next_user_of_the_connection() -> None:
    freed: list[Connection] = []
    wire = WireStandIn()
    connection = Connection(Address("engine.test", 80), freed.append, lambda _: None)
    connection.connection_made(wire)
    first = connection.send(HEAD, b"first")
    woken = first.news()
    connection.data_received(ANSWER)
    second = connection.send(HEAD, b"second")
    # What a cancelled waiter does, although it has been woken already.
    first.close()
    assert (woken.done(), second.settled, wire.aborted) == (True, False, False)
    connection.data_received(ANSWER)
    assert (await second.read(10), len(freed)) == (b"ok", 2)
