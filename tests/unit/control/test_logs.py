"""Reading the end of a log, and what follows, across rotation."""

import os
from contextlib import aclosing
from functools import partial
from pathlib import Path

import pytest

from aigw_daemon.control.logs import BLOCK, Opened, lines_of
from aigw_daemon.supervisor.logs import open_append, open_to_read
from aigw_daemon.supervisor.open_logs import LINGER_ROUNDS, OpenLogs


def at(path: Path) -> Opened:
    return partial(open_to_read, path)


async def read(path: Path, count: int) -> str:
    return "".join([text async for text in lines_of(at(path), count, follow=False)])


async def test_the_last_lines_of_a_long_log(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("".join(f"line {number} {'x' * 80}\n" for number in range(BLOCK // 20)))
    assert (await read(path, 2)).split()[1::3] == [str(BLOCK // 20 - 2), str(BLOCK // 20 - 1)]
    assert len((await read(path, 5_000)).splitlines()) == BLOCK // 20


async def test_a_log_that_is_not_there_or_empty_gives_nothing(tmp_path: Path) -> None:
    assert await read(tmp_path / "none", 10) == ""
    (tmp_path / "empty").touch()
    assert await read(tmp_path / "empty", 10) == ""


async def test_bytes_that_are_no_text_are_shown_not_fatal(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"good\n\xff\xfe\n")
    assert await read(tmp_path / "log", 10) == "good\n\ufffd\ufffd\n"


async def test_following_goes_on_after_the_log_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("first\n" * 100)
    async with aclosing(lines_of(at(path), 1, follow=True)) as lines:
        assert await anext(lines) == "first\n"
        with path.open("a") as log:
            log.write("second\n")
        assert await anext(lines) == "second\n"
        path.write_text("third\n")
        assert await anext(lines) == "third\n"


async def test_following_reads_a_renamed_log_to_its_end_and_then_its_successor(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("first\n")
    async with aclosing(lines_of(at(path), 1, follow=True)) as lines:
        assert await anext(lines) == "first\n"
        moved = path.rename(tmp_path / "log.1")
        with moved.open("a") as log:
            log.write("last words\n")
        assert await anext(lines) == "last words\n"
        path.write_text("a longer beginning\n")
        assert await anext(lines) == "a longer beginning\n"


@pytest.mark.parametrize("then", ["removed", "renamed", "replaced"])
async def test_log_that_is_written_to_is_read_whatever_becomes_of_its_name(tmp_path: Path, then: str) -> None:
    path, held = tmp_path / "log", OpenLogs(cap=1000)
    writer = open_append(path)
    held.hold(path, os.dup(writer), lambda: True)
    os.write(writer, b"first\n")
    async with aclosing(lines_of(partial(held.reader, path), 1, follow=True)) as lines:
        assert await anext(lines) == "first\n"
        path.unlink() if then == "removed" else path.rename(tmp_path / "log.1")
        if then == "replaced":
            path.write_text("nobody writes here\n")
        os.write(writer, b"second\n")
        assert await anext(lines) == "second\n"
    await held.tend()
    assert (held.moved(path) or "").startswith("removed" if then == "removed" else "renamed to ")
    held.close()
    os.close(writer)


async def test_log_is_closed_a_while_after_its_process_has_ended(tmp_path: Path) -> None:
    path, held = tmp_path / "log", OpenLogs(cap=1000)
    held.hold(path, open_append(path), lambda: False)
    path.unlink()
    await held.tend()
    reader = held.reader(path)
    assert reader is not None
    os.close(reader)
    for _ in range(LINGER_ROUNDS):
        await held.tend()
    assert held.reader(path) is None


async def test_a_line_ends_at_a_line_feed_alone(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("first\n10%\r50%\r\u2028\x85\x0b\x0c\nlast\n", newline="")
    assert await read(path, 2) == "10%\r50%\r\u2028\x85\x0b\x0c\nlast\n"
    assert await read(path, 0) == ""
    path.write_text("first\nwithout an end", newline="")
    assert await read(path, 1) == "without an end"
    assert await read(path, 9) == "first\nwithout an end"
