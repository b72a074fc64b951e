"""Which connections are kept, lent again, replaced and closed."""

import asyncio
import ssl
from collections.abc import Callable

import pytest

from aigw_daemon.gateway.upstream.base import Address, ConnectFailed, Truncated, request_head
from aigw_daemon.gateway.upstream.pool import PooledClient
from tests.support.upstream_server import ANSWER, Peer, UpstreamServer
from tests.support.wait import eventually

HEAD = request_head("POST", "/v1/chat/completions", "engine.test")


async def ask(client: PooledClient, server: UpstreamServer, body: bytes = b"{}") -> bytes:
    """One request, answered in full."""
    response = await client.request(server.address, HEAD, body)
    return await response.read(1 << 20)


async def test_requests_share_one_kept_connection(client: PooledClient) -> None:
    async with UpstreamServer(Peer.answer_all) as server:
        for _ in range(5):
            assert await ask(client, server) == b"ok"
        assert (server.accepted, client.idle(server.address)) == (1, 1)


async def test_concurrent_requests_get_their_own_answers(client: PooledClient) -> None:
    async def echo(peer: Peer) -> None:
        while True:
            _, body = await peer.request()
            await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

    async def many(server: UpstreamServer, name: int) -> None:
        for number in range(20):
            body = b"%d of %d" % (number, name)
            assert await ask(client, server, body) == body

    async with UpstreamServer(echo) as server, asyncio.TaskGroup() as group:
        for name in range(32):
            group.create_task(many(server, name))
    assert server.accepted <= 32


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
        ANSWER + ANSWER,
        ANSWER + b"x",
    ],
    ids=["connection: close", "HTTP/1.0", "surplus answer", "surplus byte"],
)
async def test_such_an_answer_ends_its_connection(client: PooledClient, answer: bytes) -> None:
    async with UpstreamServer(lambda peer: peer.answer_all(answer)) as server:
        assert [await ask(client, server), await ask(client, server)] == [b"ok", b"ok"]
        assert (server.accepted, client.idle(server.address)) == (2, 0)


async def test_bytes_on_an_idle_connection_end_it(client: PooledClient) -> None:
    speak, left = asyncio.Event(), asyncio.Event()

    async def talk_out_of_turn(peer: Peer) -> None:
        await peer.request()
        await peer.send(ANSWER)
        await speak.wait()
        await peer.send(ANSWER)
        await peer.client_left()
        left.set()

    async with UpstreamServer(talk_out_of_turn) as server:
        await ask(client, server)
        speak.set()
        await left.wait()
        assert client.idle(server.address) == 0


@pytest.mark.parametrize("end", [Peer.close, Peer.reset], ids=["end of file", "reset"])
async def test_a_kept_connection_that_turns_out_dead_is_replaced_unseen(
    client: PooledClient, end: Callable[[Peer], None]
) -> None:
    async def close_at_the_second_request(peer: Peer) -> None:
        await peer.request()
        await peer.send(ANSWER)
        await peer.request()
        end(peer)

    async with UpstreamServer(close_at_the_second_request) as server:
        assert [await ask(client, server), await ask(client, server)] == [b"ok", b"ok"]
        assert server.accepted == 2


async def test_a_dead_connection_is_replaced_once_only(client: PooledClient) -> None:
    async def answer_the_first_only(peer: Peer) -> None:
        await peer.request()
        if peer.number == 1:
            await peer.send(ANSWER)
            await peer.request()

    async with UpstreamServer(answer_the_first_only) as server:
        await ask(client, server)
        with pytest.raises(Truncated, match=rf"127\.0\.0\.1:{server.port}: the connection ended before its answer"):
            await ask(client, server)
        assert server.accepted == 2


async def test_a_connection_that_dies_after_the_first_byte_is_not_replaced(client: PooledClient) -> None:
    async def cut_the_second_answer(peer: Peer) -> None:
        await peer.request()
        await peer.send(ANSWER)
        await peer.request()
        await peer.send(b"HTTP/1.1 2")

    async with UpstreamServer(cut_the_second_answer) as server:
        await ask(client, server)
        with pytest.raises(Truncated):
            await ask(client, server)
        assert server.accepted == 1


async def test_idle_connections_are_closed_after_their_lifetime() -> None:
    left = asyncio.Event()

    async def answer_and_see(peer: Peer) -> None:
        await peer.request()
        await peer.send(ANSWER)
        await peer.client_left()
        left.set()

    client = PooledClient(idle_lifetime=0.1)
    async with UpstreamServer(answer_and_see) as server:
        await ask(client, server)
        await left.wait()
        assert client.idle(server.address) == 0
    await client.aclose()


async def test_only_so_many_idle_connections_are_kept() -> None:
    together = asyncio.Barrier(3)

    async def answer_together(peer: Peer) -> None:
        await peer.request()
        await together.wait()
        await peer.send(ANSWER)
        await peer.client_left()

    client = PooledClient(max_idle_per_address=1)
    async with UpstreamServer(answer_together) as server:
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(ask(client, server))
        assert (server.accepted, client.idle(server.address)) == (3, 1)
    await client.aclose()


async def test_closing_the_client_ends_idle_and_busy_connections(client: PooledClient) -> None:
    async def first_whole_then_half(peer: Peer) -> None:
        await peer.request()
        await peer.send(ANSWER if peer.number == 1 else ANSWER[:-1])
        await peer.client_left()

    async with UpstreamServer(first_whole_then_half) as server:
        busy = await client.request(server.address, HEAD, b"")
        await busy.read(10)
        kept = client.idle(server.address)
        await client.aclose()
        assert (kept, client.idle(server.address)) == (1, 0)


async def test_nobody_listening_is_refused(client: PooledClient, unused_tcp_port: int) -> None:
    with pytest.raises(
        ConnectFailed, match=rf"cannot connect to 127\.0\.0\.1:{unused_tcp_port}: connection refused"
    ) as caught:
        await client.request(Address("127.0.0.1", unused_tcp_port), HEAD, b"")
    assert (caught.value.refused, caught.value.reason) == (True, "refused")


async def test_no_way_to_the_host_is_unreachable(client: PooledClient) -> None:
    with pytest.raises(ConnectFailed) as caught:
        await client.request(Address("255.255.255.255", 9), HEAD, b"")
    assert (caught.value.refused, caught.value.reason) == (False, "unreachable")


async def test_a_host_that_says_nothing_is_given_up_after_the_connect_timeout(silent_port: int) -> None:
    client = PooledClient(connect_timeout=0.2)
    with pytest.raises(ConnectFailed, match=r"no answer within 0\.2 s") as caught:
        await client.request(Address("127.0.0.1", silent_port), HEAD, b"")
    assert caught.value.reason == "connect_timeout"
    await client.aclose()


async def test_localhost_reaches_whichever_loopback_answers(client: PooledClient) -> None:
    async with UpstreamServer(Peer.answer_all) as server:
        response = await client.request(Address("localhost", server.port), HEAD, b"")
        assert await response.read(10) == b"ok"


async def test_redirects_are_answers_like_any_other(client: PooledClient) -> None:
    moved = b"HTTP/1.1 307 Moved\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n"
    async with UpstreamServer(lambda peer: peer.answer_all(moved)) as server:
        response = await client.request(server.address, HEAD, b"")
        assert (response.status, response.header(b"location")) == (307, b"http://127.0.0.1:1/")


class TestTls:
    """Certificates are verified, for the name that was asked."""

    async def test_a_trusted_certificate_is_accepted_and_the_name_is_sent(
        self, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
    ) -> None:
        names: list[str | None] = []
        server_tls.sni_callback = lambda _socket, name, _context: names.append(name)
        client = PooledClient(tls_context=client_tls)
        async with UpstreamServer(Peer.answer_all, server_tls) as server:
            assert [await ask(client, server), await ask(client, server)] == [b"ok", b"ok"]
            assert (server.accepted, names) == (1, ["localhost"])
            await client.aclose()

    async def test_an_unknown_certificate_is_refused(self, client: PooledClient, server_tls: ssl.SSLContext) -> None:
        async with UpstreamServer(Peer.answer_all, server_tls) as server:
            with pytest.raises(ConnectFailed, match=r"TLS failed: .*certificate verify failed") as caught:
                await ask(client, server)
        assert caught.value.reason == "tls"

    async def test_a_certificate_for_another_name_is_refused(
        self, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
    ) -> None:
        client = PooledClient(tls_context=client_tls)
        async with UpstreamServer(Peer.answer_all, server_tls) as server:
            with pytest.raises(ConnectFailed, match=r"certificate is not valid for '127\.0\.0\.1'") as caught:
                await client.request(Address("127.0.0.1", server.port, tls=True), HEAD, b"")
        assert caught.value.reason == "tls"
        await client.aclose()


async def test_open_connections_are_forgotten_when_they_end(client: PooledClient) -> None:
    async def answer_once(peer: Peer) -> None:
        await peer.request()
        await peer.send(ANSWER)

    async with UpstreamServer(answer_once) as server:
        await ask(client, server)
        await eventually(lambda: client.idle(server.address) == 0, what="the end of the kept connection")
