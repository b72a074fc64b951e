"""When a backend is left alone, for how long, and what lets it back in (rules B7 to B9)."""

import pytest

from aigw_daemon.gateway.breaker import (
    FORGOTTEN_SECONDS,
    PROBE_SECONDS,
    Breaker,
    Breakers,
    Circuit,
    Failure,
    Permit,
    open_seconds,
)


def make(backend: str = "a") -> Breaker:
    return Breaker(backend, lambda _: None, random=lambda: 0.5)


def admitted(breaker: Breaker, now: float) -> Permit:
    permit = breaker.admit(now)
    assert permit is not None
    return permit


def opened(breaker: Breaker, now: float = 0.0, failure: Failure = Failure.SERVER_ERROR) -> Permit:
    """Fail until it opens; the permit from before."""
    permit = admitted(breaker, now)
    while breaker.closed:
        breaker.failed(permit, failure, now)
    return permit


def test_five_failures_in_a_row_open_it_and_a_success_between_them_starts_anew() -> None:
    breaker = make()
    permit = admitted(breaker, 0)
    for _ in range(4):
        breaker.failed(permit, Failure.TIMEOUT, 0)
    breaker.succeeded(permit, 0)
    for failure in (Failure.RESET, Failure.TRUNCATED, Failure.TIMEOUT, Failure.SERVER_ERROR):
        breaker.failed(permit, failure, 0)
    assert (breaker.closed, breaker.state) == (True, Circuit.CLOSED)
    breaker.failed(permit, Failure.BAD_ANSWER, 0)
    assert (breaker.closed, breaker.state, breaker.admit(29.9)) == (False, Circuit.OPEN, None)
    assert breaker.reason(18) == "circuit open after 5 failures (no valid answer); next try in 12 s"
    assert breaker.retry_after(18.5) == 12


def test_a_refused_connection_opens_it_at_once_and_is_tried_again_soon() -> None:
    breaker = make()
    breaker.failed(admitted(breaker, 0), Failure.REFUSED, 0)
    assert breaker.reason(0) == "circuit open after 1 failure (connection refused); next try in 5 s"
    assert (breaker.admit(4.9), breaker.admit(5) is not None) == (None, True)


def test_half_open_lets_one_probe_through_whose_success_closes_it() -> None:
    breaker = make()
    opened(breaker)
    assert (breaker.reason(30), breaker.retry_after(30)) == (None, None)
    probe = admitted(breaker, 30)
    assert (breaker.state, breaker.admit(30)) == (Circuit.HALF_OPEN, None)
    assert breaker.reason(31) == "circuit half-open: one request is trying it"
    assert breaker.retry_after(31) == 1
    breaker.succeeded(probe, 32)
    assert (breaker.closed, breaker.failures, breaker.reason(32)) == (True, 0, None)
    assert breaker.admit(32) == breaker.admit(32) == breaker.permit


def test_a_probe_that_fails_in_another_way_than_the_first_failure_opens_it_again() -> None:
    breaker = make()
    opened(breaker, 0, Failure.REFUSED)
    breaker.failed(admitted(breaker, 5), Failure.TIMEOUT, 5)
    assert breaker.reason(5) == "circuit open after 2 failures (no answer in time); next try in 60 s"


def test_each_failing_probe_opens_it_longer() -> None:
    breaker = make()
    opened(breaker)
    now = 0.0
    waits = []
    for _ in range(12):
        until = breaker.next_change()
        assert until is not None
        waits.append(until - now)
        now = until
        breaker.failed(admitted(breaker, now), Failure.SERVER_ERROR, now)
    assert waits == [30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 300, 300]


def test_one_that_flaps_opens_longer_until_it_was_closed_for_long() -> None:
    breaker = make()
    opened(breaker, 0)
    breaker.succeeded(admitted(breaker, 30), 30)
    opened(breaker, 31)
    assert breaker.next_change() == 31 + 60
    breaker.succeeded(admitted(breaker, 91), 91)
    opened(breaker, 91 + FORGOTTEN_SECONDS)
    assert breaker.next_change() == 91 + FORGOTTEN_SECONDS + 30


def test_what_was_asked_before_the_opening_neither_closes_nor_prolongs_it() -> None:
    breaker = make()
    early = opened(breaker)
    breaker.succeeded(early, 1)
    breaker.failed(early, Failure.SERVER_ERROR, 29)
    breaker.limited(early, 100, 29)
    assert (breaker.state, breaker.next_change()) == (Circuit.OPEN, 30)
    probe = admitted(breaker, 30)
    breaker.failed(early, Failure.REFUSED, 31)
    breaker.succeeded(early, 31)
    assert breaker.state is Circuit.HALF_OPEN
    breaker.succeeded(probe, 32)
    for _ in range(5):
        breaker.failed(early, Failure.SERVER_ERROR, 33)
    assert breaker.closed


def test_a_late_answer_of_a_probe_that_was_given_up_is_ignored() -> None:
    breaker = make()
    opened(breaker)
    silent = admitted(breaker, 30)
    assert breaker.admit(30 + PROBE_SECONDS - 1) is None
    later = admitted(breaker, 30 + PROBE_SECONDS)
    breaker.succeeded(silent, 340)
    breaker.failed(silent, Failure.TIMEOUT, 340)
    breaker.abandoned(silent)
    assert (breaker.state, breaker.admit(340)) == (Circuit.HALF_OPEN, None)
    assert breaker.next_change() == 30 + 3 * PROBE_SECONDS, "the second one gets twice the time"
    breaker.succeeded(later, 341)
    assert breaker.closed


def test_a_probe_that_was_given_back_says_nothing_any_more() -> None:
    breaker = make()
    opened(breaker)
    first = admitted(breaker, 30)
    breaker.abandoned(first)
    breaker.succeeded(first, 31)
    breaker.failed(first, Failure.TIMEOUT, 31)
    assert breaker.state is Circuit.HALF_OPEN
    second = admitted(breaker, 31)
    assert second != first
    breaker.limited(second, 5, 31)
    breaker.succeeded(second, 32)
    breaker.refresh(36)
    breaker.succeeded(second, 36)
    assert breaker.state is Circuit.HALF_OPEN


def test_a_probe_without_a_word_has_said_all_it_may_when_its_time_is_over() -> None:
    breaker = make()
    opened(breaker)
    silent = admitted(breaker, 30)
    breaker.refresh(30 + PROBE_SECONDS)
    breaker.succeeded(silent, 331)
    assert (breaker.state, breaker.reason(331)) == (Circuit.HALF_OPEN, None)
    breaker.succeeded(admitted(breaker, 331), 332)
    opened(breaker, 340)
    probed_at = breaker.next_change()
    assert probed_at is not None
    admitted(breaker, probed_at)
    assert breaker.next_change() == probed_at + PROBE_SECONDS, "closing forgets how long probes took"


def test_a_client_that_leaves_gives_the_probe_to_the_next_and_never_counts() -> None:
    breaker = make()
    for _ in range(100):
        breaker.abandoned(admitted(breaker, 0))
    assert (breaker.closed, breaker.failures) == (True, 0)
    opened(breaker)
    breaker.abandoned(admitted(breaker, 30))
    assert (breaker.state, breaker.reason(30)) == (Circuit.HALF_OPEN, None)
    breaker.succeeded(admitted(breaker, 30), 30)
    assert breaker.closed


def test_a_429_with_its_time_cools_down_without_counting() -> None:
    breaker = make()
    permit = admitted(breaker, 0)
    breaker.limited(permit, 20, 0)
    breaker.limited(permit, 5, 0)
    assert (breaker.state, breaker.failures, breaker.admit(19)) == (Circuit.COOLING, 0, None)
    assert (breaker.reason(8), breaker.retry_after(8)) == ("cooling down after a 429; next try in 12 s", 12)
    assert breaker.admit(20) == permit
    assert breaker.closed
    breaker.limited(permit, 86_400, 20)
    assert breaker.next_change() == 320
    breaker.refresh(320)
    breaker.limited(permit, 0, 320)
    assert breaker.closed


def test_no_second_is_added_by_rounding() -> None:
    breaker = make()
    now = 326.1199016061411
    breaker.limited(admitted(breaker, now), 300, now)
    assert breaker.retry_after(now) == 300
    assert breaker.retry_after(now + 299.9999) == 1


def test_failures_while_cooling_open_it_for_no_less_than_the_429_asked() -> None:
    breaker = make()
    permit = admitted(breaker, 0)
    breaker.limited(permit, 200, 0)
    for _ in range(5):
        breaker.failed(permit, Failure.SERVER_ERROR, 1)
    assert (breaker.state, breaker.next_change()) == (Circuit.OPEN, 200)


def test_a_probe_that_is_told_429_is_followed_by_another_probe() -> None:
    breaker = make()
    opened(breaker)
    breaker.limited(admitted(breaker, 30), 10, 30)
    assert breaker.state is Circuit.COOLING
    breaker.refresh(40)
    assert not breaker.closed
    breaker.failed(admitted(breaker, 40), Failure.SERVER_ERROR, 40)
    assert (breaker.state, breaker.next_change()) == (Circuit.OPEN, 100)


@pytest.mark.parametrize("now", [1.0, 30.0])
def test_a_new_process_gets_a_new_breaker(now: float) -> None:
    breaker = make()
    opened(breaker)
    old = breaker.admit(now) or breaker.permit
    breaker.replaced()
    assert (breaker.state, breaker.failures) == (Circuit.CLOSED, 0)
    for _ in range(5):
        breaker.failed(old, Failure.RESET, now)
    assert breaker.closed, "the old process's requests still failed"
    opened(breaker, now)
    assert breaker.next_change() == now + 30


def test_a_new_process_after_one_that_flapped_is_left_alone_no_longer_than_any() -> None:
    breaker = make()
    opened(breaker, 0)
    breaker.succeeded(admitted(breaker, 30), 30)
    breaker.replaced()
    opened(breaker, 31)
    assert breaker.next_change() == 31 + 30


@pytest.mark.parametrize(
    ("failure", "openings", "random", "seconds"),
    [
        (Failure.TIMEOUT, 1, 0.0, 24),
        (Failure.TIMEOUT, 1, 1.0, 36),
        (Failure.TIMEOUT, 3, 0.5, 90),
        (Failure.TIMEOUT, 10, 1.0, 300),
        (Failure.REFUSED, 2, 0.5, 10),
        (Failure.REFUSED, 10_000, 0.0, 300),
    ],
)
def test_the_open_time_grows_with_jitter_up_to_its_end(
    failure: Failure, openings: int, random: float, seconds: float
) -> None:
    assert open_seconds(failure, openings, random) == pytest.approx(seconds)


def test_every_change_is_told_with_what_is_true_by_then() -> None:
    told: list[tuple[str, Circuit, bool]] = []
    breakers = Breakers(lambda moved: told.append((moved.backend, moved.state, moved.closed)), random=lambda: 0.5)
    breaker = breakers.of("a")
    opened(breaker, 0)
    breakers.refresh(29)
    breakers.refresh(30)
    breakers.refresh(31)
    probe = admitted(breaker, 31)
    breaker.succeeded(probe, 32)
    breaker.replaced()
    assert told == [
        ("a", Circuit.OPEN, False),
        ("a", Circuit.HALF_OPEN, False),
        ("a", Circuit.HALF_OPEN, False),
        ("a", Circuit.CLOSED, True),
    ]


def test_one_timer_serves_all_breakers() -> None:
    breakers = Breakers(lambda _: None, random=lambda: 0.5)
    assert breakers.next_change() is None
    opened(breakers.of("slow"), 0, Failure.TIMEOUT)
    opened(breakers.of("refused"), 0, Failure.REFUSED)
    assert breakers.next_change() == 5
    breakers.refresh(5)
    assert breakers.next_change() == 30
    breakers.refresh(30)
    assert breakers.next_change() is None
    assert [breaker.state for breaker in breakers] == [Circuit.HALF_OPEN, Circuit.HALF_OPEN]


def test_backends_that_are_gone_are_forgotten_and_the_others_keep_their_past() -> None:
    breakers = Breakers(lambda _: None)
    kept = breakers.of("kept")
    opened(breakers.of("gone"))
    breakers.keep({"kept", "new"})
    assert (list(breakers), breakers.of("kept")) == ([kept], kept)
    assert breakers.of("gone").closed
