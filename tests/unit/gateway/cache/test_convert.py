"""A stream out of a whole answer, and a whole answer out of a stream: nothing is lost on either way."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.lib.streaming._deltas import accumulate_delta

from aigw_daemon.gateway.cache.convert import assemble, expand, in_form, made_stream, made_whole
from aigw_daemon.gateway.cache.deltas import NoOtherForm
from aigw_daemon.gateway.cache.entry import Entry, stream_entry, whole_entry
from aigw_daemon.gateway.cache.events import DONE, events
from aigw_daemon.link.messages import CHAT, COMPLETIONS
from tests.support.cached import DONE_EVENT, delta, event, origin, streamed_answer, whole, whole_answer

USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}

# Blanks alone say nothing, so such an answer is never kept.
texts = st.text(min_size=1, max_size=20).filter(str.strip)
calls = st.lists(
    st.fixed_dictionaries(
        {
            "id": texts,
            "type": st.just("function"),
            "function": st.fixed_dictionaries({"name": texts, "arguments": st.text(max_size=20)}),
        }
    ),
    min_size=1,
    max_size=3,
)
messages = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": texts},
    optional={"reasoning_content": texts, "reasoning": texts, "refusal": texts, "tool_calls": calls},
)
logprobs = st.fixed_dictionaries({"content": st.lists(st.fixed_dictionaries({"token": texts}), min_size=1, max_size=3)})


def _answer(choices: list[dict[str, Any]]) -> dict[str, Any]:
    for index, choice in enumerate(choices):
        choice["index"] = index
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "m",
        "system_fingerprint": "b1",
        "timings": {"prompt_n": 31},
        "choices": choices,
        "usage": USAGE,
    }


answers = st.lists(
    st.fixed_dictionaries(
        {"message": messages, "finish_reason": st.sampled_from(["stop", "tool_calls"])},
        optional={"logprobs": logprobs, "stop_reason": st.integers()},
    ),
    min_size=1,
    max_size=3,
).map(_answer)


def kept(answer: dict[str, Any], **fields: Any) -> Entry:
    entry = whole_entry(origin(**fields), msgspec.json.encode(answer), "application/json")
    assert entry is not None
    return entry


def as_whole(*chunks: bytes, **fields: Any) -> Any:
    entry = stream_entry(origin(**fields), b"".join(chunks))
    assert entry is not None
    return msgspec.json.decode(in_form(entry, stream=False).body)


@settings(deadline=None)
@given(answers)
def test_a_whole_answer_comes_back_whole_from_the_stream_that_it_makes(answer: dict[str, Any]) -> None:
    streamed = in_form(kept(answer), stream=True)

    assert msgspec.json.decode(in_form(streamed, stream=False).body) == answer


@settings(deadline=None)
@given(answers)
def test_openais_client_makes_the_message_again_of_the_stream(answer: dict[str, Any]) -> None:
    messages: dict[int, Any] = {}
    for chunk in msgspec.json.decode(msgspec.json.encode(list(expand(answer, chat=True)))):
        for choice in chunk["choices"]:
            messages[choice["index"]] = accumulate_delta(messages.get(choice["index"], {}), choice["delta"])
    assert [said(message) for message in messages.values()] == [said(each["message"]) for each in answer["choices"]]


@settings(deadline=None)
@given(answers)
def test_the_stream_of_a_whole_answer_is_one_that_may_be_kept(answer: dict[str, Any]) -> None:
    entry = kept(answer)
    streamed = in_form(entry, stream=True)

    again = stream_entry(entry.origin, streamed.body)

    assert again == msgspec.structs.replace(streamed, content_type="text/event-stream")
    assert again.usage_frame is not None


def test_an_entry_in_the_right_form_is_left_alone() -> None:
    entry = whole_answer()

    assert in_form(entry, stream=False) is entry


def test_the_usage_frame_of_a_made_stream_is_for_who_asked() -> None:
    streamed = in_form(whole_answer(), stream=True)

    with_usage = [event.data for event in events(streamed.replay(usage=True))]
    without = [event.data for event in events(streamed.replay(usage=False))]
    assert len(with_usage) == len(without) + 1
    assert msgspec.json.decode(with_usage[-2])["usage"] == USAGE
    assert b"usage" not in b"".join(without)
    assert with_usage[-1] == without[-1] == DONE


def test_a_made_stream_says_one_thing_in_each_chunk_and_thinks_before_it_speaks() -> None:
    message = {"content": "x", "reasoning_content": "hm", "tool_calls": [{"id": "1", "function": {"name": "f"}}]}
    answer = {"object": "chat.completion", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}

    deltas = [chunk["choices"][0]["delta"] for chunk in expand(answer, chat=True)]

    assert deltas == [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "hm"},
        {"content": "x"},
        {"tool_calls": [{"id": "1", "function": {"name": "f"}, "index": 0}]},
        {},
    ]


def test_a_whole_answer_of_a_stream_has_its_words_its_end_and_its_usage() -> None:
    made = in_form(streamed_answer("Par", "is."), stream=False)

    assert msgspec.json.decode(made.body) == {**msgspec.json.decode(whole("Paris.")), "id": "chatcmpl-2"}
    assert made.content_type == "application/json"


def test_tool_calls_that_come_in_pieces_are_put_together_by_their_index() -> None:
    answer = as_whole(
        event(delta(role="assistant", content="")),
        event(delta(tool_calls=[{"index": 1, "id": "b", "type": "function", "function": {"name": "g"}}])),
        event(delta(tool_calls=[{"index": 0, "id": "a", "function": {"name": "f", "arguments": ""}}])),
        event(delta(tool_calls=[{"index": 0, "function": {"arguments": '{"x":'}}])),
        event(delta(tool_calls=[{"index": 1, "function": {"arguments": "{}"}}])),
        # Some engines repeat id and name with each piece.
        event(delta(tool_calls=[{"index": 0, "id": "a", "function": {"name": "f", "arguments": "1}"}}])),
        event(delta(finish="tool_calls")),
        DONE_EVENT,
    )

    assert answer["choices"] == [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "a", "function": {"name": "f", "arguments": '{"x":1}'}},
                    {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
                ],
            },
            "finish_reason": "tool_calls",
        }
    ]


def test_tool_calls_without_an_index_are_calls_of_their_own() -> None:
    calls = [{"id": "a", "function": {"name": "f"}}, {"id": "b", "function": {"name": "f"}}]

    answer = as_whole(event(delta(tool_calls=calls)), event(delta(finish="tool_calls")), DONE_EVENT)

    assert answer["choices"][0]["message"]["tool_calls"] == calls


def called(*pieces: dict[str, Any]) -> Any:
    """The calls of the whole answer out of a stream with these pieces of calls, each in a delta of its own."""
    chunks = [event(delta(tool_calls=[piece])) for piece in pieces]
    answer = as_whole(*chunks, event(delta(finish="tool_calls")), DONE_EVENT)
    return answer["choices"][0]["message"]["tool_calls"]


def call(index: int | None, id_: str | None = None, name: str | None = None, arguments: str = "") -> dict[str, Any]:
    function = {"arguments": arguments} if name is None else {"name": name, "arguments": arguments}
    piece: dict[str, Any] = {"type": "function", "function": function}
    return piece | ({} if index is None else {"index": index}) | ({} if id_ is None else {"id": id_})


def test_a_new_id_begins_a_new_call_whatever_its_index() -> None:
    """As Ollama streams parallel calls."""
    assert [each["id"] for each in called(call(0, "a", "f", "{}"), call(1, "a", "f", "{}"))] == ["a", "a"]
    calls = called(call(0, "a", "f", '{"a":1}'), call(0, "b", "f", '{"b":2}'))
    assert [(each["id"], each["function"]["arguments"]) for each in calls] == [("a", '{"a":1}'), ("b", '{"b":2}')]
    calls = called(call(0, "a", "f", '{"a"'), call(0, "", None, ":1}"), call(0, "b", "f", ""), call(0, "b", "f", "{}"))
    assert [(each["id"], each["function"]["arguments"]) for each in calls] == [("a", '{"a":1}'), ("b", "{}")]


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([call(0, None, "f", "{}"), call(0, None, "f", "{}")], id="a name again, without an id"),
        pytest.param([call(0, "a", "get_"), call(0, "a", "weather")], id="another name"),
        pytest.param([call(0, "a", "f"), call(1, "a", "f"), call(None, "a")], id="one id, two indexes, then none"),
        pytest.param([call(0, None, "f"), call(0, "a", None, "{}")], id="an id that comes late"),
        pytest.param([call(None, None, "f", "{}")], id="neither id nor index"),
        pytest.param([call(None, "a", "f"), call(0, "b", "f")], id="an index for some"),
        pytest.param([call(0, "a", "f", "{"), call(0, "b", "f", "{}")], id="one index, arguments that are no JSON"),
        pytest.param([call(0, "a", "f"), {"index": "0", "function": {"arguments": "{}"}}], id="an index of text"),
        pytest.param([call(0, "a", "f"), {"index": 0, "type": "custom"}], id="another type"),
        pytest.param(
            [call(0, "a", "f"), {"index": 0, "function": {"arguments": {"a": 1}}}, call(0, None, None, "x")],
            id="arguments of two kinds",
        ),
    ],
)
def test_calls_that_cannot_be_joined_for_certain_have_no_other_form(pieces: list[dict[str, Any]]) -> None:
    chunks = [{"object": "chat.completion.chunk", "choices": [delta(tool_calls=[piece])]} for piece in pieces]
    with pytest.raises(NoOtherForm):
        assemble(chunks, chat=True)


@pytest.mark.parametrize(
    "deltas",
    [
        [{"content": [{"type": "text", "text": "a"}]}],
        [{"content": "a"}, {"content": {"text": "b"}}],
        [{"audio": {"id": "x", "data": "aGk="}}],
        [{"role": "assistant"}, {"role": "user"}],
        [{"reasoning_details": [{"index": 0, "text": "a"}]}, {"reasoning_details": [{"index": 0, "text": "b"}]}],
        [{"channel": "analysis"}, {"channel": "analysis"}],
        [{"x": 1}, {"x": 1}],
        [{"function_call": {"name": "f"}}, {"function_call": {"name": "f"}}],
        [{"tool_calls": "x"}, {"tool_calls": []}],
    ],
)
def test_deltas_that_cannot_be_joined_for_certain_have_no_other_form(deltas: list[dict[str, Any]]) -> None:
    body = b"".join(event(delta(**each)) for each in deltas) + event(delta(finish="stop"))
    with pytest.raises(NoOtherForm):
        made_whole(body, chat=True)


@pytest.mark.parametrize(
    "chunks",
    [
        [event(delta(finish="stop")), event(delta(finish="length"))],
        [event({**delta(finish="stop"), "content_filter_results": {"hate": each}}) for each in (True, False)],
        [event(delta(finish="stop"), x_engine={"n": each}) for each in (1, 2)],
        [event({**delta(finish="stop"), "index": "0"})],
    ],
)
def test_chunks_that_contradict_each_other_have_no_other_form(chunks: list[bytes]) -> None:
    with pytest.raises(NoOtherForm):
        made_whole(b"".join(chunks), chat=True)


def test_what_only_streams_have_is_left_out_of_a_whole_answer() -> None:
    chunks = [
        event(delta(content="x"), obfuscation="abc", prompt_progress={"processed": 1}, timings={"n": 1}),
        event({**delta(finish="stop"), "index": None}, obfuscation="d", prompt_progress={"processed": 2}),
        event(timings={"n": 2}),
    ]
    answer = msgspec.json.decode(made_whole(b"".join(chunks), chat=True))
    assert answer.keys() == {"id", "object", "created", "model", "timings", "choices"}
    assert answer["timings"] == {"n": 2}


@pytest.mark.parametrize(
    "answer",
    [
        {"choices": []},
        {"choices": None},
        {"choices": [{"index": 0, "message": {"content": [{"type": "text", "text": "a"}]}}]},
        {"choices": [{"index": 0, "message": {"audio": {"data": "aGk="}}}]},
        {"choices": [{"index": 0, "message": {}}, {"index": 0, "message": {}}]},
        {"choices": [7]},
        [1],
    ],
)
def test_a_whole_answer_that_is_no_plain_text_has_no_other_form(answer: Any) -> None:
    with pytest.raises(NoOtherForm):
        made_stream(msgspec.json.encode(answer), chat=True)


@pytest.mark.parametrize(("chat", "kind"), [(True, "chat.completion"), (False, "text_completion")])
def test_a_stream_that_does_not_say_what_it_is_becomes_an_answer_that_does(chat: bool, kind: str) -> None:
    said = {"delta": {"content": "Hi"}} if chat else {"text": "Hi"}
    event = msgspec.json.encode({"choices": [{"index": 0, **said, "finish_reason": "stop"}]})
    whole = msgspec.json.decode(made_whole(b"data: " + event + b"\n\ndata: [DONE]\n\n", chat=chat))
    assert whole["object"] == kind


ids = st.sampled_from(["a", "b", ""])
pieces_of_calls = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "index": st.integers(0, 1) | st.none(),
            "id": ids | st.none(),
            "type": st.just("function"),
            "function": st.fixed_dictionaries(
                {}, optional={"name": st.sampled_from(["f", "g", ""]), "arguments": st.sampled_from(["{}", "{", "}"])}
            ),
        },
    ),
    min_size=1,
    max_size=2,
)
any_deltas = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "role": st.sampled_from(["assistant", None]),
            "content": texts | st.none(),
            "reasoning_content": texts,
            "refusal": texts | st.none(),
            "function_call": st.fixed_dictionaries({}, optional={"name": st.just("f"), "arguments": texts}),
            "tool_calls": pieces_of_calls,
            "odd": st.integers(0, 1) | texts | st.lists(st.integers(), max_size=2),
        },
    ),
    max_size=5,
)


@settings(deadline=None, max_examples=500)
@given(any_deltas)
def test_a_message_is_what_openais_client_makes_of_the_deltas_or_none(deltas: list[dict[str, Any]]) -> None:
    chunks = [{"object": "chat.completion.chunk", "choices": [delta(**each)]} for each in deltas]
    try:
        message = assemble([*chunks, {"choices": [delta(finish="stop")]}], chat=True)["choices"][0]["message"]
    except (NoOtherForm, TypeError):
        return
    assert said(message) == said(by_the_client(deltas))


def by_the_client(deltas: list[dict[str, Any]]) -> dict[str, Any]:
    """What ``openai`` accumulates, with each call's index made its place, and repeated ids and names taken for one."""
    places: list[tuple[int | None, str | None]] = []
    named: set[int] = set()
    message: Any = {}
    for each in msgspec.json.decode(msgspec.json.encode(deltas)):
        for piece in each.get("tool_calls", []):
            index, id_ = piece.get("index"), piece.pop("id", None) or None
            known = [
                place
                for place, (one, other) in enumerate(places)
                if (other == id_ and index in {None, one} if id_ else one == index)
            ]
            if not known:
                places.append((index, id_))
                piece["id"] = id_
            elif id_ is not None and known[-1] in named:
                piece.get("function", {}).pop("name", None)
            piece["index"] = known[-1] if known else len(places) - 1
            if piece.get("function", {}).get("name"):
                named.add(piece["index"])
        if message.get("role"):
            each.pop("role", None)
        # It takes pieces of one list for pieces of what was there before.
        for piece in each.pop("tool_calls", []):
            message = accumulate_delta(message, {"tool_calls": [piece]})
        message = accumulate_delta(message, each)
    calls = sorted(enumerate(message.get("tool_calls") or ()), key=lambda call: (places[call[0]][0] or 0, call[0]))
    return {**message, "tool_calls": [call for _, call in calls]}


def said(message: dict[str, Any]) -> dict[str, Any]:
    """Without what says nothing."""
    kept = {name: value for name, value in message.items() if value not in (None, "", [], {})}
    kept.setdefault("role", "assistant")
    if "tool_calls" in kept:
        kept["tool_calls"] = [said_by(each) for each in kept["tool_calls"]]
    if "function_call" in kept:
        kept["function_call"] = {name: value for name, value in kept["function_call"].items() if value}
    return {name: value for name, value in kept.items() if value not in (None, "", [], {})}


def said_by(call: dict[str, Any]) -> dict[str, Any]:
    function = {name: value for name, value in (call.get("function") or {}).items() if value}
    return {**({"id": call["id"]} if call.get("id") else {}), **function}


def test_choices_and_logprobs_that_come_mixed_are_put_together() -> None:
    token = {"token": "x", "logprob": -0.5}

    def said(index: int, text: str) -> bytes:
        return event({**delta(index, content=text), "logprobs": {"content": [token], "refusal": None}})

    answer = as_whole(
        event({**delta(1, content=""), "logprobs": None}),
        said(1, "b"),
        said(0, "a"),
        said(1, "c"),
        event(delta(1, "stop"), delta(0, "stop")),
        choices=2,
    )

    assert [choice["message"]["content"] for choice in answer["choices"]] == ["a", "bc"]
    assert [choice["logprobs"]["content"] for choice in answer["choices"]] == [[token], [token, token]]


def test_what_an_engine_says_at_the_end_of_a_stream_comes_along() -> None:
    answer = as_whole(event(delta(content="x")), event(delta(finish="stop"), timings={"n": 1}), DONE_EVENT)

    assert answer["timings"] == {"n": 1}


def test_text_completions_go_both_ways() -> None:
    answer = {
        "id": "cmpl-1",
        "object": "text_completion",
        "created": 1,
        "model": "m",
        "choices": [
            {"index": 0, "text": "one two", "logprobs": {"tokens": ["one", "two"]}, "finish_reason": "stop"},
            {"index": 1, "text": "three", "logprobs": None, "finish_reason": "stop"},
        ],
        "usage": USAGE,
    }

    streamed = in_form(kept(answer, endpoint=COMPLETIONS), stream=True)

    assert all(b'"object":"text_completion"' in event.data for event in events(streamed.body) if event.data != DONE)
    assert msgspec.json.decode(in_form(streamed, stream=False).body) == answer


@pytest.mark.parametrize("endpoint", [CHAT, COMPLETIONS])
def test_an_answer_without_usage_makes_a_stream_without_a_usage_frame(endpoint: str) -> None:
    streamed = in_form(kept({"choices": [{"text": "x", "finish_reason": "stop"}]}, endpoint=endpoint), stream=True)

    assert streamed.usage_frame is None
    assert streamed.body.endswith(DONE_EVENT)


def test_an_empty_answer_is_assembled_from_an_empty_stream() -> None:
    assert assemble([{"object": "chat.completion.chunk", "choices": [delta(finish="stop")]}], chat=True)["choices"] == [
        {"index": 0, "message": {"role": "assistant", "content": None}, "finish_reason": "stop"}
    ]
