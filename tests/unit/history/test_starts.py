"""How long starts took, from events alone."""

from pathlib import Path

import pytest

from aigw_daemon.history.events import BackendEvent, EventLog
from aigw_daemon.history.starts import BEGINS, READY, SWEEP, StartTimes
from aigw_daemon.supervisor.happenings import Happening


def took(*events: tuple[float, str]) -> float | None:
    """The last start of a backend with these events."""
    return StartTimes(BackendEvent(at, "b", word) for at, word in events).seconds("b")


@pytest.mark.parametrize(
    ("events", "seconds"),
    [
        ([], None),
        ([(10, "start"), (12.5, "ready")], 2.5),
        ([(10, "start"), (11, "sweep"), (13, "ready")], 3),
        ([(10, "start"), (11, "adopt"), (12, "ready")], None),
        ([(10, "start"), (11, "crash"), (12, "restart"), (20, "ready")], 8),
        ([(10, "start"), (11, "start failed"), (99, "ready")], None),
        ([(10, "start"), (12, "ready"), (50, "crash"), (51, "start"), (52, "adopt"), (53, "ready")], 2),
        ([(10, "start"), (5, "ready")], None),
        ([(12, "ready")], None),
    ],
)
def test_a_start_lies_between_its_beginning_and_ready(events: list[tuple[float, str]], seconds: float | None) -> None:
    assert took(*events) == seconds


def test_the_words_are_those_of_the_supervisor() -> None:
    assert {*BEGINS, READY, SWEEP} <= {word.value for word in Happening}


async def test_a_fresh_daemon_still_knows_it(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events")
    log.add(BackendEvent(1.0, "b", "start"))
    log.add(BackendEvent(3.0, "b", "ready"))
    assert log.starts.seconds("b") == 2.0
    await log.close()
    assert EventLog(tmp_path / "events").starts.seconds("b") == 2.0
    assert log.starts.seconds("another") is None
