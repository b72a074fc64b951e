"""YAML 1.2's meaning of plain scalars, places of keys and values, and what is refused."""

import time
from itertools import pairwise

import pytest

from aigw_daemon.profile.errors import ProfileError
from aigw_daemon.profile.yaml import MAX_BYTES, Mark, read, resolve


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"), ("off", "off"), ("yes", "yes"), ("No", "No"), ("y", "y"),
        ("1:30", "1:30"), ("1_000", "1_000"), ("0b11", "0b11"), ("2026-01-01", "2026-01-01"), ("=", "="),
        ("true", True), ("False", False), ("null", None), ("~", None), ("", None),
        ("12", 12), ("-3", -3), ("017", 17), ("0o17", 15), ("0x1F", 31),
        ("1.5", 1.5), (".5", 0.5), ("1e3", 1000.0), (".inf", float("inf")), ("-.INF", float("-inf")),
    ],
)  # fmt: skip
def test_plain_scalars_mean_what_yaml_1_2_says(text: str, value: object) -> None:
    found = resolve(text)
    assert (type(found), found) == (type(value), value)


def test_quoted_scalars_are_text() -> None:
    assert read(b"a: '12'\nb: \"true\"\nc: |\n  5\n", "f").data == {"a": "12", "b": "true", "c": "5\n"}


def test_every_key_and_value_has_its_place() -> None:
    document = read(b"a: 1\nlist:\n  - x\n  - {k: v}\n", "f")
    assert document.keys["a",] == Mark(1, 1)
    assert document.values["a",] == Mark(1, 4)
    assert document.values["list", 1, "k"] == Mark(4, 9)
    assert document.place(("list", 1, "missing")) == Mark(4, 5)


def test_lists_become_tuples_so_that_nothing_can_change_them() -> None:
    assert read(b"a: [1, [2]]", "f").data == {"a": (1, (2,))}


def test_an_alias_is_read_as_its_anchor_with_a_place_of_its_own() -> None:
    document = read(b"a: &x {k: 1}\nb: *x\n", "f")
    assert document.data == {"a": {"k": 1}, "b": {"k": 1}}
    assert document.keys["b",] == Mark(2, 1)


@pytest.mark.parametrize(
    ("content", "line", "column", "says"),
    [
        (b"a: 1\nb: 2\na: 3\n", 3, 1, "already there in line 1"),
        (b"a: !!python/name:os.system x\n", 1, 4, "tags are not allowed"),
        (b"a: !mine 1\n", 1, 4, "tags are not allowed"),
        (b"8080: x\n", 1, 1, 'keys are strings, not 8080; quote it: "8080"'),
        (b"? [a]\n: x\n", 1, 3, "keys are strings"),
        (b"a: &a {b: 1}\n<<: *a\n", 2, 1, "merge keys"),
        (b"a: " + b"9" * 5000, 1, 4, "at most 40 digits"),
    ],
)
def test_what_can_be_read_past_is_reported_with_its_place(content: bytes, line: int, column: int, says: str) -> None:
    problems = read(content, "f").problems
    assert [(problem.line, problem.column) for problem in problems] == [(line, column)]
    assert says in str(problems[0])


@pytest.mark.parametrize(
    ("content", "line", "column", "says"),
    [
        (b"a: 1\n---\nb: 2\n", 2, 1, "one YAML document"),
        (b"a:\n\tb: 1\n", 2, 1, "YAML does not allow tabs"),
        (b"a: b: c\n", 1, 5, "mapping values are not allowed here"),
        (b"a: [1\n", 2, 1, "not valid YAML"),
        (b"a: *nothing\n", 1, 4, "needs an anchor above it"),
        (b"a: &a [*a]\n", 1, 8, "can't contain itself"),
        (b"x: 1\ny: \x07\n", 2, 4, "control characters"),
        (b"x: 1\ny: \xff\n", 2, 4, "UTF-8"),
        (b"x" * (MAX_BYTES + 1), 1, 1, "at most 256 KiB"),
    ],
)
def test_what_cannot_be_read_past_is_an_error_with_its_place(content: bytes, line: int, column: int, says: str) -> None:
    with pytest.raises(ProfileError) as caught:
        read(content, "f")
    problem = caught.value.problems[-1]
    assert (problem.line, problem.column) == (line, column)
    assert says in str(problem)


def _anchor_bomb() -> bytes:
    lines = ["a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"{name}: &{name} [{', '.join(['*' + before] * 9)}]" for before, name in pairwise("abcdefghi")]
    return "\n".join(lines).encode()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[" * MAX_BYTES, "levels deep"),
        (b"{" * MAX_BYTES, "levels deep"),
        (b"- " * (MAX_BYTES // 2), "levels deep"),
        (_anchor_bomb(), "values, aliases expanded"),
        (b"a" * 10_000_000, "at most 256 KiB"),
    ],
    ids=["brackets", "braces", "dashes", "anchor bomb", "ten megabytes"],
)
def test_a_hostile_file_fails_fast(content: bytes, says: str) -> None:
    started = time.monotonic()
    with pytest.raises(ProfileError, match=says):
        read(content, "f")
    assert time.monotonic() - started < 20
