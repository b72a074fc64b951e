"""Strings for operators: nothing in them steers a terminal, and numbers are short."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigw_cli.render.text import clean, duration, file_size, memory, milliseconds


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain ü 你好 🙂", "plain ü 你好 🙂"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b[2J\x1b]0;title\x07", "\\x1b[2J\\x1b]0;title\\x07"),
        ("a\r\nb", "a\\r\\nb"),
        ("a\tb", "a    b"),
        ("\x9b31m", "\\x9b31m"),
        ("abc\u202edcba", "abc\\u202edcba"),
        ("line\u2028separator", "line\\u2028separator"),
        ("\udcff", "\\udcff"),
    ],
)
def test_what_a_terminal_would_obey_is_shown_instead(raw: str, shown: str) -> None:
    assert clean(raw) == shown


@given(st.text())
def test_cleaned_text_is_printable_and_stays_so(text: str) -> None:
    cleaned = clean(text)
    assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in cleaned)
    assert clean(cleaned) == cleaned


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""),
        (-1, "0.0s"),
        (0.04, "0.0s"),
        (4.21, "4.2s"),
        (45.9, "45s"),
        (192, "3m12s"),
        (7530, "2h05m"),
        (356400, "4d03h"),
    ],
)
def test_a_duration_has_two_units_at_most(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"), [(None, ""), (0.84, "0.8ms"), (42.4, "42ms"), (1832.0, "1.8s"), (61000.0, "1m01s")]
)
def test_short_times_are_milliseconds(value: float | None, text: str) -> None:
    assert milliseconds(value) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [(None, ""), (0, "0B"), (1023, "1023B"), (1024, "1.0KiB"), (327155712, "312MiB"), (5830423347, "5.4GiB")],
)
def test_memory_is_binary(size: int | None, text: str) -> None:
    assert memory(size) == text


@pytest.mark.parametrize(("size", "text"), [(999, "999B"), (98362432, "98.4MB"), (10**18, "1000000TB")])
def test_files_are_decimal(size: int, text: str) -> None:
    assert file_size(size) == text
