"""What goes up to the daemon, how often, and what is only counted."""

import asyncio

from aigw_daemon.gateway.reporter import RECORDS_PER_SECOND, Reporter
from aigw_daemon.gateway.standing import Standings
from aigw_daemon.link.messages import Load, Records, RequestRecord, Up
from tests.support.wait import eventually


class Call:
    """A request that is over, as far as the reporter looks at it."""

    def record(self) -> RequestRecord:
        return RECORD


RECORD = RequestRecord("req_1", 0.0, "chat/completions", "m", 200, stream=False, duration_ms=1.0, overhead_ms=0.1)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_records_above_the_cap_are_counted_not_kept_until_the_second_is_over() -> None:
    sent: list[Up] = []
    clock = Clock()
    standings = Standings(lambda: None)
    reporter = Reporter(standings, sent.append, clock)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(reporter.run())
        for _ in range(RECORDS_PER_SECOND + 7):
            reporter.finish(Call())
        await eventually(lambda: Records((RECORD,) * RECORDS_PER_SECOND, 7) in sent)
        clock.now = 1.0
        await eventually(lambda: standings.activity.asleep)
        reporter.finish(Call())
        await eventually(lambda: sent[-1] == Records((RECORD,), 0))
        running.cancel()


async def test_counts_in_flight_are_sent_when_they_changed() -> None:
    sent: list[Up] = []
    standings = Standings(lambda: None)
    reporter = Reporter(standings, sent.append)
    standings.lane("a").in_flight += 1
    standings.lane("b").in_flight += 1
    assert standings.in_flight == 2
    reporter.flush()
    reporter.flush()
    assert sent == [Load({"a": 1, "b": 1}, {"a": 0, "b": 0})]


async def test_what_is_relayed_is_told_each_second_while_something_is_in_flight() -> None:
    sent: list[Up] = []
    standings = Standings(lambda: None)
    reporter = Reporter(standings, sent.append)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(reporter.run())
        flow = standings.lane("a")
        flow.in_flight += 1
        flow.relayed += 3
        standings.activity.wake()
        await eventually(lambda: Load({"a": 1}, {"a": 3}) in sent)
        flow.relayed += 1
        await eventually(lambda: Load({"a": 1}, {"a": 4}) in sent)
        flow.in_flight -= 1
        await eventually(lambda: sent[-1] == Load({"a": 0}, {"a": 4}))
        running.cancel()


def test_an_engine_that_a_slow_client_holds_up_is_said_to_go_on() -> None:
    sent: list[Up] = []
    standings = Standings(lambda: None)
    reporter = Reporter(standings, sent.append)
    flow = standings.lane("a")
    flow.in_flight = flow.held = 1
    reporter.flush()
    flow.in_flight = 2
    reporter.flush()
    assert [load.relayed for load in sent if isinstance(load, Load)] == [{"a": 0}, {"a": 1}]


async def test_a_burst_is_a_few_messages_and_silence_is_none() -> None:
    sent: list[Up] = []
    standings = Standings(lambda: None)
    reporter = Reporter(standings, sent.append)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(reporter.run())
        for _ in range(500):
            standings.lane("a").relayed += 1
            reporter.finish(Call())
        await eventually(lambda: sum(len(batch.records) for batch in sent if isinstance(batch, Records)) == 500)
        await eventually(lambda: any(isinstance(message, Load) for message in sent))
        count = len(sent)
        assert count <= 4
        await asyncio.sleep(0.4)  # silence has no event to wait for
        assert len(sent) == count
        running.cancel()
