"""What is read of answers: leniently what is only noted, strictly whether it is one."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigw_daemon.gateway.answers import HIGHEST_COUNT, Answer, Choice, Usage, decode_answer, lack
from aigw_daemon.gateway.wire import BAD_JSON
from aigw_daemon.link.messages import CHAT, COMPLETIONS, EMBEDDINGS, RERANK

ASK = b'{"model":"m","messages":[],"input":"x","documents":["x"]}'


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (b'{"prompt_tokens":3,"completion_tokens":2}', Usage(3, 2)),
        (b'{"prompt_tokens":1.0,"completion_tokens":2e0}', Usage(1, 2)),
        (b'{"prompt_tokens":"3","completion_tokens":"x"}', Usage(3, None)),
        (b'{"prompt_tokens":-1,"completion_tokens":2}', Usage(None, 2)),
        (b'{"prompt_tokens":1.5,"completion_tokens":true}', Usage(None, None)),
        (b'{"prompt_tokens":1' + b"0" * 400 + b',"completion_tokens":1e400}', Usage(None, None)),
        (b'{"prompt_tokens":NaN,"completion_tokens":2}', Usage(None, 2)),
        (b'{"prompt_tokens":null}', Usage(None, None)),
        (b'{"prompt_tokens":{"a":1},"completion_tokens":[2]}', Usage(None, None)),
        (b"[]", None),
        (b"7", None),
        (b"null", None),
    ],
)
def test_usage_of_any_type_is_read_as_far_as_it_makes_sense(usage: bytes, expected: Usage | None) -> None:
    answer = decode_answer(b'{"choices":[{"finish_reason":"stop"}],"usage":' + usage + b"}")
    assert answer.usage == expected
    assert answer.choices == [Choice(0, "stop")]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (b'{"index":null,"finish_reason":"stop"}', Choice(0, "stop")),
        (b'{"index":1.0,"finish_reason":"stop"}', Choice(1, "stop")),
        (b'{"index":"2","finish_reason":null}', Choice(2, None)),
        (b'{"index":-1,"finish_reason":"stop","index" : [ ]}', Choice(0, "stop")),
        (b'{"finish_reason":7}', Choice(0, "7")),
        (b'{"finish_reason":{},"x":"\\ud83d"}', Choice(0, None)),
        (b'{"finish_reason":"stop","logprob":-Infinity}', Choice(0, "stop")),
    ],
)
def test_choices_too(choice: bytes, expected: Choice) -> None:
    assert decode_answer(b'{"choices" : [' + choice + b"]}").choices == [expected]


def test_choices_without_an_index_are_counted_through() -> None:
    answer = decode_answer(b'{"choices":[{"index":null,"finish_reason":"stop"},{"index":null}]}')
    assert answer.choices == [Choice(0, "stop"), Choice(1, None)]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["index", "finish_reason", "prompt_tokens", "completion_tokens"]) | st.text(),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(("choices", "usage", "data", "results", "x"), JSON)))
def test_json_of_any_shape_is_read_and_can_be_recorded(fields: dict[str, Any]) -> None:
    answer = decode_answer(msgspec.json.encode(fields))
    usage = answer.usage or Usage()
    assert all(count is None or 0 <= count <= HIGHEST_COUNT for count in (usage.prompt_tokens, usage.completion_tokens))
    msgspec.msgpack.encode([(choice.index, choice.finish_reason) for choice in answer.choices or ()])
    for endpoint in (CHAT, COMPLETIONS, EMBEDDINGS, RERANK):
        assert lack(endpoint, answer, ASK) in {None, "choices", "vectors", "results"}


@pytest.mark.parametrize("content", [b"", b"<html>", b'{"choices":[', b'"text"', b"7", b"null", b'{"x":"\xff"}}'])
def test_what_is_no_answer_at_all_is_refused(content: bytes) -> None:
    with pytest.raises(BAD_JSON):
        decode_answer(content)


@pytest.mark.parametrize(
    ("content", "is_error"),
    [
        (b'{"error":{"message":"x"}}', True),
        (b'{"error":"x","choices":[{}]}', True),
        (b'{"error":{}}', True),
        (b'{"error":""}', True),
        (b'{"error":7}', True),
        (b'[{"error":{"message":"x"}}]', True),
        (b'{"error":null,"choices":[{}]}', False),
        (b'{"error":"","choices":[{}]}', False),
        (b'{"error":{},"choices":[{}]}', False),
        (b'{"error":false,"choices":[],"usage":{}}', False),
        (b"{}", False),
    ],
)
def test_an_error_is_one_unless_it_is_empty_beside_an_answer(content: bytes, is_error: bool) -> None:
    assert decode_answer(content).is_error is is_error


CHATS = [
    b"{}",
    b'{"object":"error"}',
    b'{"choices":[]}',
    b'{"choices":null}',
    b'{"choices":{}}',
    b'{"choices":[null]}',
    b"[]",
]


@pytest.mark.parametrize(
    ("endpoint", "content", "missing"),
    [
        *((endpoint, content, "choices") for endpoint in (CHAT, COMPLETIONS) for content in CHATS),
        (CHAT, b'{"data":[1]}', "choices"),
        (CHAT, b'{"choices":[{}]}', None),
        (COMPLETIONS, b'{"choices":[{"text":""}]}', None),
        (EMBEDDINGS, b"{}", "vectors"),
        (EMBEDDINGS, b'{"data":[]}', "vectors"),
        (EMBEDDINGS, b'{"data":[ ]}', "vectors"),
        (EMBEDDINGS, b'{"data":null}', "vectors"),
        (EMBEDDINGS, b'{"data":"x"}', "vectors"),
        (EMBEDDINGS, b'{"choices":[]}', "vectors"),
        (EMBEDDINGS, b'{"data" : [ {"embedding":[0.1]}]}', None),
        (EMBEDDINGS, b'{"embeddings":[[0.1]]}', None),
        (EMBEDDINGS, b'{"embeddings":{"float":[[0.1]]}}', None),
        (EMBEDDINGS, b"[[0.1]]", None),
        (EMBEDDINGS, b"[]", "vectors"),
        (RERANK, b"{}", "results"),
        (RERANK, b'{"results":[]}', "results"),
        (RERANK, b"[]", "results"),
        (RERANK, b'{"results":[{"index":0}]}', None),
        (RERANK, b'{"data":[{"index":0}]}', None),
        (RERANK, b'[{"index":0,"score":0.9}]', None),
    ],
)
def test_an_answer_holds_what_was_asked_for(endpoint: str, content: bytes, missing: str | None) -> None:
    assert lack(endpoint, decode_answer(content), ASK) == missing


@pytest.mark.parametrize(
    ("endpoint", "request_body", "content"),
    [
        (EMBEDDINGS, b'{"model":"m","input":[]}', b'{"data":[]}'),
        (RERANK, b'{"model":"m","query":"q","documents":[]}', b'{"results":[]}'),
        (RERANK, b'{"model":"m","query":"q","texts":[ ]}', b"[]"),
        (RERANK, b'{"model":"m","query":"q","documents":["a"],"top_n":0}', b'{"results":[]}'),
    ],
)
def test_nothing_is_right_for_who_asked_for_nothing(endpoint: str, request_body: bytes, content: bytes) -> None:
    assert lack(endpoint, decode_answer(content), request_body) is None


def test_the_usual_answer_is_read_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aigw_daemon.gateway.answers.decode_leniently", lambda _content: pytest.fail("read twice"))
    content = (
        b'{"choices":[{"index":0,"message":{"content":"\\u00e9"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1}}'
    )
    assert decode_answer(content) == Answer([Choice(0, "stop")], Usage(1))
