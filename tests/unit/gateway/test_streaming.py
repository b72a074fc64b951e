"""Reading along in a stream, however the network cuts it into pieces."""

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigw_daemon.gateway.streaming import MAX_EVENT_BYTES, StreamScan, opens_events
from aigw_daemon.gateway.wire import ApiError
from tests.support.fake_engine import DONE, FINISH, HELLO, USAGE

COMMENT = b": ping\n\n"
TOOL = (
    b'data: {"choices":[{"index":0,"delta":{"tool_calls":[{"function":{"arguments":'
    b'"{\\"error\\": \\"finish_reason\\": \\"stop\\", [DONE]"}}]}}]}\n\n'
)
JUNK = b'data: {"error" is no JSON\n\n'
WINDOWS = b'data: {"choices":[{"index":0,"delta":{"content":"\xc3\xa9"}}]}\r\n\r\n'
OLD_MAC = b'data: {"choices":[]}\r\r'
ENGINE_ERROR = b'data: {"error": {"message": "out of memory", "code": 500}}\n\n'


TIMED_USAGE = USAGE.replace(b'"usage"', b'"id":"x","timings":{"prompt_n":3,"predicted_n":2},"usage"')
TIMED_FINISH = FINISH.replace(b"}]}", b'}],"id":"x","timings":{"prompt_n":3,"predicted_n":2}}')


def run(*pieces: bytes, drop_usage: bool = True, shared: bool = False, choices: int = 1) -> tuple[StreamScan, bytes]:
    scan = StreamScan(drop_usage=drop_usage, shared=shared, choices=choices)
    forwarded = b"".join([scan.feed(piece) for piece in pieces])
    return scan, forwarded + scan.end()


def test_a_plain_event_is_passed_on_as_the_same_object() -> None:
    scan, _ = run(HELLO)
    piece = bytes(bytearray(HELLO))
    assert scan.feed(piece) is piece


def test_the_usage_frame_is_noted_and_dropped_only_when_nobody_asked() -> None:
    scan, forwarded = run(HELLO, FINISH, USAGE, DONE)
    assert forwarded == HELLO + FINISH + DONE
    assert scan.usage is not None
    assert (scan.usage.prompt_tokens, scan.usage.completion_tokens) == (3, 2)
    assert run(HELLO, FINISH, USAGE, DONE, drop_usage=False)[1] == HELLO + FINISH + USAGE + DONE


def test_usage_beside_a_choice_is_kept() -> None:
    both = (
        b'data: {"choices":[{"index":0,"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1}}\n\n'
    )
    scan, forwarded = run(HELLO, both, DONE)
    assert forwarded == HELLO + both + DONE
    assert scan.finished


def test_an_engine_that_gives_fewer_choices_than_were_asked_for_ends_whole_by_its_done() -> None:
    assert run(HELLO, FINISH, choices=2)[0].finished is False
    scan, forwarded = run(HELLO, FINISH, DONE, choices=2)
    assert (forwarded, scan.finished) == (HELLO + FINISH + DONE, True)


@pytest.mark.parametrize("junk", [b'"error":null,"x":"\xff"', b'"error":' + b"[" * 5_000 + b"]" * 5_000])
def test_an_event_that_cannot_be_read_does_no_harm(junk: bytes) -> None:
    scan, _ = run(HELLO, b"data: {" + junk + b"}\n\n", FINISH, DONE)
    assert scan.begun


def test_done_before_the_finish_is_held_back() -> None:
    scan, forwarded = run(HELLO, DONE)
    assert (forwarded, scan.done, scan.finished) == (HELLO, False, False)


def test_an_error_is_taken_out_and_nothing_after_it_passes() -> None:
    scan, forwarded = run(HELLO, ENGINE_ERROR, FINISH, DONE)
    assert (forwarded, scan.error) == (HELLO, "out of memory")


def test_an_error_first_means_that_nothing_has_begun() -> None:
    scan, forwarded = run(ENGINE_ERROR)
    assert (forwarded, scan.begun, scan.error) == (b"", False, "out of memory")


@pytest.mark.parametrize(
    "error",
    [
        b'data: {"error":"bare"}\n\n',
        b'data: {"error":{}}\n\n',
        b'data: {"error": 7}\n\n',
        b'data: [{"error":{"message":"x"}}]\n\n',
    ],
)
def test_an_error_of_any_shape_is_one(error: bytes) -> None:
    assert run(HELLO, error)[0].error is not None


def test_a_null_error_is_none() -> None:
    event = b'data: {"choices":[{"index":0,"finish_reason":"stop"}],"error":null}\n\n'
    scan, forwarded = run(event)
    assert (scan.error, scan.finished, forwarded) == (None, True, event + DONE)


def test_an_error_by_its_object_is_one_at_any_time() -> None:
    event = b'data: {"object":"error","message":"out of memory","code":500}\n\n'
    assert run(event)[0].error == "out of memory"
    assert run(HELLO, event, FINISH, DONE)[0].error == "out of memory"


@pytest.mark.parametrize(
    "remark",
    [
        b"data: {}\n\n",
        b'data: {"choices":[]}\n\n',
        b'data: {"choices":null,"id":"x"}\n\n',
        b'data: {"choices":[null]}\n\n',
        b'data: {"choices":{}}\n\n',
        b"data: []\n\n",
        b"data: junk\n\n",
        USAGE,
    ],
)
def test_an_event_without_a_choice_begins_nothing(remark: bytes) -> None:
    scan, forwarded = run(remark, drop_usage=False)
    assert (scan.begun, scan.error, forwarded) == (False, None, remark)
    scan, forwarded = run(remark, HELLO, FINISH, DONE, drop_usage=False)
    assert (scan.begun, scan.finished, forwarded) == (True, True, remark + HELLO + FINISH + DONE)


def test_fields_of_a_dropped_usage_frame_move_to_the_finish() -> None:
    assert run(HELLO, FINISH, TIMED_USAGE, DONE)[1] == HELLO + TIMED_FINISH + DONE
    assert run(HELLO, FINISH, COMMENT, TIMED_USAGE)[1] == HELLO + COMMENT + TIMED_FINISH + DONE


def test_fields_over_several_lines_move_on_one() -> None:
    frame = b'data: {"choices":[],"timings":{"prompt_n":3,\ndata: "predicted_n":2},"id":"x","usage":{}}\n\n'
    moved = FINISH.replace(b"}]}", b'}],"timings":{"prompt_n":3,"predicted_n":2},"id":"x"}')
    assert run(HELLO, FINISH, frame, DONE)[1] == HELLO + moved + DONE


def test_a_shared_stream_tells_what_each_kind_of_client_gets_of_its_end() -> None:
    scan, forwarded = run(HELLO, FINISH, TIMED_USAGE, DONE, drop_usage=False, shared=True)
    assert forwarded == HELLO + FINISH + TIMED_USAGE + DONE
    assert scan.frames == [(FINISH + TIMED_USAGE, TIMED_FINISH)]


def test_a_finish_that_is_held_back_can_be_had() -> None:
    scan = StreamScan(drop_usage=True)
    assert (scan.feed(HELLO), scan.feed(FINISH), scan.waiting) == (HELLO, b"", True)
    assert (scan.release(), scan.waiting, scan.end()) == (FINISH, False, DONE)
    scan = StreamScan(drop_usage=False)
    assert scan.feed(FINISH) == FINISH


def test_timings_count_tokens_where_no_usage_comes() -> None:
    scan, _ = run(HELLO, TIMED_FINISH.replace(b'{"prompt_n"', b'{"cache_n":30,"prompt_n"'), DONE)
    assert scan.usage is not None
    assert (scan.usage.prompt_tokens, scan.usage.completion_tokens) == (33, 2)
    assert run(HELLO, FINISH.replace(b"}]}", b'}],"timings":"soon"}'), DONE)[0].usage is None


@pytest.mark.parametrize(
    "spelling",
    [
        b'"finish_reason":"stop"',
        b'"finish_reason": "stop"',
        b'"finish_reason" : "stop"',
        b'"finish_reason"\t:  "stop"',
        b'"finish_reason":  "stop"',
        b'"finish_reason" :"stop"',
        b'"finish_reason":\ndata: "stop"',
    ],
)
@pytest.mark.parametrize("index", [b'"index":0,', b'"index":null,', b'"index" : 0.0 ,', b""])
def test_a_finish_is_one_however_it_is_spelled(spelling: bytes, index: bytes) -> None:
    event = b'data: {"choices":[{%b"delta":{},%b}]}\n\n' % (index, spelling)
    scan, forwarded = run(HELLO, event, DONE)
    assert (scan.finished, scan.finish_reason, forwarded) == (True, "stop", HELLO + event + DONE)


@pytest.mark.parametrize("spelling", [b'"finish_reason":null', b'"finish_reason": null', b'"finish_reason" : null'])
def test_a_finish_that_says_null_is_none(spelling: bytes) -> None:
    scan, _ = run(b'data: {"choices":[{"index":0,"delta":{},%b}],"usage":null}\n\n' % spelling)
    assert not scan.finished


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        (b'"usage" : {"prompt_tokens":3}', 3),
        (b'"usage":  {"prompt_tokens":3.0}', 3),
        (b'"usage":{"prompt_tokens":-3}', None),
        (b'"usage":{"prompt_tokens":"many"}', None),
    ],
)
def test_usage_of_any_spelling_and_type_is_a_usage_frame(usage: bytes, tokens: int | None) -> None:
    frame = b'data: {"choices":[],%b}\n\n' % usage
    scan, forwarded = run(HELLO, FINISH, frame, DONE)
    assert forwarded == HELLO + FINISH + DONE
    assert scan.usage is not None
    assert scan.usage.prompt_tokens == tokens


def test_two_choices_in_one_event_and_one_in_another_are_seen() -> None:
    said = b'data: {"choices":[{"index":0,"finish_reason":null},{"index":1,"finish_reason" : "stop"}]}\n\n'
    assert not run(said, choices=2)[0].finished
    assert run(said + FINISH, choices=2)[0].finished


def test_an_empty_error_beside_an_answer_is_none() -> None:
    event = b'data: {"choices":[{"index":0,"delta":{"content":"x"}}],"error":""}\n\n'
    scan, forwarded = run(event, FINISH)
    assert (scan.error, scan.finished, forwarded) == (None, True, event + FINISH + DONE)


def test_text_that_looks_like_a_finish_is_text() -> None:
    scan, forwarded = run(TOOL)
    assert (forwarded, scan.finished, scan.error) == (TOOL, False, None)


def test_a_comment_alone_begins_nothing() -> None:
    scan, forwarded = run(COMMENT)
    assert (scan.begun, forwarded) == (False, COMMENT)


@pytest.mark.parametrize("last", [FINISH.rstrip(), FINISH[:-1], FINISH + DONE.rstrip(), FINISH + DONE[:-1]])
def test_a_last_event_that_lacks_only_its_line_ends_is_completed(last: bytes) -> None:
    scan, forwarded = run(HELLO, last)
    assert (forwarded, scan.finished, scan.done) == (HELLO + FINISH + DONE, True, True)


def test_a_finished_stream_without_done_gets_one() -> None:
    assert run(HELLO, FINISH)[1] == HELLO + FINISH + DONE
    assert run(HELLO, FINISH, USAGE, drop_usage=False)[1] == HELLO + FINISH + USAGE + DONE
    assert run(HELLO)[1] == HELLO
    assert run(HELLO, FINISH, ENGINE_ERROR)[1] == HELLO + FINISH
    assert run(HELLO, FINISH, choices=2)[1] == HELLO + FINISH


@pytest.mark.parametrize("size", [1, 7, 1_000_000])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_half_an_event_is_never_forwarded(end: bytes, size: int) -> None:
    """Wherever the stream is cut, an error that follows is the last event, and all before it are whole."""
    events = (COMMENT + HELLO + TOOL).replace(b"\n", end)
    for cut in range(len(events)):
        _, forwarded = run(*(events[:cut][at : at + size] for at in range(0, cut, size)))
        *before, last = told(forwarded + ApiError(500, "cut").event())
        assert msgspec.json.decode(last)["error"]["message"] == "cut"
        assert [msgspec.json.decode(data)["choices"] for data in before] == [
            msgspec.json.decode(data)["choices"] for data in told(HELLO + TOOL)[: len(before)]
        ]


@pytest.mark.parametrize(
    "half",
    [
        b'data: {"id":"x',
        b'data: {"choices":[{"delta":{"content":"\xf0\x9f',
        HELLO[:-1],
        HELLO.replace(b"\n", b"\r\n")[:-2],
    ],
)
def test_an_engines_error_behind_half_an_event_is_an_error(half: bytes) -> None:
    scan, forwarded = run(HELLO, half + ENGINE_ERROR)
    assert (forwarded, scan.error) == (HELLO, "out of memory")


def test_an_event_that_is_no_json_is_passed_on_without_a_whole_error_in_it() -> None:
    half = b'data: {"id":"x{"error": {"mess\n\n'
    scan, forwarded = run(HELLO, half, FINISH, DONE)
    assert (forwarded, scan.error) == (HELLO + half + FINISH + DONE, None)


def told(stream: bytes) -> list[bytes]:
    """The data of each event, by the rules of the WHATWG's specification."""
    found, data = list[bytes](), list[bytes]()
    for line in stream.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n"):
        if not line and data:
            found.append(b"\n".join(data))
            data = []
        name, _, value = line.partition(b":")
        if name == b"data":
            data.append(value.removeprefix(b" "))
    return found


ALL = [COMMENT, HELLO, TOOL, JUNK, WINDOWS, OLD_MAC, HELLO, FINISH, USAGE, DONE]


@given(st.lists(st.integers(0, len(b"".join(ALL))), max_size=30))
def test_cuts_anywhere_change_nothing(cuts: list[int]) -> None:
    whole = b"".join(ALL)
    places = sorted({0, len(whole), *cuts})
    scan, forwarded = run(*(whole[start:end] for start, end in pairwise(places)))
    assert forwarded == whole.replace(USAGE, b"")
    assert (scan.done, scan.finish_reason, scan.error) == (True, "stop", None)
    assert scan.usage is not None


def test_every_single_cut_changes_nothing() -> None:
    whole = b"".join(ALL)
    for cut in range(1, len(whole)):
        assert run(whole[:cut], whole[cut:])[1] == whole.replace(USAGE, b"")


def test_a_byte_at_a_time_changes_nothing() -> None:
    whole = b"".join(ALL)
    assert run(*(whole[at : at + 1] for at in range(len(whole))))[1] == whole.replace(USAGE, b"")


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n"])
@pytest.mark.parametrize("size", [65_536, 100_000_000])
def test_a_large_event_passes_whole_and_one_beyond_the_limit_is_the_streams_end(end: bytes, size: int) -> None:
    def streamed(length: int) -> tuple[StreamScan, bytes, bytes]:
        large = b'data: {"x":"' + b"y" * length + b'"}' + end
        whole = HELLO + large + FINISH + DONE
        return *run(*(whole[at : at + size] for at in range(0, len(whole), size))), whole

    scan, forwarded, whole = streamed(MAX_EVENT_BYTES // 2)
    assert (forwarded == whole, scan.done) == (True, True)
    scan, forwarded, whole = streamed(MAX_EVENT_BYTES + size)
    assert (forwarded, scan.error) == (HELLO, "it sent an event longer than 16 MiB")


@pytest.mark.parametrize(
    ("opening", "labelled", "expected"),
    [
        (b"", True, None),
        (b" \r\n", False, None),
        (b"da", False, None),
        (b"data:", False, True),
        (b"data", False, None),
        (b": hi", False, True),
        (b"event: x", False, True),
        (b"retry: 3", False, True),
        (b"\xef\xbb\xbfdata: x", False, True),
        (b'\n{"choices"', True, False),
        (b"[1]", True, False),
        (b"<html>", False, False),
        (b"<html>", True, True),
        (b"date: x", False, False),
    ],
)
def test_a_stream_is_recognised_by_its_bytes(opening: bytes, labelled: bool, expected: bool | None) -> None:
    assert opens_events(opening, labelled=labelled) is expected
