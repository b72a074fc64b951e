"""Which answers are kept, and what of them."""

from typing import Any

import msgspec
import pytest

from aigw_daemon.gateway.answers import Usage
from aigw_daemon.gateway.cache.entry import Entry, stream_entry, whole_entry
from aigw_daemon.link.messages import COMPLETIONS, EMBEDDINGS, RERANK
from tests.support.cached import DONE_EVENT, USAGE_EVENT, delta, event, origin, stream, streamed_answer, whole

START = event(delta(role="assistant", content=""))
SAID = event(delta(content="hi"))
STOP = event(delta(finish="stop"))


def kept_whole(body: bytes, **fields: Any) -> Entry | None:
    return whole_entry(origin(**fields), body, "application/json")


def kept_stream(*events: bytes, choices: int = 1) -> Entry | None:
    return stream_entry(origin(choices=choices), b"".join(events))


@pytest.mark.parametrize("finish", ["stop", "tool_calls"])
def test_a_complete_answer_is_kept_as_it_came(finish: str) -> None:
    entry = kept_whole(whole(finish=finish))

    assert entry == Entry(origin(), False, "application/json", whole(finish=finish), Usage(7, 3), finish)
    assert entry.tokens == 10


@pytest.mark.parametrize(
    "body",
    [
        whole(finish="length"),
        whole(finish="content_filter"),
        b'{"choices":[{"index":0,"message":{"content":"x"}}]}',
        b'{"choices":[{"finish_reason":"stop"},{"index":1,"finish_reason":"length"}]}',
        b'{"choices":[]}',
        b'{"error":{"message":"no"}}',
        b'{"error":"no","choices":[{"finish_reason":"stop"}]}',
        b'{"choices":[{"finish_reason":"stop","message":"x"}]}',
        b"",
        b"[]",
        whole()[:-1],
    ],
    ids=lambda body: repr(body[:60]),
)
def test_a_whole_answer_that_is_cut_wrong_or_an_error_is_not_kept(body: bytes) -> None:
    assert kept_whole(body) is None


@pytest.mark.parametrize(
    ("endpoint", "body", "kept"),
    [
        (EMBEDDINGS, b'{"data":[{"embedding":[0.1]}],"usage":{"prompt_tokens":4}}', True),
        (EMBEDDINGS, b'{"data":[]}', False),
        (EMBEDDINGS, b'{"error":{"message":"too long"}}', False),
        (RERANK, b'{"results":[{"index":0,"relevance_score":0.5}]}', True),
        (RERANK, b'{"results":[]}', False),
        (COMPLETIONS, b'{"choices":[{"text":"x","finish_reason":"stop"}]}', True),
        (COMPLETIONS, b'{"data":[1]}', False),
        ("models", b'{"data":[1]}', False),
    ],
)
def test_each_endpoint_knows_its_own_answers(endpoint: str, body: bytes, kept: bool) -> None:
    assert (kept_whole(body, endpoint=endpoint) is not None) is kept


def test_a_stream_that_was_read_to_its_end_is_kept_with_all_its_events() -> None:
    body = stream("a", "b")
    entry = stream_entry(origin(), body)

    place = body.index(USAGE_EVENT)
    assert entry == Entry(
        origin(), True, "text/event-stream", body, Usage(7, 3), "stop", (place, place + len(USAGE_EVENT))
    )


def test_only_who_asked_for_the_usage_frame_gets_it() -> None:
    entry = streamed_answer("a")

    assert entry.replay(usage=True) == stream("a")
    assert entry.replay(usage=False) == stream("a").replace(USAGE_EVENT, b"")


def test_a_stream_without_a_usage_frame_is_the_same_for_everybody() -> None:
    entry = kept_stream(START, SAID, STOP, DONE_EVENT)

    assert entry is not None
    assert entry.usage is None
    assert entry.replay(usage=True) == entry.replay(usage=False) == START + SAID + STOP + DONE_EVENT


@pytest.mark.parametrize(
    ("events", "choices"),
    [
        ((START, b": still loading\n\n", SAID, STOP, DONE_EVENT), 1),
        ((START, SAID, STOP), 1),
        ((START, SAID, STOP, b"data: [DONE]"), 1),
        ((START.replace(b"\n\n", b"\r\n\r\n"), SAID, STOP.replace(b"data: ", b"event: x\ndata:"), DONE_EVENT), 1),
        ((event(delta(0, "stop", content="x")), event(delta(1, "tool_calls", tool_calls=[{"index": 0}]))), 2),
        # An engine that doesn't know `n` says so with its [DONE].
        ((SAID, STOP, DONE_EVENT), 3),
        # The finish may come with usage, or before more of the same choice's usage.
        ((event(delta(finish="stop", content="x"), usage={"prompt_tokens": 1}), DONE_EVENT), 1),
    ],
    ids=["comment", "close", "no last line", "line ends", "two choices", "fewer choices", "usage beside"],
)
def test_every_way_to_end_a_stream_well_is_known(events: tuple[bytes, ...], choices: int) -> None:
    entry = kept_stream(*events, choices=choices)

    assert entry is not None
    assert entry.replay(usage=True) == b"".join(events)


@pytest.mark.parametrize(
    ("events", "choices"),
    [
        ((), 1),
        ((DONE_EVENT,), 1),
        ((START, SAID), 1),
        ((START, SAID, DONE_EVENT), 1),
        ((SAID, event(delta(finish="length")), DONE_EVENT), 1),
        ((SAID, STOP, event(delta(1, content="x")), DONE_EVENT), 2),
        ((SAID, STOP), 2),
        ((SAID, STOP, b'data: {"error":{"message":"no"}}\n\n', DONE_EVENT), 1),
        ((SAID, STOP, DONE_EVENT, SAID), 1),
        ((SAID, STOP, b"data: nonsense\n\n", DONE_EVENT), 1),
        ((SAID, STOP, b"data: 5\n\n", DONE_EVENT), 1),
        ((SAID, STOP, USAGE_EVENT, USAGE_EVENT, DONE_EVENT), 1),
        ((SAID, STOP[:-9]), 1),
    ],
    ids=[
        "empty",
        "DONE only",
        "no finish",
        "DONE without finish",
        "length",
        "one of two unfinished",
        "one of two missing",
        "error",
        "more after DONE",
        "no JSON",
        "no object",
        "two usage frames",
        "cut event",
    ],
)
def test_a_stream_that_is_cut_wrong_or_an_error_is_not_kept(events: tuple[bytes, ...], choices: int) -> None:
    assert kept_stream(*events, choices=choices) is None


def test_answers_past_the_limit_are_not_kept() -> None:
    assert whole_entry(origin(), whole(), "application/json", limit=len(whole())) is not None
    assert whole_entry(origin(), whole(), "application/json", limit=len(whole()) - 1) is None
    assert stream_entry(origin(), stream(), limit=len(stream()) - 1) is None


def test_a_finish_that_was_said_is_not_unsaid_by_a_later_event() -> None:
    entry = kept_stream(SAID, STOP, event({"index": 0, "delta": {}}, usage={"prompt_tokens": 2}), DONE_EVENT)

    assert entry is not None
    assert msgspec.structs.asdict(entry)["finish"] == "stop"


def said(**message: Any) -> bytes:
    return msgspec.json.encode({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})


@pytest.mark.parametrize(
    ("message", "kept"),
    [
        ({"content": ""}, False),
        ({"content": None}, False),
        ({"content": " \n"}, False),
        ({"content": []}, False),
        ({"content": [{"type": "text", "text": ""}]}, False),
        ({"content": "", "reasoning_content": "let me think"}, False),
        ({"content": "", "tool_calls": []}, False),
        ({"content": "x"}, True),
        ({"content": [{"type": "text", "text": "x"}]}, True),
        ({"content": "", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f"}}]}, True),
        ({"content": None, "function_call": {"name": "f", "arguments": "{}"}}, True),
        ({"content": None, "refusal": "no"}, True),
        ({"content": None, "audio": {"id": "a", "data": "AA"}}, True),
    ],
)
def test_an_answer_that_says_nothing_is_asked_for_again(message: dict[str, Any], kept: bool) -> None:
    assert (kept_whole(said(**message)) is not None) is kept
    pieces = {**message, "tool_calls": [{"index": 0, **call} for call in message.get("tool_calls", ())]}
    assert (kept_stream(START, event(delta(**pieces)), STOP, DONE_EVENT) is not None) is kept


def test_one_of_several_choices_that_says_nothing_is_enough() -> None:
    first, second = event(delta(0, "stop", content="x")), event(delta(1, "stop", content=""))

    assert kept_stream(first, second, DONE_EVENT, choices=2) is None
    assert kept_whole(b'{"choices":[{"text":"","finish_reason":"stop"}]}', endpoint=COMPLETIONS) is None
    body = b'data: {"choices":[{"index":0,"text":"","finish_reason":"stop"}]}\n\n'
    assert stream_entry(origin(endpoint=COMPLETIONS), body + DONE_EVENT) is None
    assert stream_entry(origin(endpoint=COMPLETIONS), body.replace(b'""', b'"x"') + DONE_EVENT) is not None
