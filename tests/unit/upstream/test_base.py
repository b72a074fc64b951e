"""Addresses and request heads."""

import pytest

from aigw_daemon.gateway.upstream.base import Address, request_head


@pytest.mark.parametrize(
    ("address", "authority"),
    [
        (Address("127.0.0.1", 8001), "127.0.0.1:8001"),
        (Address("::1", 8001), "[::1]:8001"),
        (Address("engine.test", 80), "engine.test"),
        (Address("ollama.com", 443, tls=True), "ollama.com"),
        (Address("ollama.com", 80, tls=True), "ollama.com:80"),
    ],
)
def test_the_host_header_follows_the_address(address: Address, authority: str) -> None:
    assert address.authority == authority


def test_a_head_is_the_request_line_and_the_headers_without_their_end() -> None:
    head = request_head("POST", "/v1/embeddings", "127.0.0.1:1", [("content-type", "application/json")])
    assert head == b"POST /v1/embeddings HTTP/1.1\r\nhost: 127.0.0.1:1\r\ncontent-type: application/json\r\n"


@pytest.mark.parametrize("bad", ["a\r\nx: y", "a\n", "\x00"])
def test_nothing_can_break_out_of_its_line(bad: str) -> None:
    with pytest.raises(ValueError, match="line end"):
        request_head("GET", "/", "h", [("x-request-id", bad)])
    with pytest.raises(ValueError, match="line end"):
        request_head("GET", f"/{bad}", "h")
