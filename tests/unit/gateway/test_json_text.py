"""JSON that msgspec refuses and others take."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigw_daemon.gateway.json_text import decode_leniently, raw_fields, without_lone_surrogates
from aigw_daemon.gateway.wire import BAD_JSON

TEXT = st.text(st.characters(codec=None), max_size=8)
"""Lone surrogates, too."""
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    SCALARS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(TEXT, VALUES, max_size=4)
INDENTS = st.sampled_from([None, 0, 3])


@pytest.mark.parametrize(
    ("body", "mended"),
    [
        (rb'"a\ud83d"', rb'"a\ufffd"'),
        (rb'"\uD83D\uDE00"', rb'"\uD83D\uDE00"'),
        (rb'"\ude00\ud83d"', rb'"\ufffd\ufffd"'),
        (rb'"\ud83d\ud83d\ude00"', rb'"\ufffd\ud83d\ude00"'),
        (rb'"\\ud83d"', rb'"\\ud83d"'),
        (rb'"\\\ud83d"', rb'"\\\ufffd"'),
        (rb'"\ud83d\n"', rb'"\ufffd\n"'),
        (rb'"\uABCD"', rb'"\uABCD"'),
        (b"plain", b"plain"),
    ],
)
def test_lone_surrogates_alone_are_replaced(body: bytes, mended: bytes) -> None:
    found = without_lone_surrogates(body)
    assert found == mended
    assert (found is body) == (mended == body)


@given(OBJECTS, INDENTS)
def test_what_is_left_is_what_python_reads_with_replacements(fields: dict[str, Any], indent: int | None) -> None:
    body = json.dumps(fields, indent=indent).encode()
    mended = without_lone_surrogates(body)
    assert len(mended) == len(body)
    assert decode_leniently(body) == json.loads(mended)
    msgspec.json.decode(mended)


@given(OBJECTS, INDENTS)
def test_fields_are_as_they_were_written(fields: dict[str, Any], indent: int | None) -> None:
    body = json.dumps(fields, indent=indent).encode()
    found = {name: json.loads(bytes(value)) for name, value in raw_fields(body).items()}
    assert found == {json.loads(without_lone_surrogates(json.dumps(name).encode())): fields[name] for name in fields}


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b'{"a":1', rb'{"a":"\ud83d"', rb'["\ud83d"]', rb'{"a":"\ud83d",}', rb'{"a":"\ud83d" 1}', b"\xff"],
)
def test_what_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(BAD_JSON):
        raw_fields(body)


def test_python_json_of_other_kinds_is_read_leniently() -> None:
    assert decode_leniently(b'{"a":1e999,"b":Infinity}') == {"a": float("inf"), "b": float("inf")}
