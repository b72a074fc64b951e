"""What a request needs: pictures seen and tokens counted where engines see them, and nowhere else."""

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigw_daemon.gateway.decision import Ask
from aigw_daemon.gateway.needs import read_prompt, room
from aigw_daemon.gateway.requests import COUNTED_BYTES, asks, is_special, parse_facts
from aigw_daemon.link.messages import CHAT, COMPLETIONS, EMBEDDINGS, RERANK

PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
LOUD = {"type": "input_audio", "input_audio": {"data": "A" * 200_000, "format": "wav"}}


def asked(endpoint: str = CHAT, **fields: Any) -> Ask:
    body = json.dumps({"model": "m", **fields}).encode()
    facts = parse_facts(body)
    ask = asks(endpoint, facts, body)
    assert is_special(facts, body) or (ask.needs, ask.tokens) == (frozenset(), 0)
    return ask


def user(*content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(content)}]


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": user(PICTURE)},
        {"messages": user({"type": "text", "text": "?"}, {"type": "input_image", "image_url": "https://x"})},
        {"messages": user({"type": "image", "source": {"type": "base64"}})},
        {"messages": user({"image_url": "https://x"})},
        {"messages": [{"role": "tool", "content": [PICTURE]}]},
    ],
)
def test_a_picture_is_a_content_part_of_a_message(fields: dict[str, Any]) -> None:
    assert asked(**fields).needs == {"vision"}


@pytest.mark.parametrize(
    "fields",
    [
        {"metadata": {"image_url": "x", "type": "image_url"}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"properties": {"image_url": {}}}}}},
        {"messages": [{"role": "user", "content": 'what is {"type":"image_url","image_url":{}} ?'}]},
        {"messages": [{"role": "user", "content": "draw an image", "name": "image"}]},
        {"messages": user({"type": "text", "text": '"type": "image_url"', "image_url": "x"})},
        {"messages": [{"role": "user", "content": PICTURE}]},
        {"messages": [PICTURE, "image_url", None, 7]},
        {"messages": {"content": [PICTURE]}},
        {"messages": user(LOUD)},
        {"messages": user({"type": ["image_url"]}, [PICTURE], None, "image_url")},
    ],
)
def test_the_word_for_it_elsewhere_is_none(fields: dict[str, Any]) -> None:
    assert asked(**fields).needs == frozenset()


def test_a_tools_schema_with_a_picture_in_it_needs_tools_alone() -> None:
    tool = {"type": "function", "function": {"name": "show", "parameters": {"properties": {"image_url": {}}}}}
    assert asked(tools=[tool], messages=user("hi")).needs == {"tools"}


@pytest.mark.parametrize("name", ["tools", "functions"])
@pytest.mark.parametrize(("value", "needed"), [("[{}]", True), ("[ ]", False), ("[\n]", False), ("null", False)])
def test_tools_are_those_that_are_offered(name: str, value: str, needed: bool) -> None:
    body = f'{{"model":"m","{name}" : {value}}}'.encode()
    assert asks(CHAT, parse_facts(body), body).needs == ({"tools"} if needed else frozenset())


@pytest.mark.parametrize("endpoint", [COMPLETIONS, EMBEDDINGS, RERANK])
def test_only_chats_have_pictures(endpoint: str) -> None:
    assert asked(endpoint, messages=user(PICTURE)).needs == frozenset()


WORDS = st.sampled_from(
    ["image_url", "input_image", "image", "text", "type", "content", "input_audio", "url", "ümlaut"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | WORDS | st.text(st.characters(codec=None), max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)
PARTS = st.fixed_dictionaries({}, optional={"type": VALUES, "image_url": VALUES, "text": VALUES})
MESSAGES = st.lists(st.fixed_dictionaries({}, optional={"content": st.lists(PARTS | VALUES, max_size=3) | VALUES}))
BODIES = st.fixed_dictionaries(
    {"model": st.just("m")},
    optional={"messages": MESSAGES | VALUES, "tools": VALUES, "metadata": VALUES, "response_format": VALUES},
)


def escaped(text: str, dice: random.Random) -> str:
    """The same JSON with some letters of its strings as escapes."""
    return "".join(
        f"\\u{ord(letter):04x}" if letter in "imageurltyp_" and dice.random() < 0.2 else letter for letter in text
    )


def sees(body: bytes) -> bool:
    """What a plain reader finds."""
    messages = json.loads(body).get("messages")
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else ():
            if not isinstance(part, dict):
                continue
            kind = part.get("type")
            if kind in ("image_url", "input_image", "image") or (kind is None and "image_url" in part):
                return True
    return False


@given(BODIES, st.randoms(), st.booleans(), st.sampled_from([None, 2]))
def test_what_is_seen_is_what_a_plain_reader_finds(
    fields: dict[str, Any], dice: random.Random, spelled: bool, indent: int | None
) -> None:
    strings = json.JSONEncoder(indent=indent).iterencode(fields)
    written = (
        escaped(piece, dice) if spelled and piece.startswith('"') and "\\" not in piece else piece for piece in strings
    )
    body = "".join(written).encode()
    facts = parse_facts(body)
    ask = asks(CHAT, facts, body)
    assert ("vision" in ask.needs) == sees(body)
    tools = fields.get("tools")
    assert ("tools" in ask.needs) == (isinstance(tools, list) and bool(tools))
    assert is_special(facts, body) or not ask.needs


# Tokens.

PROSE = "The quick brown fox jumps over the lazy dog. " * 1_000


def test_short_requests_are_not_counted() -> None:
    assert asked(messages=user("hello")).tokens == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": user(LOUD)},
        {"messages": user({"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 200_000}})},
        {"messages": user({"type": "file", "file": {"file_data": "A" * 200_000}})},
        {"messages": [], "metadata": {"trace": PROSE}},
        {"messages": [], "user": PROSE, "unknown": [PROSE]},
        {"messages": [{"role": "user", "content": " \n\t" * 20_000}]},
    ],
)
def test_what_is_no_text_of_the_prompt_has_no_tokens(fields: dict[str, Any]) -> None:
    assert len(json.dumps(fields)) > COUNTED_BYTES
    assert asked(**fields).tokens == 0


def test_blanks_between_fields_have_no_tokens() -> None:
    body = b'{"model":"m",' + b" " * 100_000 + b'"messages":[{"role":"user","content":"hi"}]}'
    assert asks(CHAT, parse_facts(body), body).tokens == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{"role": "user", "content": PROSE}]},
        {"messages": user({"type": "text", "text": PROSE}, PICTURE)},
        {
            "messages": [
                {"role": "system", "content": PROSE[:9_000]},
                *user({"type": "input_text", "text": PROSE[9_000:]}),
            ]
        },
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": PROSE}}]}]},
        {"messages": [], "tools": [{"type": "function", "function": {"name": "f", "description": PROSE}}]},
    ],
)
def test_text_of_the_prompt_has(fields: dict[str, Any]) -> None:
    """9,000 words; common vocabularies make about 10,000 tokens of them."""
    assert 4_000 < asked(**fields).tokens < 9_000


@pytest.mark.parametrize(
    ("endpoint", "fields", "tokens"),
    [
        (COMPLETIONS, {"prompt": "x" * 80_000}, 10_000),
        (COMPLETIONS, {"prompt": ["x" * 80_000, "x" * 8_000]}, 10_000),
        (COMPLETIONS, {"prompt": list(range(5_000))}, 5_000),
        (COMPLETIONS, {"prompt": [list(range(5_000)), list(range(7_000))]}, 7_000),
        (COMPLETIONS, {"prompt": {"x": PROSE}}, 0),
        (EMBEDDINGS, {"input": ["x" * 8_000] * 100}, 1_000),
        (EMBEDDINGS, {"input": "x" * 80_000}, 10_000),
        (RERANK, {"query": "x" * 800, "documents": ["x" * 8_000] * 100}, 1_100),
        (RERANK, {"query": "x" * 800, "documents": [{"text": "x" * 16_000}, {"text": "x"}]}, 2_100),
        (RERANK, {"query": "x" * 800, "texts": ["x" * 8_000] * 100}, 1_100),
    ],
)
def test_each_of_several_prompts_has_the_context_to_itself(endpoint: str, fields: dict[str, Any], tokens: int) -> None:
    assert asked(endpoint, **fields).tokens == tokens


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        pytest.param("今天天气很好我们去公园散步吧。", 0.15, 0.6, id="Chinese"),
        pytest.param("Сегодня хорошая погода, пойдём гулять в парк. ", 0.15, 0.27, id="Russian"),
        pytest.param("இன்று வானிலை நன்றாக உள்ளது. ", 0.15, 0.27, id="Tamil"),
    ],
)
def test_other_scripts_are_counted_by_letters_however_they_are_spelled(text: str, least: float, most: float) -> None:
    """Of tokens for a letter: at least some, and no more than vocabularies make that know the script best."""
    for ascii_only in (True, False):
        said = {"model": "m", "messages": [{"role": "user", "content": text * 1_000}]}
        body = json.dumps(said, ensure_ascii=ascii_only).encode()
        tokens = asks(CHAT, parse_facts(body), body).tokens
        assert least < tokens / (len(text) * 1_000) < most


@given(VALUES, st.sampled_from([CHAT, COMPLETIONS, EMBEDDINGS, RERANK]), st.booleans())
def test_no_prompt_is_longer_than_its_body_has_room_for(value: Any, endpoint: str, ascii_only: bool) -> None:
    names = ("prompt", "input", "query", "documents", "tools", "functions")
    fields = {**dict.fromkeys(names, value), "messages": [{"content": value}]}
    body = json.dumps(fields, ensure_ascii=ascii_only, separators=(",", ":")).encode("utf-8", "replace")
    tokens = read_prompt(endpoint, body).tokens
    assert room(endpoint, tokens) <= len(body)


def test_what_has_room_for_certain_is_not_counted() -> None:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": PROSE}]}).encode()
    facts = parse_facts(body)
    assert asks(CHAT, facts, body, room(CHAT, 8_192)).tokens == 0
    assert asks(CHAT, facts, body, room(CHAT, 4_096)).tokens > 4_096


@given(VALUES, st.sampled_from([CHAT, COMPLETIONS, EMBEDDINGS, RERANK]))
def test_nothing_of_any_shape_is_refused_here(value: Any, endpoint: str) -> None:
    padding = {"padding": "x" * COUNTED_BYTES}
    names = ("messages", "prompt", "input", "query", "documents", "texts", "tools", "functions")
    assert asked(endpoint, **dict.fromkeys(names, value), **padding).tokens >= 0


@pytest.mark.parametrize("name", ["messages", "prompt", "tools"])
def test_deep_nesting_is_no_harm(name: str) -> None:
    body = f'{{"model":"m","x":"{"x" * COUNTED_BYTES}","{name}":{"[" * 600}{"]" * 600}}}'.encode()
    assert asks(COMPLETIONS, parse_facts(body), body).tokens == 0
