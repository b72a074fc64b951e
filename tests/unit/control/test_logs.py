"""Reading the end of a log, and what follows, across rotation."""

from contextlib import aclosing
from pathlib import Path

from aigw_daemon.control.logs import BLOCK, lines_of


async def read(path: Path, count: int) -> str:
    return "".join([text async for text in lines_of(path, count, follow=False)])


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
    async with aclosing(lines_of(path, 1, follow=True)) as lines:
        assert await anext(lines) == "first\n"
        with path.open("a") as log:
            log.write("second\n")
        assert await anext(lines) == "second\n"
        path.write_text("third\n")
        assert await anext(lines) == "third\n"


async def test_a_line_ends_at_a_line_feed_alone(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("first\n10%\r50%\r\u2028\x85\x0b\x0c\nlast\n", newline="")
    assert await read(path, 2) == "10%\r50%\r\u2028\x85\x0b\x0c\nlast\n"
    assert await read(path, 0) == ""
    path.write_text("first\nwithout an end", newline="")
    assert await read(path, 1) == "without an end"
    assert await read(path, 9) == "first\nwithout an end"
