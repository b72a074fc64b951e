"""What clients say by header about how a request is handled."""

import contextlib
from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigw_daemon.gateway.controls import (
    BACKEND,
    FALLBACK,
    HIGHEST_PRIORITY,
    LONGEST_TIMEOUT,
    NAMES,
    NONE,
    PRIORITY,
    TIMEOUT,
    Controls,
    read_controls,
)
from aigw_daemon.gateway.wire import ApiError


def test_without_headers_nothing_is_asked_for() -> None:
    assert read_controls(()) == NONE


@pytest.mark.parametrize(
    ("said", "seconds"),
    [(b"30", 30.0), (b" 2.5 ", 2.5), (b"500ms", 0.5), (b"10m", 600.0), (b"24h", LONGEST_TIMEOUT), (b"1S", 1.0)],
)
def test_a_timeout_is_seconds_or_a_duration(said: bytes, seconds: float) -> None:
    assert read_controls(((TIMEOUT, said),)).timeout == seconds


@pytest.mark.parametrize(
    ("said", "priority"), [(b"low", -10), (b"normal", 0), (b"HIGH", 10), (b"-100", -100), (b"+7", 7), (b"100", 100)]
)
def test_a_priority_is_a_word_or_a_number(said: bytes, priority: int) -> None:
    assert read_controls(((PRIORITY, said),)).priority == priority


def test_fallback_and_backend_are_read() -> None:
    found = read_controls(((FALLBACK, b"OFF"), (BACKEND, b" coder ")))
    assert (found.fallback, found.backend) == (False, "coder")


def test_an_empty_backend_is_none() -> None:
    assert read_controls(((BACKEND, b"  "),)).backend is None


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (TIMEOUT, b""),
        (TIMEOUT, b"0ms"),
        (TIMEOUT, b"-1"),
        (TIMEOUT, b"nan"),
        (TIMEOUT, b"1d"),
        (TIMEOUT, b"9999999999"),
        (TIMEOUT, "٣".encode()),
        (FALLBACK, b"no"),
        (PRIORITY, b"1.5"),
        (PRIORITY, b"-101"),
        (PRIORITY, b"high\xff"),
    ],
)
def test_nonsense_is_refused_with_the_headers_name(name: bytes, said: bytes) -> None:
    with pytest.raises(ApiError, match=name.decode()) as refused:
        read_controls(((name, said),))
    assert (refused.value.status, refused.value.param) == (400, name.decode())


@given(st.lists(st.tuples(st.sampled_from(sorted(NAMES)), st.binary(max_size=20))).map(tuple))
def test_any_bytes_are_read_within_bounds_or_refused_with_400(headers: tuple[tuple[bytes, bytes], ...]) -> None:
    found = NONE
    with contextlib.suppress(_Refused400):
        found = _read(headers)
    assert found.timeout is None or 0 < found.timeout <= LONGEST_TIMEOUT
    assert abs(found.priority) <= HIGHEST_PRIORITY


class _Refused400(Exception):
    """The one way to say no."""


def _read(headers: tuple[tuple[bytes, bytes], ...]) -> Controls:
    try:
        return read_controls(headers)
    except ApiError as error:
        raise (_Refused400 if error.status == HTTPStatus.BAD_REQUEST else AssertionError) from error
