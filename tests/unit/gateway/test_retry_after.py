"""How long an upstream asks to be left alone, in whatever form it says so."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aigw_daemon.gateway.retry_after import LONGEST_SECONDS, wait_of

NOW = datetime(2026, 11, 28, 8, 49, 37, tzinfo=UTC)


def waits(value: str, name: str = "retry-after", *more: tuple[bytes, bytes]) -> float | None:
    return wait_of([(name.encode(), value.encode("latin-1")), *more], NOW.timestamp())


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        (" 7 ", 7.0),
        ("0", 0.0),
        ("007", 7.0),
        ("7.5", 7.5),
        ("7.", 7.0),
        (".5", 0.5),
        ("9" * 5_000, LONGEST_SECONDS),
        ("Sat, 28 Nov 2026 08:50:07 GMT", 30.0),
        ("Saturday, 28-Nov-26 08:50:07 GMT", 30.0),
        ("Sat Nov 28 08:50:07 2026", 30.0),
        ("Sat, 28 Nov 2026 08:49:37 GMT", 0.0),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0.0),
        ("Sat, 28 Nov 2099 08:49:37 GMT", LONGEST_SECONDS),
    ],
)
def test_every_form_of_it_is_read(value: str, seconds: float) -> None:
    assert waits(value) == seconds


@pytest.mark.parametrize(
    "value",
    [
        *("", "-1", "+1", "1e3", "1,5", "7s", "soon", "inf", "nan", "\xb2", ".", "0x10", "1 2"),
        *("Sat, 28 Xyz 2026 08:49:37 GMT", "Sat, 28 Nov 2026", "28 Nov 2026 08:49:37 GMT"),
        "Sat, 28 Nov 2026 08:49:37 GMT" * 3,
    ],
)
def test_what_says_nothing_is_nothing(value: str) -> None:
    assert waits(value) is None


@pytest.mark.parametrize(
    ("value", "seconds"), [("1500", 1.5), ("250.5", 0.2505), ("0", 0.0), ("9" * 400, LONGEST_SECONDS), ("-1", None)]
)
def test_milliseconds_are_read(value: str, seconds: float | None) -> None:
    assert waits(value, "retry-after-ms") == seconds


def test_milliseconds_are_finer_and_come_first_where_they_can_be_read() -> None:
    assert waits("2", "retry-after", (b"retry-after-ms", b"1250")) == 1.25
    assert waits("2", "retry-after", (b"retry-after-ms", b"soon")) == 2.0


def test_a_date_counts_from_the_upstreams_own_clock() -> None:
    """Which is an hour behind ours here."""
    assert waits("Sat, 28 Nov 2026 07:49:50 GMT", "retry-after", (b"date", b"Sat, 28 Nov 2026 07:49:40 GMT")) == 10.0
    assert waits("Sat, 28 Nov 2026 08:50:07 GMT", "retry-after", (b"date", b"today")) == 30.0


def test_without_the_header_there_is_no_wait() -> None:
    assert wait_of([(b"x-other", b"7"), (b"date", b"Sat, 28 Nov 2026 07:49:40 GMT")], NOW.timestamp()) is None


@given(st.sampled_from(["retry-after", "retry-after-ms"]), st.binary(max_size=80))
@example("retry-after", b"Sat, 99 Nov 2026 99:99:99 GMT")
@example("retry-after", b"Sat, 28 Nov 2026 :::::::: GMT")
@example("retry-after", b"Sat, 28 Nov 0000 08:49:37 GMT")
def test_whatever_it_says_is_a_wait_or_none(name: str, value: bytes) -> None:
    found = wait_of([(name.encode(), value)], NOW.timestamp())
    assert found is None or 0.0 <= found <= LONGEST_SECONDS


@given(st.integers(0, int(LONGEST_SECONDS)))
def test_a_date_is_as_far_away_as_it_says(seconds: int) -> None:
    assert waits(format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)) == seconds
