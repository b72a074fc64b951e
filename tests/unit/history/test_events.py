"""Events of backends: kept over daemons and faults of the disk, bounded, and told to whoever watches."""

import asyncio
import stat
from pathlib import Path

import pytest

from aigw_daemon.history.events import BackendEvent, EventLog
from tests.support.wait import eventually


def event(number: int, backend: str = "a") -> BackendEvent:
    return BackendEvent(float(number), backend, "ready", f"number {number}")


async def told(log: EventLog, backend: str | None = None, count: int = 100) -> list[BackendEvent]:
    return [found async for found in log.told(backend, count, follow=False)]


async def test_events_outlive_the_daemon_and_are_told_by_backend_oldest_first(tmp_path: Path) -> None:
    path = tmp_path / "events.ndjson"
    first = EventLog(path)
    for number in range(3):
        first.add(event(number, "ab"[number % 2]))
    await first.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    second = EventLog(path)
    assert await told(second) == [event(0), event(1, "b"), event(2)]
    assert await told(second, "b") == [event(1, "b")]
    assert await told(second, count=1) == [event(2)]
    assert await told(second, count=0) == []


async def test_torn_line_costs_itself_only(tmp_path: Path) -> None:
    path = tmp_path / "events.ndjson"
    path.write_bytes(b'{"at":1.0,"backend":"a","event":"ready","text":"number 1"}\n{"at":2.0,"backe')
    log = EventLog(path)
    log.add(event(3))
    await log.close()
    assert await told(EventLog(path)) == [event(1), event(3)]


async def test_file_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "events.ndjson"
    log = EventLog(path, cap=1000)
    for number in range(200):
        log.add(event(number))
    await log.close()
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 2400
    kept = await told(EventLog(path))
    assert kept[-1] == event(199)
    assert kept == [event(number) for number in range(200 - len(kept), 200)]


async def test_full_disk_is_said_once_and_events_are_told_and_written_again_afterwards(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # A folder that is not there refuses every write, as a full disk does.
    path = tmp_path / "later" / "events.ndjson"
    log = EventLog(path)
    log.add(event(1))
    log.add(event(2))
    assert await told(log) == [event(1), event(2)]
    await eventually(lambda: log._ahead.empty() and "events.ndjson" in caplog.text)
    path.parent.mkdir()
    log.add(event(3))
    await log.close()
    assert caplog.text.count("cannot write") == 1
    assert (await told(EventLog(path)))[-1] == event(3)


async def test_whoever_follows_hears_of_one_backend_as_it_happens(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.ndjson")
    log.add(event(1))
    following = log.told("a", 10, follow=True)
    assert await anext(following) == event(1)
    async with asyncio.TaskGroup() as tasks:
        heard = tasks.create_task(anext(following))
        await asyncio.sleep(0)
        log.add(event(2, "b"))
        log.add(event(3))
    assert heard.result() == event(3)
    await following.aclose()
    await log.close()


async def test_follower_that_does_not_keep_up_loses_the_oldest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aigw_daemon.history.events.KEPT", 2)
    log = EventLog(tmp_path / "events.ndjson")
    log.add(event(0))
    following = log.told(None, 1, follow=True)
    assert await anext(following) == event(0)
    for number in (1, 2, 3):
        log.add(event(number))
    assert [await anext(following), await anext(following)] == [event(2), event(3)]
    await following.aclose()
    await log.close()
