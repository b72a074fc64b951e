"""Reading along in a stream, however the network cuts it into pieces."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigw_daemon.gateway.streaming import MAX_EVENT_BYTES, StreamScan
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


def run(*pieces: bytes, drop_usage: bool = True, choices: int = 1) -> tuple[StreamScan, bytes]:
    scan = StreamScan(drop_usage=drop_usage, choices=choices)
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
    assert (scan.error, scan.finished, forwarded) == (None, True, event)


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
    assert (scan.usage.prompt_tokens, scan.usage_frame) == (tokens, frame)


def test_two_choices_in_one_event_and_one_in_another_are_seen() -> None:
    said = b'data: {"choices":[{"index":0,"finish_reason":null},{"index":1,"finish_reason" : "stop"}]}\n\n'
    assert not run(said, choices=2)[0].finished
    assert run(said + FINISH, choices=2)[0].finished


def test_an_empty_error_beside_an_answer_is_none() -> None:
    event = b'data: {"choices":[{"index":0,"delta":{"content":"x"}}],"error":""}\n\n'
    scan, forwarded = run(event, FINISH)
    assert (scan.error, scan.finished, forwarded) == (None, True, event + FINISH)


def test_text_that_looks_like_a_finish_is_text() -> None:
    scan, forwarded = run(TOOL)
    assert (forwarded, scan.finished, scan.error) == (TOOL, False, None)


def test_a_comment_alone_begins_nothing() -> None:
    scan, forwarded = run(COMMENT)
    assert (scan.begun, forwarded) == (False, COMMENT)


def test_an_event_without_its_end_is_given_out_at_the_end() -> None:
    assert run(HELLO, FINISH.rstrip())[1] == HELLO + FINISH.rstrip()


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
@pytest.mark.parametrize("size", [1_000, 65_536, 10_000_000])
def test_an_event_beyond_the_limit_passes_and_what_follows_is_read_again(end: bytes, size: int) -> None:
    huge = b'data: {"x":"' + b"y" * (2 * MAX_EVENT_BYTES) + b'"}' + end
    whole = HELLO + huge + FINISH + DONE
    scan, forwarded = run(*(whole[at : at + size] for at in range(0, len(whole), size)))
    assert forwarded == whole
    assert scan.done
