"""What is read of a request, and that nothing else of it changes."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigw_daemon.gateway.requests import THREAD_BYTES, asks, parse_facts, read_large, rewritten
from aigw_daemon.gateway.wire import ApiError
from aigw_daemon.link.messages import CHAT, ParamsView


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


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b'{"model":"a","\xff":1}', "it is not UTF-8: byte 0xff at offset 14"),
        (b'{"model":"a","messages":[{"content":"\xc3"}]}', "it is not UTF-8: byte 0xc3 at offset 37"),
        (b'{"model":"a","x":"\xed\xa0\xbd"}', "it is not UTF-8: byte 0xed at offset 18"),
        (b'{"model":"a","x":"\xc3\xa9\xff"}', "it is not UTF-8: byte 0xff at offset 20"),
    ],
)
def test_what_is_no_utf_8_anywhere_is_refused_with_its_place(body: bytes, detail: str) -> None:
    with pytest.raises(ApiError, match=detail) as refused:
        parse_facts(body)
    assert (refused.value.status, refused.value.code) == (400, "invalid_json")


CUT = rb'{"model": "a", "messages": [{"role": "user", "content": "cut \ud83d"}], "x\u00e9": "\udc00", "n": 2}'


async def test_half_an_emoji_is_passed_on_as_it_came() -> None:
    facts = parse_facts(CUT)
    assert (facts.model, facts.n) == ("a", 2)
    assert await rewritten(CUT, facts, "a", add_usage=False) is CUT
    params = ParamsView(override={"top_k": b"40"}, drop=("n",))
    changed = await rewritten(CUT, facts, "b", add_usage=True, params=params)
    fields = json.loads(changed)
    assert fields["messages"] == [{"role": "user", "content": "cut \ud83d"}]
    assert (fields["x\u00e9"], fields["model"], fields["top_k"]) == ("\udc00", "b", 40)
    assert rb'"content": "cut \ud83d"' in changed


@pytest.mark.parametrize("end", [b"", b"}]", b",}", b"} x"])
def test_half_an_emoji_makes_no_json_of_what_is_none(end: bytes) -> None:
    with pytest.raises(ApiError) as refused:
        parse_facts(CUT[:-1] + end)
    assert refused.value.code == "invalid_json"


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
        (b'{"model":"m","messages":"' + b"x" * 200_000 + b'"}', "messages"),
        (b"{}", "model"),
        (b'{"messages":[]}', "model"),
        (b'{"model":null}', "model"),
        (b'{"model":"m","stream":"yes"}', "stream"),
        (b'{"model":"m","n":1.5}', "n"),
        (b'{"model":"m","stream_options":[]}', "stream_options"),
        (b'{"model":"m","stream_options":{"include_usage":1}}', "stream_options.include_usage"),
    ],
)
def test_what_is_missing_wrong_or_out_of_bounds_is_named(body: bytes, param: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse_facts(body)
    assert (caught.value.status, caught.value.param) == (400, param)


@given(st.binary(max_size=200).filter(lambda body: b"model" not in body))
def test_bytes_that_are_no_request_are_a_400(body: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        parse_facts(body)
    assert caught.value.status == 400


async def test_a_large_body_is_read_as_a_small_one_is() -> None:
    body = msgspec.json.encode({"model": "a", "messages": [{"role": "user", "content": "x" * THREAD_BYTES}]})
    facts, ask = await read_large(CHAT, body)
    assert (facts, ask) == (parse_facts(body), asks(CHAT, facts, body))
    assert ask.tokens == THREAD_BYTES // 8
