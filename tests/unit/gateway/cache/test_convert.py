"""A stream out of a whole answer, and a whole answer out of a stream: nothing is lost on either way."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigw_daemon.gateway.cache.convert import NoOtherForm, assemble, expand, in_form
from aigw_daemon.gateway.cache.entry import Entry, stream_entry, whole_entry
from aigw_daemon.gateway.cache.events import DONE, events
from aigw_daemon.link.messages import CHAT, COMPLETIONS
from tests.support.cached import DONE_EVENT, delta, event, origin, streamed_answer, whole, whole_answer

USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}

texts = st.text(min_size=1, max_size=20)
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


def test_parts_and_plain_text_of_one_content_are_put_together() -> None:
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}
    answer = as_whole(
        event(delta(content=[thought])), event(delta(content="Par")), event(delta(content="is.", finish="stop"))
    )
    assert answer["choices"][0]["message"]["content"] == [
        thought,
        {"type": "text", "text": "Par"},
        {"type": "text", "text": "is."},
    ]
    answer = as_whole(event(delta(content="So ")), event(delta(content=[thought], finish="stop")))
    assert answer["choices"][0]["message"]["content"] == [{"type": "text", "text": "So "}, thought]


@pytest.mark.parametrize("odd", [("a", {"text": "b"}), ({"text": "b"}, [{"type": "text", "text": "a"}])])
def test_a_content_that_nobody_knows_has_no_other_form(odd: tuple[object, object]) -> None:
    first, second = (event(delta(content=content)) for content in odd)
    entry = stream_entry(origin(), first + second + event(delta(finish="stop")) + DONE_EVENT)
    assert entry is not None
    with pytest.raises(NoOtherForm):
        in_form(entry, stream=False)


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
