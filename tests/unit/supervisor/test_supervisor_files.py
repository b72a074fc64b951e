"""State file, logs, keys: what is on disk survives faults and tells nothing that it shouldn't."""

import asyncio
import errno
import json
import logging
import os
import shutil
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from aigw_daemon import state_file
from aigw_daemon.daemon_log import DaemonLog
from aigw_daemon.files import write_whole
from aigw_daemon.home import Home
from aigw_daemon.identity import Identity
from aigw_daemon.state_file import BackendRecord, Member, StateError, StateFile
from aigw_daemon.supervisor import logs
from aigw_daemon.supervisor.keys import engine_key
from tests.support.supervision import fresh_home
from tests.support.wait import eventually

IDENTITY = Identity(1, 2, "boot", 1, "cookie", ("llama-server", "--port", "1"))


@pytest.fixture
def home() -> Iterator[Home]:
    with fresh_home() as made:
        yield made


async def test_document_comes_back_as_it_was(home: Home) -> None:
    state = StateFile(home)
    state.update(profile="p.yaml", serving=True, gateway=IDENTITY)
    state.update_backend("a", wanted=True, identity=IDENTITY, descendants=(Member(3, 4),), port=5)
    state.update_backend("b", restarts=2)
    state.forget_backend("b")
    await state.close()
    again = StateFile(home)
    assert again.document == state.document
    assert again.backend("a") == BackendRecord(wanted=True, identity=IDENTITY, descendants=(Member(3, 4),), port=5)
    assert again.backend("b") == BackendRecord()
    assert stat.S_IMODE(home.state_file.stat().st_mode) == 0o600


async def test_changes_are_on_disk_a_moment_later_without_a_close(home: Home) -> None:
    state = StateFile(home)
    state.update(serving=True)
    await eventually(lambda: home.state_file.exists() and json.loads(home.state_file.read_text())["serving"])
    await state.close()


async def test_many_changes_are_few_writes_and_none_is_lost(home: Home) -> None:
    writes: list[bytes] = []
    entered, leave = threading.Event(), threading.Event()

    def slow(path: Path, content: bytes) -> None:
        if path == home.state_file:
            entered.set()
            leave.wait(10)
            writes.append(content)
            write_whole(path, content)

    state = StateFile(home, write=slow)
    state.update_backend("a", restarts=0)
    await asyncio.to_thread(entered.wait, 10)
    for number in range(1, 100):
        state.update_backend("a", restarts=number)
    leave.set()
    await state.close()
    assert len(writes) <= 3
    assert StateFile(home).backend("a").restarts == 99


async def test_full_disk_is_waited_for_and_said_once(
    home: Home, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_file, "RETRY_SECONDS", 0.01)
    attempts: list[int] = []

    def full(path: Path, content: bytes) -> None:
        attempts.append(1)
        if len(attempts) < 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_whole(path, content)

    state = StateFile(home, write=full)
    with caplog.at_level(logging.WARNING):
        state.update(serving=True)
        await eventually(home.state_file.exists)
    await state.close()
    assert [record.getMessage().count("No space left") for record in caplog.records] == [1]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"version": 1}', b'{"instance": 5, "version": 1}', b"\xff\x00"]
)
def test_torn_file_is_moved_aside_and_the_instance_kept(home: Home, content: bytes) -> None:
    instance = StateFile(home).document.instance
    home.state_file.write_bytes(content)
    state = StateFile(home)
    assert state.document.instance == instance
    assert state.document.backends == {}
    assert home.state_file.with_name("state.json.unreadable").read_bytes() == content


def test_lost_instance_file_is_made_again_from_the_document(home: Home) -> None:
    first = StateFile(home)
    first.update(serving=True)
    first.save()
    (home.state / "instance").write_text("../../torn\n")
    assert StateFile(home).document.instance == first.document.instance


def test_file_of_a_newer_aigw_is_refused_and_left(home: Home) -> None:
    home.state_file.write_text('{"version": 99, "instance": "x"}')
    with pytest.raises(StateError, match=r"was written by a newer aigw \(its version is 99"):
        StateFile(home)
    assert "99" in home.state_file.read_text()


def test_half_written_file_never_takes_the_place_of_the_old_one(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    write_whole(home.state_file, b"old")

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "disk")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk"):
        write_whole(home.state_file, b"new")
    assert home.state_file.read_bytes() == b"old"


def test_key_is_the_same_for_the_next_daemon_and_another_for_each_backend(home: Home) -> None:
    key = engine_key(home, "a")
    assert engine_key(home, "a") == key
    assert engine_key(home, "b") != key
    assert len(key.value) == 64
    secret = home.state / "engines.secret"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    secret.write_bytes(b"torn")
    assert engine_key(home, "a") != key


def test_rotation_keeps_the_end_and_the_writers_descriptor(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    writer = logs.open_append(path)
    os.write(writer, b"first\n" * 100)
    assert not logs.rotate(writer, path, 600)
    os.write(writer, b"last\n")
    assert logs.rotate(writer, path, 600)
    assert logs.rotated(path).read_bytes() == (b"first\n" * 100 + b"last\n")[-600:]
    os.write(writer, b"after\n")
    os.close(writer)
    assert path.read_bytes() == b"after\n"
    assert [stat.S_IMODE(each.stat().st_mode) for each in (path, logs.rotated(path))] == [0o600, 0o600]


def test_rotation_on_a_full_disk_still_makes_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.log"
    writer = logs.open_append(path)
    os.write(writer, b"x" * 100)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(logs, "_copy_end", full)
    assert logs.rotate(writer, path, 10)
    os.close(writer)
    assert path.read_bytes() == b""


@pytest.mark.parametrize("then", ["removed", "renamed", "replaced", "folder removed"])
def test_log_is_cut_whatever_becomes_of_its_name(tmp_path: Path, then: str) -> None:
    path, elsewhere = tmp_path / "logs" / "a.log", tmp_path / "logs" / "a.log.1"
    writer = logs.open_append(path)
    os.write(writer, b"x" * 1000)
    assert logs.misplaced(writer, path) is None
    if then == "folder removed":
        shutil.rmtree(path.parent)
    elif then == "removed":
        path.unlink()
    else:
        path.rename(elsewhere)
    if then == "replaced":
        path.touch()
    expected = "removed" if "removed" in then else f"renamed to {elsewhere}"
    assert logs.misplaced(writer, path) == expected
    assert logs.rotate(writer, path, 100)
    assert os.fstat(writer).st_size == 0
    os.write(writer, b"after\n")
    assert logs.tail(writer, 5) == ["after"]
    os.close(writer)


def test_log_folder_that_was_removed_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "a.log"
    os.close(logs.open_append(path))
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_tail_gives_whole_lines_of_this_start_with_control_characters_shown(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    log = logs.open_append(path)
    os.write(log, b"old\n")
    since = logs.size(path)
    os.write(log, b"one\n\n 10%\r 50%\r100%\nred \x1b[31m\xff\n")
    assert logs.tail(log, 10, since) == ["one", "100%", "red \\x1b[31m\ufffd"]
    assert logs.tail(log, 1) == ["red \\x1b[31m\ufffd"]
    assert logs.tail(log, 10, since=10_000)[0] == "old"
    os.close(log)


def test_tail_of_a_huge_log_begins_with_a_whole_line(tmp_path: Path) -> None:
    log = logs.open_append(tmp_path / "a.log")
    os.write(log, b"".join(b"line %06d\n" % number for number in range(20_000)))
    lines = logs.tail(log, 100_000)
    os.close(log)
    assert lines[-1] == "line 019999"
    assert len(lines[0]) == len("line 000000")


def test_daemons_own_log_begins_a_new_file_when_its_name_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "aigwd.log"
    handler = DaemonLog(path)
    record = logging.LogRecord("n", logging.INFO, "f", 1, "said", None, None)
    handler.emit(record)
    path.rename(tmp_path / "old.log")
    handler.emit(record)
    shutil.rmtree(path.parent)
    handler.emit(record)
    handler.close()
    assert (path.read_text(), (tmp_path / "old.log").read_text()) == ("said\n", "said\n")


def test_log_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "a.log").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic links"):
        logs.open_append(tmp_path / "a.log")
