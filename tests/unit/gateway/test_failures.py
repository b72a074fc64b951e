"""What an attempt's failure means, and what the client is told when nobody is left to ask."""

import pytest

from aigw_daemon.gateway.breaker import Failure
from aigw_daemon.gateway.decision import Candidate, Decision, Readiness
from aigw_daemon.gateway.failures import (
    RETRY_AFTER_SECONDS,
    AttemptFailed,
    Kind,
    failed_exchange,
    failed_status,
    is_clients_fault,
    out_of_time,
    spent,
)
from aigw_daemon.gateway.upstream.base import BodyTooLarge, ConnectFailed, ProtocolViolation, Truncated, UpstreamError

DECISION = Decision(
    "m",
    "route",
    "m",
    (
        Candidate("one", "m", Readiness.READY, "ready"),
        Candidate("two", "m", Readiness.SKIPPED, "failed: no such file"),
    ),
)


@pytest.mark.parametrize(
    ("status", "kind", "counts", "passing"),
    [
        (401, Kind.FAILED, None, False),
        (404, Kind.FAILED, None, False),
        (429, Kind.LIMITED, None, False),
        (500, Kind.FAILED, Failure.SERVER_ERROR, False),
        (501, Kind.FAILED, None, False),
        (502, Kind.FAILED, Failure.SERVER_ERROR, True),
        (503, Kind.UNREACHABLE, Failure.SERVER_ERROR, True),
    ],
)
def test_a_status_says_whose_fault_it_is(status: int, kind: Kind, counts: Failure | None, passing: bool) -> None:
    failure = failed_status(status, "because", None)
    assert (failure.kind, failure.counts, failure.passing) == (kind, counts, passing)
    assert failure.detail == f"it answered {status}: because"


@pytest.mark.parametrize(
    ("error", "kind", "counts"),
    [
        (ConnectFailed("x", "refused"), Kind.UNREACHABLE, Failure.REFUSED),
        (ConnectFailed("x", "tls"), Kind.UNREACHABLE, Failure.UNREACHABLE),
        (Truncated("x"), Kind.FAILED, Failure.RESET),
        (ProtocolViolation("x"), Kind.FAILED, Failure.BAD_ANSWER),
        (BodyTooLarge("x"), Kind.FAILED, None),
        (UpstreamError("x"), Kind.FAILED, Failure.RESET),
    ],
)
def test_a_broken_exchange_says_how_it_counts(error: UpstreamError, kind: Kind, counts: Failure | None) -> None:
    failure = failed_exchange(error)
    assert (failure.kind, failure.counts) == (kind, counts)


@pytest.mark.parametrize(
    ("kinds", "status"),
    [
        ([], 503),
        ([Kind.UNREACHABLE], 503),
        ([Kind.LIMITED], 429),
        ([Kind.LIMITED, Kind.UNREACHABLE], 503),
        ([Kind.TIMED_OUT, Kind.UNREACHABLE], 504),
        ([Kind.FAILED, Kind.LIMITED, Kind.TIMED_OUT], 500),
    ],
)
def test_a_spent_chain_says_the_worst_that_it_met(kinds: list[Kind], status: int) -> None:
    error = spent(DECISION, [("one", AttemptFailed(kind, f"met {kind}")) for kind in kinds])
    assert error.status == status
    assert all(f"one: met {kind}" in error.message for kind in kinds)
    assert "two: failed: no such file" in error.message
    assert (error.retry_after is not None) == (status in {429, 503})


def test_a_spent_chain_tells_the_shortest_wait_in_whole_seconds_rounded_up() -> None:
    met = [("one", AttemptFailed(Kind.LIMITED, "slow", wait)) for wait in (30.0, 6.2)]
    assert spent(DECISION, met).retry_after == 7
    assert b"retry-after: 7\r\n" in spent(DECISION, met).head()
    assert spent(DECISION, []).retry_after == RETRY_AFTER_SECONDS


@pytest.mark.parametrize(
    ("last", "should_retry"),
    [
        pytest.param(AttemptFailed(Kind.FAILED, "boom"), False, id="it answered with a failure"),
        pytest.param(AttemptFailed(Kind.FAILED, "cut", lost=True), True, id="its process died"),
        pytest.param(AttemptFailed(Kind.UNREACHABLE, "refused"), True, id="it could not be reached"),
        pytest.param(AttemptFailed(Kind.LIMITED, "full"), True, id="it was full"),
    ],
)
def test_clients_are_told_not_to_retry_only_where_that_cannot_help(last: AttemptFailed, should_retry: bool) -> None:
    """Rule B6: the last word of each candidate counts."""
    error = spent(DECISION, [("one", AttemptFailed(Kind.FAILED, "boom")), ("one", last)])
    assert (error.status, error.should_retry, error.retry_after is not None) == (500, should_retry, should_retry)
    assert (b"x-should-retry: false" in error.head()) is not should_retry
    assert spent(DECISION, [("one", AttemptFailed(Kind.FAILED, "boom"))], "spent", later=True).should_retry


@pytest.mark.parametrize(
    "message",
    [
        "EngineCore encountered an issue. See stack trace (above)",
        "llama runner process has terminated: signal: killed",
        "llama-server process no longer running: unknown",
    ],
)
def test_last_words_of_a_process_that_dies_are_known(message: str) -> None:
    failure = failed_status(500, message, None)
    assert (failure.lost, failure.passing) == (True, True)
    assert not failed_status(400, message, None).lost


def test_why_no_more_attempts_are_made_is_told() -> None:
    error = spent(DECISION, [("one", AttemptFailed(Kind.FAILED, "boom"))], "2 attempts were made")
    assert error.message.endswith("; 2 attempts were made")


def test_the_end_of_time_tells_what_was_met() -> None:
    error = out_of_time(0.5, DECISION, [("one", AttemptFailed(Kind.FAILED, "boom"))])
    assert (error.status, error.message) == (
        504,
        "there was no answer within 0.5 s: one: boom; two: failed: no such file",
    )
    assert out_of_time(3.0, None, ()).message == "there was no answer within 3 s"


@pytest.mark.parametrize(("status", "clients"), [(400, True), (413, True), (422, True), (401, False), (404, False)])
def test_the_operators_faults_are_not_the_clients(status: int, clients: bool) -> None:
    assert is_clients_fault(status) is clients
