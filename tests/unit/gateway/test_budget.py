"""How much trying again there may be, over all traffic and for one request (rules B4, B5)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigw_daemon.gateway.budget import BUCKET, LONGEST_PAUSE, RetryBudget, pause


@pytest.mark.parametrize(("active", "most"), [(0, 3), (1, 3), (15, 3), (19, 3), (20, 4), (100, 20), (1000, 200)])
def test_extra_attempts_in_flight_are_a_fifth_of_what_is_active_and_at_least_three(active: int, most: int) -> None:
    budget = RetryBudget()
    made = 0
    while budget.refusal(active) is None:
        budget.begin()
        made += 1
    assert made == most
    assert budget.refusal(active) == (f"the retry budget is spent: {most} extra attempts are in flight, at most {most}")
    budget.end(failed=False)
    assert budget.refusal(active) is None


def test_failing_extra_attempts_leave_one_at_a_time_until_something_succeeds() -> None:
    budget = RetryBudget()
    for _ in range(5):
        assert budget.refusal(100) is None
        budget.begin()
        budget.begin()
        budget.end(failed=False)
        budget.end(failed=True)
    assert budget.refusal(100) is None, "the one that can find out whether it helps again"
    budget.begin()
    assert budget.refusal(100) == "the retry budget is spent: most extra attempts fail, so only one at a time is made"
    budget.succeeded()
    assert budget.refusal(100) is None


def test_the_bucket_holds_ten_failures_and_each_success_gives_a_tenth_back() -> None:
    budget = RetryBudget()
    for _ in range(30):
        budget.begin()
        budget.end(failed=True)
    assert budget.spent == BUCKET
    for _ in range(10):
        budget.succeeded()
    assert budget.spent == BUCKET - 10
    for _ in range(200):
        budget.succeeded()
    assert budget.spent == 0


@given(st.lists(st.sampled_from(["begin", "fail", "end", "succeed"])), st.integers(0, 1000))
def test_the_books_stay_within_their_bounds(steps: list[str], active: int) -> None:
    budget = RetryBudget()
    for step in steps:
        if step == "begin" and budget.refusal(active) is None:
            budget.begin()
        elif step in {"fail", "end"} and budget.extra:
            budget.end(failed=step == "fail")
        elif step == "succeed":
            budget.succeeded()
        assert 0 <= budget.spent <= BUCKET
        assert 0 <= budget.extra <= max(3, active // 5)
        assert budget.extra or budget.refusal(active) is None


@pytest.mark.parametrize(
    ("extra", "longest"), [(1, 0.5), (2, 1.0), (3, 2.0), (4, 4.0), (5, 8.0), (6, 8.0), (100_000, 8.0)]
)
def test_pauses_double_up_to_eight_seconds_and_are_drawn_from_their_whole_length(extra: int, longest: float) -> None:
    assert [pause(extra, 600, None, random) for random in (0.0, 0.25, 1.0)] == [0.0, longest / 4, longest]


@pytest.mark.parametrize(
    ("remaining", "retry_after", "wait"),
    [
        (10, 3, 3),
        (10, 8, 8),
        (10, 0.1, 0.5),
        (10, 8.1, None),
        (3, 3, None),
        (2, 3, None),
        (0.4, None, None),
        (0, None, None),
    ],
)
def test_a_pause_is_never_shorter_than_asked_nor_longer_than_what_is_left(
    remaining: float, retry_after: float | None, wait: float | None
) -> None:
    assert pause(1, remaining, retry_after, 1.0) == wait


@given(st.integers(1, 50), st.floats(0, 700), st.none() | st.floats(0, 100), st.floats(0, 1))
def test_every_pause_fits(extra: int, remaining: float, retry_after: float | None, random: float) -> None:
    wait = pause(extra, remaining, retry_after, random)
    assert wait is None or (retry_after or 0) <= wait <= LONGEST_PAUSE
    assert wait is None or wait < remaining
