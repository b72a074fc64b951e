"""The gateway's sockets: both loopbacks, all or none, and never shut down by closing a copy."""

import socket

import pytest

from aigw_daemon.gatekeeper.listeners import (
    AddressUnusable,
    PortTaken,
    bind,
    bound_to,
    close,
    endpoints,
    free_beside,
    is_loopback,
    url,
)


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        return int(holder.getsockname()[1])


def test_localhost_means_both_loopbacks(port: int) -> None:
    assert endpoints("localhost", port) == [("127.0.0.1", port), ("::1", port)]


def test_a_host_that_does_not_resolve_is_named() -> None:
    with pytest.raises(AddressUnusable, match=r"gateway\.host 'no-such-host\.invalid'"):
        endpoints("no-such-host.invalid", 4000)


def test_the_port_that_is_proposed_is_the_next_that_is_free_on_every_address(port: int) -> None:
    with socket.create_server(("127.0.0.1", port)), socket.create_server(("::1", port + 1), family=socket.AF_INET6):
        free = free_beside("localhost", port)
    assert free is not None
    assert port + 1 < free <= port + 50
    close(bind(endpoints("localhost", free)))


def test_a_port_that_is_promised_to_somebody_is_not_proposed(port: int) -> None:
    assert free_beside("127.0.0.1", port, avoid=range(port, port + 51)) is None


def test_above_the_last_port_there_is_none_to_propose() -> None:
    assert free_beside("127.0.0.1", 65_535) is None


def test_listeners_accept_on_every_address(port: int) -> None:
    listeners = bind(endpoints("localhost", port))
    try:
        for host, _ in endpoints("localhost", port):
            socket.create_connection((host, port), timeout=2).close()
        assert bound_to(listeners) == {("127.0.0.1", port), ("::1", port)}
    finally:
        close(listeners)


def test_one_taken_address_leaves_none_bound(port: int) -> None:
    with socket.create_server(("::1", port), family=socket.AF_INET6):
        with pytest.raises(PortTaken) as taken:
            bind(endpoints("localhost", port))
        assert (taken.value.host, taken.value.port) == ("::1", port)
        with socket.create_server(("127.0.0.1", port)):
            pass  # the first address was given back


def test_closing_our_copy_leaves_a_workers_copy_listening(port: int) -> None:
    (listener,) = bind([("127.0.0.1", port)])
    with listener.dup() as copy:
        close([listener])
        socket.create_connection(("127.0.0.1", port), timeout=2).close()
        assert copy.fileno() >= 0


@pytest.mark.parametrize(
    ("host", "loopback"), [("127.0.0.1", True), ("::1", True), ("127.8.8.8", True), ("0.0.0.0", False)]
)
def test_which_addresses_only_this_machine_reaches(host: str, loopback: bool) -> None:
    assert is_loopback((host, 4000)) is loopback


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("127.0.0.1", "http://127.0.0.1:4000"),
        ("::1", "http://[::1]:4000"),
        ("0.0.0.0", "http://127.0.0.1:4000"),
        ("10.1.2.3", "http://10.1.2.3:4000"),
    ],
)
def test_the_url_is_one_that_a_local_client_can_use(host: str, shown: str) -> None:
    assert url([(host, 4000)]) == shown
