"""Under load, worker, daemon and version change hands, and no client that connects meanwhile is refused or failed."""

import asyncio
import time
from collections.abc import Callable

from tests.support.living import Living, is_gone, kill
from tests.support.load import Load, streaming, under_load
from tests.support.wait import eventually

REPLACED_SECONDS = 3.0
"""In which another worker must serve, while the load takes what it can of the same two cores."""
KILLS = 3


def after(load: Load, moment: float) -> list[str]:
    """What was asked after a moment and not answered."""
    return [fault.what for fault in load.faults if fault.began > moment]


async def test_a_killed_worker_is_replaced_and_new_connections_only_wait(
    living: Living, record_property: Callable[[str, object], None]
) -> None:
    outages = [await outage_after_a_kill(living) for _ in range(KILLS)]
    record_property("recover_s", round(max(outages), 2))
    assert living.status().gateway.restarts == KILLS


async def outage_after_a_kill(living: Living) -> float:
    """Kill the worker under load; the seconds until another one has answered."""
    before = living.worker
    async with under_load(living.aigw.port) as load:
        await load.more()
        kill(before)
        killed = time.monotonic()
        # What was asked after the kill can only be answered by another worker.
        await eventually(lambda: load.last_begun > killed, seconds=REPLACED_SECONDS, what="another worker's answer")
        outage = time.monotonic() - killed
        await load.more()
    assert after(load, killed) == []
    assert not any("Refused" in fault.what for fault in load.faults)
    assert living.worker != before
    return outage


async def test_a_killed_daemon_is_not_noticed_and_the_next_adopts_everything(living: Living) -> None:
    worker = living.worker
    async with under_load(living.aigw.port) as load:
        await load.more()
        await asyncio.to_thread(living.kill)
        await load.more()
        await asyncio.to_thread(living.start)
        await asyncio.to_thread(living.ready)
        await load.more()
    assert load.faults == []
    assert living.worker == worker
    assert living.workers() == [worker]


async def test_a_restart_of_the_daemon_loses_no_request_and_changes_no_pid(living: Living) -> None:
    assert living.daemon is not None
    worker, pid = living.worker, living.daemon.pid
    async with under_load(living.aigw.port) as load:
        await load.more()
        for _ in range(2):
            await asyncio.to_thread(living.restart)
            await asyncio.to_thread(living.ready)
            await load.more()
    assert load.faults == []
    assert living.status().daemon.pid == pid
    assert living.workers() == [worker]
    kill(worker)
    await eventually(lambda: living.status().gateway.restarts == 1, what="the count of the crash")
    log = living.aigw.log("aigwd")
    assert f"worker {worker} ended unexpectedly (was killed by SIGKILL" in log, log


async def test_a_worker_of_another_version_is_replaced_without_a_refusal(living: Living) -> None:
    before = living.worker
    async with under_load(living.aigw.port) as load, streaming(living.aigw.port) as stream:
        await asyncio.to_thread(living.kill)
        await asyncio.to_thread(living.start, newer=True)
        await asyncio.to_thread(living.ready)
        await load.more()
        assert (await stream.events())[-1] == b"[DONE]"
    await eventually(lambda: is_gone(before), seconds=15, what="the end of the older worker")
    assert load.faults == []
    assert living.workers() == [living.worker] != [before]
