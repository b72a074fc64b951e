"""How long a start is waited for, and which line of its log is shown."""

import pytest

from aigw_daemon.supervisor.patience import Patience, progress, stage

STAGES = (stage(r"shard (\d+)", "loading: {0}"), stage(r"compil", "compiling"))


@pytest.mark.parametrize(
    ("lines", "shown"),
    [
        ([], None),
        (["hello"], "hello"),
        (["shard 1", "shard 2", "noise"], "loading: 2"),
        (["shard 1", "compiling now", "noise"], "compiling"),
    ],
)
def test_newest_telling_line_is_shown_else_the_last(lines: list[str], shown: str | None) -> None:
    assert progress(STAGES, lines) == shown


def test_start_that_writes_or_works_is_waited_for_up_to_the_limit() -> None:
    patience = Patience(limit=1000, stall=300, began=0, moved=0)
    assert patience.over(299, log_bytes=0, cpu_seconds=0.5) is None
    assert patience.over(300, log_bytes=10, cpu_seconds=0.5) is None
    assert patience.over(599, log_bytes=10, cpu_seconds=2.0) is None
    assert patience.over(898, log_bytes=4, cpu_seconds=2.0) is None
    assert patience.over(1001, log_bytes=5, cpu_seconds=9.0) == "it was not ready within 1000 s"


def test_start_that_does_nothing_has_stalled() -> None:
    patience = Patience(limit=1000, stall=300, began=0, moved=0)
    assert patience.over(100, log_bytes=7, cpu_seconds=50.0) is None
    # An idle process uses a little CPU all the time.
    assert patience.over(399, log_bytes=7, cpu_seconds=50.9) is None
    sentence = "it stalled: for 300 s it neither wrote to its log nor used the CPU"
    assert patience.over(401, log_bytes=7, cpu_seconds=50.9) == sentence


def test_end_of_a_busy_child_hides_no_work_of_the_others() -> None:
    patience = Patience(limit=1000, stall=300, began=0, moved=0)
    assert patience.over(1, log_bytes=1, cpu_seconds=100.0) is None
    assert patience.over(200, log_bytes=1, cpu_seconds=20.0) is None
    assert patience.over(299, log_bytes=1, cpu_seconds=22.0) is None
    assert patience.over(500, log_bytes=1, cpu_seconds=22.0) is None


def test_without_a_stall_limit_only_the_limit_counts() -> None:
    patience = Patience(limit=1000, stall=None, began=0, moved=0)
    assert patience.over(999, log_bytes=0, cpu_seconds=0.0) is None
    assert patience.over(1001, log_bytes=0, cpu_seconds=0.0) == "it was not ready within 1000 s"
