"""The control API's HTTP over a Unix socket, against answers as they come from the wire."""

import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from aigw_daemon.control.transport import Broken, NobodyListens, asking, connected

STREAM = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@contextmanager
def answered(*pieces: bytes, seen: Callable[[bytes], object] = lambda _: None) -> Iterator[Path]:
    """A socket whose one caller gets these bytes, piece by piece, and then the end of the connection."""
    with tempfile.TemporaryDirectory(prefix="aigw-t-") as folder, socket.socket(socket.AF_UNIX) as listener:
        path = Path(folder) / "s"
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                seen(connection.recv(65536))
                for piece in pieces:
                    connection.sendall(piece)

        thread = threading.Thread(target=serve)
        thread.start()
        yield path
        thread.join()


def lines_of(*pieces: bytes) -> list[bytes]:
    with answered(*pieces) as path, asking(connected(path, 5), "GET", "/", timeout=5) as answer:
        return list(answer.lines())


def test_a_request_is_one_line_with_its_query_and_its_body_as_json() -> None:
    seen: list[bytes] = []
    with (
        answered(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", seen=seen.append) as path,
        asking(connected(path, 5), "POST", "/v1/x", body={"a": "é"}, query={"follow": True, "n": 2}, timeout=5) as got,
    ):
        assert (got.status, got.read()) == (200, b"{}")
    head, _, body = seen[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/x?follow=true&n=2 HTTP/1.1\r\n")
    assert b"content-length: 15" in head
    assert body == b'{"a": "\\u00e9"}'


@pytest.mark.parametrize(
    ("pieces", "lines"),
    [
        ((STREAM, b"3\r\none\r\n", b"5;x=y\r\n\ntwo\n\r\n", b"0\r\n\r\n"), [b"one", b"two"]),
        ((b"HTTP/1.0 200 OK\r\n\r\none\ntw", b"o"), [b"one", b"two"]),
        ((STREAM + "8\r\na\u2028b\x0b\x0cc\r\n0\r\n\r\n".encode(),), [b"a\xe2\x80\xa8b\x0b\x0cc"]),
        ((b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",), []),
    ],
    ids=["chunked", "until the connection ends", "other line ends are text", "empty"],
)
def test_lines_end_at_line_feeds_alone(pieces: tuple[bytes, ...], lines: list[bytes]) -> None:
    assert lines_of(*pieces) == lines


@pytest.mark.parametrize(
    "pieces",
    [
        (b"",),
        (b"SSH-2.0-OpenSSH_9\r\n",),
        (b"HTTP/1.1 200 OK\r\ncontent-le",),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab",),
        (STREAM, b"5\r\nab"),
        (STREAM, b"2\r\nab\r\n"),
        (STREAM, b"what\r\n"),
    ],
)
def test_what_is_cut_or_no_http_is_broken(pieces: tuple[bytes, ...]) -> None:
    with pytest.raises(Broken):
        lines_of(*pieces)


def test_a_socket_without_a_listener_is_told_from_a_silent_one(tmp_path: Path) -> None:
    silent = threading.Event()
    with pytest.raises(NobodyListens), asking(connected(tmp_path / "s", 1), "GET", "/", timeout=1):
        pass
    with answered(seen=lambda _: silent.wait(5)) as path:
        with pytest.raises(TimeoutError), asking(connected(path, 1), "GET", "/", timeout=0.05):
            pass
        silent.set()
