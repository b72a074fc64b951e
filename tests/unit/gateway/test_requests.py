"""What is read of a request, and that nothing else of it changes."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigw_daemon.gateway.requests import THREAD_BYTES, parse_facts, rewritten
from aigw_daemon.gateway.wire import ApiError


async def test_what_needs_no_rewriting_stays_the_same_object() -> None:
    body = b'{"model":"m","stream":true,"stream_options":{"include_usage":true}}'
    assert await rewritten(body, parse_facts(body), "m", add_usage=False) is body


@pytest.mark.parametrize("end", [b"}", b"}\n", b" } \r\n"])
async def test_usage_is_added_behind_untouched_bytes(end: bytes) -> None:
    start = b'{ "model": "m",\n "x": 1.50, "stream": true'
    body = start + end
    changed = await rewritten(body, parse_facts(body), "m", add_usage=True)
    assert changed.startswith(start)
    assert msgspec.json.decode(changed)["stream_options"] == {"include_usage": True}


async def test_a_nested_stream_options_confuses_nobody() -> None:
    body = b'{"model":"m","stream":true,"x":{"stream_options":{"include_usage":false}}}'
    changed = msgspec.json.decode(await rewritten(body, parse_facts(body), "m", add_usage=True))
    assert changed["stream_options"] == {"include_usage": True}
    assert changed["x"] == {"stream_options": {"include_usage": False}}


async def test_a_rename_leaves_other_values_byte_for_byte() -> None:
    body = b'{"temperature": 0.70, "model": "a", "big": 123456789012345678901234567890, "e": 1E+2, "s": "\\u00e9"}'
    changed = await rewritten(body, parse_facts(body), 'b"\\', add_usage=False)
    assert msgspec.json.decode(changed, type=dict[str, msgspec.Raw])["temperature"] == msgspec.Raw(b"0.70")
    for value in (b"0.70", b"123456789012345678901234567890", b"1E+2", b'"\\u00e9"'):
        assert value in changed
    assert parse_facts(changed).model == 'b"\\'


@pytest.mark.parametrize("body", [b'{"model":"a","\xff":1}', b'{"model":"a","stream_options":{"\xff":1}}'])
async def test_a_name_that_is_no_utf_8_is_refused_where_a_rewrite_meets_it(body: bytes) -> None:
    with pytest.raises(ApiError, match="not valid JSON: 'utf-8'") as refused:
        await rewritten(body, parse_facts(body), "b", add_usage=True)
    assert (refused.value.status, refused.value.code) == (400, "invalid_json")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
OWN = {"model", "stream", "stream_options", "n", "max_tokens", "max_completion_tokens", "messages"}


@given(
    st.dictionaries(st.text().filter(lambda key: key not in OWN), JSON, max_size=5),
    st.booleans(),
    st.text(min_size=1, max_size=20),
)
async def test_parameters_that_aigw_does_not_know_survive_every_rewrite(
    fields: dict[str, object], add_usage: bool, model: str
) -> None:
    body = msgspec.json.encode({**fields, "model": "m", "stream": True})
    changed = msgspec.json.decode(await rewritten(body, parse_facts(body), model, add_usage=add_usage))
    assert changed.pop("model") == model
    assert changed.pop("stream") is True
    assert (changed.pop("stream_options", None) is not None) == add_usage
    assert changed == msgspec.json.decode(msgspec.json.encode(fields))


async def test_a_large_body_is_rewritten_alike() -> None:
    body = msgspec.json.encode({"model": "a", "messages": [{"content": "x" * THREAD_BYTES}]})
    changed = await rewritten(body, parse_facts(body), "b", add_usage=False)
    assert len(changed) == len(body)
    assert parse_facts(changed).model == "b"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"model":""}', "model"),
        (b'{"model":"m","n":0}', "n"),
        (b'{"model":"m","n":129}', "n"),
        (b'{"model":"m","max_tokens":10000001}', "max_tokens"),
        (b'{"model":"m","max_completion_tokens":1e9}', "max_completion_tokens"),
        (b'{"model":"m","messages":[' + b"0," * 100_000 + b"0]}", "messages"),
    ],
)
def test_bounds_name_the_parameter(body: bytes, param: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse_facts(body)
    assert (caught.value.status, caught.value.param) == (400, param)


@given(st.binary(max_size=200).filter(lambda body: b"model" not in body))
def test_bytes_that_are_no_request_are_a_400(body: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        parse_facts(body)
    assert caught.value.status == 400
