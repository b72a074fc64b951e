"""Questions to a worker: each gets its own reply, and none waits for a worker that is gone or silent."""

import asyncio
from typing import cast

import pytest

from aigw_daemon.gatekeeper.questions import NoAnswer, Questions
from aigw_daemon.gatekeeper.worker import Worker
from aigw_daemon.identity import Identity
from aigw_daemon.link.caching import CacheCommand, CacheReply
from aigw_daemon.link.daemon import WorkerConnection
from aigw_daemon.link.messages import Down, decode_down, decode_up, encode
from aigw_daemon.supervisor.failures import Exit
from tests.support.wait import eventually


class Line:
    """A connection that keeps what it is given."""

    def __init__(self) -> None:
        self.sent: list[CacheCommand] = []

    def send(self, message: Down) -> None:
        told = decode_down(encode(message))
        assert isinstance(told, CacheCommand)
        self.sent.append(told)


class Process:
    """A process that is there."""

    identity = Identity(pid=4712, start_ticks=1, boot_id="b", pgid=4712, cookie="c")
    log_start = None

    async def wait(self) -> Exit:
        return Exit(code=0)


@pytest.fixture
def line() -> Line:
    return Line()


@pytest.fixture
def worker(line: Line) -> Worker:
    return Worker(Process(), connection=cast(WorkerConnection, line))


async def test_each_question_gets_the_reply_that_bears_its_number(worker: Worker, line: Line) -> None:
    questions = Questions()
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(questions.ask(worker, CacheCommand(0, "stats"), 5))
        second = tasks.create_task(questions.ask(worker, CacheCommand(0, "clear", model="m", older_than=60.0), 5))
        await eventually(lambda: len(line.sent) == 2)
        assert line.sent[0].id != line.sent[1].id
        assert line.sent[1] == CacheCommand(line.sent[1].id, "clear", model="m", older_than=60.0)
        questions.answered(CacheReply(line.sent[1].id, removed=2))
        questions.answered(CacheReply(line.sent[0].id, removed=1))
    assert (first.result().removed, second.result().removed) == (1, 2)


async def test_a_reply_that_comes_too_late_is_passed_over(worker: Worker, line: Line) -> None:
    questions = Questions()
    with pytest.raises(NoAnswer, match=r"the gateway worker 4712 gave no answer within 0\.01 s"):
        await questions.ask(worker, CacheCommand(0, "stats"), 0.01)
    questions.answered(CacheReply(line.sent[0].id))
    async with asyncio.TaskGroup() as tasks:
        again = tasks.create_task(questions.ask(worker, CacheCommand(0, "stats"), 5))
        await eventually(lambda: len(line.sent) == 2)
        questions.answered(CacheReply(line.sent[0].id, removed=9))
        questions.answered(CacheReply(line.sent[1].id, removed=1))
        questions.answered(CacheReply(line.sent[1].id, removed=2))
    assert again.result().removed == 1


async def test_without_a_worker_nobody_waits(worker: Worker) -> None:
    questions = Questions()
    worker.connection = None
    for nobody in (None, worker):
        with pytest.raises(NoAnswer, match="no gateway worker is there"):
            await questions.ask(nobody, CacheCommand(0, "stats"), 60)


async def test_a_worker_that_ends_answers_nothing_any_more(worker: Worker, line: Line) -> None:
    questions = Questions()

    async def asked() -> str:
        with pytest.raises(NoAnswer) as caught:
            await questions.ask(worker, CacheCommand(0, "stats"), 60)
        return str(caught.value)

    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(asked())
        await eventually(lambda: line.sent)
        questions.gone(Worker(Process()))
        questions.gone(worker)
    assert waiting.result() == "the gateway worker 4712 ended meanwhile"


def test_a_reply_travels_as_it_is() -> None:
    reply = CacheReply(3, problem="Redis can't be asked", keys=("00", "01"))
    assert decode_up(encode(reply)) == reply
