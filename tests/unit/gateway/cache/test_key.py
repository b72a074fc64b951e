"""What is the same request, and what isn't."""

import hashlib
import hmac
import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigw_daemon.gateway.cache.key import (
    COMMON_SCOPE,
    KEY_BYTES,
    MEMO_LONGEST_BODY,
    UNDECIDING,
    Keys,
    KeySpace,
    canonical,
)
from aigw_daemon.link.messages import CHAT, COMPLETIONS, ParamsView

SECRET = b"of this installation"
SPACE = KeySpace(CHAT, "ollama", "llama3.1:8b", "sha256:1")

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)
bodies = st.dictionaries(st.text(min_size=1), values, max_size=5)


def key(body: bytes, space: KeySpace = SPACE, scope: bytes = COMMON_SCOPE, secret: bytes = SECRET) -> bytes | None:
    return Keys(secret).key(space, scope, body)


def dumped(value: Any, **options: Any) -> bytes:
    return json.dumps(value, **options).encode("utf-8", "surrogatepass")


def exact(value: Any) -> Any:
    """A value as an engine could tell it from others: Python alone takes 1, 1.0 and True for the same."""
    match value:
        case dict():
            return ("object", frozenset((name, exact(inner)) for name, inner in value.items()))
        case list():
            return ("array", tuple(exact(inner) for inner in value))
        case _:
            return (type(value).__name__, repr(value))


def deciding(body: dict[str, Any]) -> Any:
    """The listed exceptions aside: what doesn't split the answer, and the model, which stands in the key space."""
    options = body.get("stream_options") if body.get("stream") is True else None
    kept = {name: value for name, value in body.items() if name not in UNDECIDING | {"model", "cache"}}
    if isinstance(options, dict) and (more := {name: options[name] for name in options if name != "include_usage"}):
        kept["stream_options"] = more
    return exact(kept)


def shuffled(value: Any, draw: st.DrawFn) -> Any:
    match value:
        case dict():
            names = draw(st.permutations(list(value)))
            return {name: shuffled(value[name], draw) for name in names}
        case list():
            return [shuffled(inner, draw) for inner in value]
        case _:
            return value


@st.composite
def reordered(draw: st.DrawFn) -> tuple[bytes, bytes]:
    body = draw(bodies)
    spaces = draw(st.sampled_from([(", ", ": "), (",", ":"), (" ,\n", " :\t")]))
    other = dumped(shuffled(body, draw), separators=spaces, ensure_ascii=draw(st.booleans()))
    return dumped(body), other


@settings(deadline=None)
@given(reordered())
def test_the_order_spacing_and_escapes_of_a_body_never_split_an_answer(pair: tuple[bytes, bytes]) -> None:
    one, other = pair

    assert key(one) == key(other)


# Small alphabets, so that what is drawn twice is often nearly the same.
near_names = st.sampled_from(["temperature", "stream", "stream_options", "user", "seed", "model", "cache", "messages"])
near_values: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from(
        [0, 0.0, -0.0, 1, 1.0, True, False, None, "1", "", 2**53, 2**53 + 1, 2**64, 2**64 + 1, 0.1, [], {}]
    ),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "b", "include_usage"]), inner, max_size=2)
    ),
    max_leaves=4,
)
near_bodies = st.dictionaries(near_names, near_values, max_size=3)


@settings(deadline=None)
@given(near_bodies, near_bodies)
def test_two_bodies_share_a_key_exactly_if_no_engine_can_tell_them_apart(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    assert (key(dumped(one)) == key(dumped(other))) == (deciding(one) == deciding(other))


def test_a_key_is_the_whole_hmac_of_all_that_it_depends_on() -> None:
    body = b'{"temperature":0.7,"model":"llama","messages":[]}'

    message = SPACE.packed + COMMON_SCOPE + b'{"messages":[],"temperature":0.7}'
    assert key(body) == hmac.digest(SECRET, message, hashlib.sha256)
    assert len(key(body) or b"") == KEY_BYTES


@pytest.mark.parametrize(
    "space",
    [
        KeySpace(COMPLETIONS, "ollama", "llama3.1:8b", "sha256:1"),
        KeySpace(CHAT, "other", "llama3.1:8b", "sha256:1"),
        KeySpace(CHAT, "ollama", "llama3.1:70b", "sha256:1"),
        KeySpace(CHAT, "ollama", "llama3.1:8b", "sha256:2"),
        KeySpace(CHAT, "ollama", "llama3.1:8b", None),
        # Where one part ends and the next begins is part of the key.
        KeySpace(CHAT, "ollamallama3.1:8b", "", "sha256:1"),
    ],
    ids=["endpoint", "backend", "model", "digest", "no digest", "shifted"],
)
def test_endpoint_backend_model_and_digest_split_an_answer(space: KeySpace) -> None:
    assert key(b"{}", space) != key(b"{}")


def test_two_api_keys_never_share_an_answer() -> None:
    keys = Keys(SECRET)
    scopes = [keys.scope(b"sk-one"), keys.scope(b"sk-two"), COMMON_SCOPE]

    made = {keys.key(SPACE, scope, b"{}") for scope in scopes}

    assert len(made) == 3


def test_a_scope_that_is_no_hash_is_an_error() -> None:
    with pytest.raises(ValueError, match="has 32 bytes, not 2"):
        Keys(SECRET).key(SPACE, b"sk", b"{}")


def test_another_installation_makes_other_keys() -> None:
    assert key(b"{}", secret=b"another") != key(b"{}")


def test_the_name_that_the_client_uses_does_not_split_what_the_engine_gets_alike() -> None:
    assert key(b'{"model":"alias"}') == key(b'{"model":"llama3.1:8b"}')


@pytest.mark.parametrize(
    "body",
    [
        b'{"stream":true}',
        b'{"stream":true,"stream_options":{"include_usage":true}}',
        b'{"stream":false,"stream_options":{"continuous_usage_stats":true}}',
        b'{"user":"me","metadata":{"a":"b"},"litellm_metadata":{}}',
        b'{"cache":{"ttl":5}}',
    ],
)
def test_delivery_user_and_our_own_fields_do_not_split_an_answer(body: bytes) -> None:
    assert key(body) == key(b"{}")


def test_a_stream_option_that_changes_the_events_splits_it() -> None:
    assert key(b'{"stream":true,"stream_options":{"continuous_usage_stats":true}}') != key(b'{"stream":true}')


def test_the_profile_can_let_the_user_split_an_answer() -> None:
    space = KeySpace(CHAT, "ollama", "llama3.1:8b", "sha256:1", split_by=("user",))

    assert key(b'{"user":"me"}', space) != key(b'{"user":"you"}', space)
    assert key(b'{"user":"me","metadata":1}', space) == key(b'{"user":"me"}', space)


def test_a_key_is_of_what_is_forwarded_not_of_what_came() -> None:
    params = ParamsView(defaults={"temperature": b"0.5"}, override={"top_k": b"1"}, drop=("seed",))
    space = KeySpace(CHAT, "ollama", "llama3.1:8b", "sha256:1", params=params)

    assert key(b'{"seed":4,"top_k":9}', space) == key(b'{"temperature":0.5,"top_k":1}')


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":1,"a":2}',
        b'{"a":{"b":1,"\\u0062":1}}',
        b'{"a":-0}',
        b'{"a":1e400}',
        b'{"a":NaN}',
        b'{"a":"\xff"}',
        b'{"a":"\\ud800"}',
        b"[]",
        b"1",
        b"",
        b"{",
        b"\xef\xbb\xbf{}",
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
    ids=lambda body: repr(body[:20]),
)
def test_what_engines_may_read_in_more_than_one_way_is_not_cached(body: bytes) -> None:
    assert canonical(body, SPACE) is None
    assert key(body) is None


def test_the_memo_gives_the_key_that_is_made_without_it() -> None:
    keys = Keys(SECRET, memo_bytes=100)
    made = [b'{"n":%d,"pad":"%b"}' % (number, b"x" * 30) for number in range(10)]

    for body in made + made[::-1] + made:
        assert keys.key(SPACE, COMMON_SCOPE, body) == key(body)


def test_the_memo_tells_routes_tenants_and_long_bodies_apart() -> None:
    keys = Keys(SECRET)
    split = KeySpace(CHAT, "ollama", "llama3.1:8b", "sha256:1", split_by=("user",))
    long = b'{"user":"me","pad":"%b"}' % (b"x" * MEMO_LONGEST_BODY)

    for body in (b'{"user":"me"}', long):
        for space in (SPACE, split):
            for scope in (COMMON_SCOPE, keys.scope(b"sk")):
                assert keys.key(space, scope, body) == keys.key(space, scope, body) == key(body, space, scope)


def test_each_installation_has_names_of_its_own_in_a_shared_store() -> None:
    one, other = Keys(SECRET), Keys(b"another secret")

    assert re.fullmatch(rb"aigw:cache:2:[0-9a-f]{16}:", one.store)
    assert one.store == Keys(SECRET).store != other.store


def test_what_a_backend_runs_and_its_models_digest_are_part_of_the_key() -> None:
    spaces = [
        KeySpace(CHAT, "coder", "m", digest, revision=revision) for digest in (None, "a") for revision in ("", "a", "b")
    ]

    assert len({key(b"{}", space) for space in spaces}) == len(spaces)
