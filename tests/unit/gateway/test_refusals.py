"""What engines say when they refuse, in all their forms, and what follows from it."""

from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aigw_daemon.gateway.breaker import Failure
from aigw_daemon.gateway.failures import AttemptFailed, Kind, TooLong
from aigw_daemon.gateway.refusals import (
    Said,
    is_too_long,
    refusal,
    refused_inside,
    relayed_error,
    too_long_error,
    upstream_error,
)
from aigw_daemon.gateway.wire import ApiError

LLAMACPP = (
    b'{"error":{"code":400,"message":"request (631 tokens) exceeds the available context size (256 tokens), '
    b'try increasing it","type":"exceed_context_size_error","n_prompt_tokens":631,"n_ctx":256}}'
)


def shown(error: ApiError) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(error.body())["error"]
    return found


def met(status: int, body: bytes, wait: float | None = None) -> AttemptFailed | ApiError:
    return refusal(status, upstream_error(body), wait)


# The forms of errors.


@pytest.mark.parametrize(
    ("body", "said"),
    [
        pytest.param(
            b'{"error":{"message":"too hot","type":"BadRequestError","param":"temperature","code":400}}',
            Said("too hot", "BadRequestError", None, "temperature"),
            id="vLLM",
        ),
        pytest.param(
            b'{"object":"error","message":"too hot","type":"BadRequestError","param":null,"code":400}',
            Said("too hot", "BadRequestError"),
            id="vLLM of old",
        ),
        pytest.param(
            b'{"object":"error","message":"no","type":"invalid_request","param":null,"code":"3051","raw_status_code":400}',
            Said("no", "invalid_request", "3051", None, {"raw_status_code": 400}),
            id="Mistral",
        ),
        pytest.param(b'{"error":"boom"}', Said("boom"), id="Ollama"),
        pytest.param(b'{"error":"boom","error_type":"validation"}', Said("boom", "validation"), id="TGI"),
        pytest.param(
            b'[{"error":{"code":400,"message":"boom","status":"INVALID_ARGUMENT","details":[{"x":1}]}}]',
            Said("boom", "INVALID_ARGUMENT"),
            id="Gemini",
        ),
        pytest.param(
            b'{"type":"error","error":{"type":"invalid_request_error","message":"boom"},"request_id":"r"}',
            Said("boom", "invalid_request_error"),
            id="Anthropic",
        ),
        pytest.param(
            b'{"detail":[{"type":"missing","loc":["body","messages"],"msg":"Field required","input":{"secret":1}},'
            b'{"loc":["body","messages",0,"role"],"msg":"no"}]}',
            Said("messages: Field required; messages.0.role: no", None, None, "messages"),
            id="FastAPI",
        ),
        pytest.param(b'{"detail":"Not Found"}', Said("Not Found"), id="FastAPI, a text"),
        pytest.param(b'{"detail":{"message":"boom","code":"x"}}', Said("boom", None, "x"), id="FastAPI, an object"),
        pytest.param(b'{"message":"boom"}', Said("boom"), id="Cohere"),
        pytest.param(b'{"error":{"message":{"a":1}}}', Said('{"a":1}'), id="a message that is an object"),
        pytest.param(b'"boom"', Said("boom"), id="a bare text"),
        pytest.param(b"<html>boom</html>", Said("<html>boom</html>"), id="no JSON"),
        pytest.param(rb'{"error":{"message":"a\ud83d"}}', Said("a\ufffd"), id="a lone surrogate"),
        pytest.param(b'{"error":{}}', Said(None), id="nothing in an object"),
        pytest.param(b"[]", Said(None), id="nothing in an array"),
        pytest.param(b"", Said(None), id="nothing"),
        pytest.param(b'{"error":{"message":"b","code":1234}}', Said("b", extra={"upstream_code": 1234}), id="a number"),
    ],
)
def test_every_form_of_an_error_is_read(body: bytes, said: Said) -> None:
    assert upstream_error(body) == said


def test_an_engines_own_fields_go_along() -> None:
    error = relayed_error(400, upstream_error(LLAMACPP))
    assert shown(error) == {
        "message": "request (631 tokens) exceeds the available context size (256 tokens), try increasing it",
        "type": "exceed_context_size_error",
        "param": None,
        "code": "invalid_request",
        "n_prompt_tokens": 631,
        "n_ctx": 256,
    }


def test_only_simple_fields_go_along_and_not_without_end() -> None:
    many = {f"field_{number}": number for number in range(100)}
    odd = {"nested": {"a": 1}, "array": [1], "traceback": "File x", "bad name": 1, "huge": 10**400, "none": None}
    body = msgspec.json.encode({"error": {"message": "m", "long": "y" * 5_000, "yes": True, "half": 0.5, **many}})
    said = upstream_error(body[:-2] + b"," + msgspec.json.encode({**odd, "huge": 0})[1:] + b"}")
    assert (len(str(said.extra["long"])), said.extra["yes"], said.extra["half"]) == (2_000, True, 0.5)
    assert (len(said.extra), said.extra.keys() & odd.keys()) == (16, set())
    assert "huge" not in upstream_error(b'{"error":{"message":"m","huge":1' + b"0" * 400 + b"}}").extra


def test_no_text_keeps_a_key() -> None:
    said = upstream_error(b'{"error":{"message":"key k","type":"k","code":"ck","param":"pk","hint":"k!","n":1}}')
    assert said.redacted(lambda text: text and text.replace("k", "*")) == Said(
        "*ey *", "*", "c*", "p*", {"hint": "*!", "n": 1}
    )


@given(st.binary(max_size=300))
@example(b'{"error":{"message":"\xff"}}')
@example(rb'{"error":{"message":"m","x":"\ud83d"}}')
@example(b'{"error":{"message":"m","x":NaN,"y":1e999}}')
@example(b'{"error":{"x":' + b"[" * 5_000 + b"]" * 5_000 + b"}}")
def test_whatever_an_engine_says_becomes_the_envelope(body: bytes) -> None:
    error = shown(relayed_error(400, upstream_error(body)))
    assert set(error) >= {"message", "type", "param", "code"}
    assert error["message"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "message", "detail", "code", "type", "loc", "msg"]) | st.text(), inner
        )
    ),
    max_leaves=8,
)


@given(JSON)
def test_json_of_every_shape_becomes_the_envelope(value: Any) -> None:
    error = shown(relayed_error(422, upstream_error(msgspec.json.encode(value))))
    assert isinstance(error["message"], str)
    assert all(error[name] is None or isinstance(error[name], str) for name in ("type", "param", "code"))


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ("Expected 'messages' to be an array", "messages"),
        ('"prompt" must not be empty', "prompt"),
        ("Failed to deserialize the JSON body: missing field `input` at line 1 column 12", "input"),
        ("[] is too short - 'messages'", "messages"),
        ("'nonsense' is no field", None),
        ("the messages are wrong", None),
    ],
)
def test_a_field_that_the_words_name_is_the_param(message: str, param: str | None) -> None:
    assert relayed_error(400, Said(message)).param == param
    assert relayed_error(400, Said(message, param="own")).param == "own"


# Prompts that are too long.


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(upstream_error(LLAMACPP), id="llama.cpp"),
        pytest.param(Said("the request exceeds the available context size. try increasing it"), id="llama.cpp of old"),
        pytest.param(
            Said("This model's maximum context length is 2048 tokens. However, you requested 4000 output tokens"),
            id="vLLM",
        ),
        pytest.param(
            Said(
                "The decoder prompt (length 5000) is longer than the maximum model length of 4096. "
                "Make sure that `max_model_len` is no smaller than the number of text tokens."
            ),
            id="vLLM, its input processor",
        ),
        pytest.param(
            Said(
                "The decoder prompt (length 4096) plus the number of requested output tokens (at least 1) is longer "
                "than the maximum model length of 4096."
            ),
            id="vLLM, full to the brim",
        ),
        pytest.param(Said("Input length (5000) exceeds model's maximum context length (4096)."), id="vLLM, its API"),
        pytest.param(
            Said(
                "You passed 5000 input tokens and requested 100 output tokens. However, the model's context length is "
                "only 4096 tokens, resulting in a maximum input length of 3996 tokens."
            ),
            id="vLLM, between",
        ),
        pytest.param(
            Said("The prompt (total length 5000) is too long to fit into the model (context length 4096)."),
            id="vLLM of old",
        ),
        pytest.param(
            Said("The input (5000 tokens) is longer than the model's context length (4096 tokens)."), id="SGLang"
        ),
        pytest.param(
            Said("Requested token count exceeds the model's maximum context length of 4096 tokens."),
            id="SGLang, with the answer",
        ),
        pytest.param(
            Said("Input length (5000 tokens) exceeds the maximum allowed length (4090 tokens). Use a shorter input"),
            id="SGLang, its engine",
        ),
        pytest.param(
            Said(
                "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. "
                "Given: 5000 `inputs` tokens and 20 `max_new_tokens`"
            ),
            id="TGI",
        ),
        pytest.param(
            Said("Input validation error: `inputs` must have less than 4095 tokens. Given: 5000"), id="TGI, the input"
        ),
        pytest.param(Said("`inputs` must have less than 512 tokens. Given: 600", "Validation"), id="TEI"),
        pytest.param(
            upstream_error(
                b'[{"error":{"code":400,"message":"The input token count (1200000) exceeds the maximum number of '
                b'tokens allowed (1048576).","status":"INVALID_ARGUMENT"}}]'
            ),
            id="Gemini",
        ),
        pytest.param(
            Said(
                "Unable to submit request because the input token count is 40000 but model only supports up to 32768."
            ),
            id="Vertex",
        ),
        pytest.param(Said("prompt is too long: 201234 tokens > 200000 maximum"), id="Anthropic"),
        pytest.param(
            Said("input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000"),
            id="Anthropic, with the answer",
        ),
        pytest.param(
            Said(
                "Trying to keep the first 5000 tokens when context the overflows. However, the model is loaded with "
                "context length of only 4096 tokens, which is not enough."
            ),
            id="LM Studio",
        ),
        pytest.param(
            Said("The number of tokens to keep from the initial prompt is greater than the context length."),
            id="LM Studio, its runtime",
        ),
        pytest.param(Said("Context size has been exceeded."), id="LM Studio, in short"),
        pytest.param(Said("the input length exceeds the context length"), id="Ollama, vectors"),
        pytest.param(Said("input length exceeds maximum context length"), id="Ollama of old, vectors"),
        pytest.param(Said("prompt too long; exceeded max context length by 7 tokens"), id="Ollama"),
        pytest.param(Said("too many", code="context_length_exceeded"), id="OpenAI"),
        pytest.param(Said("Your input exceeds the context window of this model."), id="OpenAI, responses"),
        pytest.param(
            Said("Please reduce the length of the messages or completion. Current length is 10000"), id="Groq"
        ),
        pytest.param(
            Said("Input tokens exceed the configured limit of 272000 tokens. Your messages resulted in 300000 tokens."),
            id="Azure",
        ),
        pytest.param(
            Said(
                "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length"
            ),
            id="Mistral",
        ),
        pytest.param(Said("Input is too long for requested model."), id="Bedrock"),
        pytest.param(
            Said("This model's maximum prompt length is 131072 but the request contains 537812 tokens."), id="xAI"
        ),
        pytest.param(Said("prompt token count of 200000 exceeds the limit of 128000"), id="Copilot"),
        pytest.param(Said("Invalid request: Your request exceeded model token limit: 8192"), id="Kimi"),
        pytest.param(Said("invalid params, context window exceeds limit"), id="MiniMax"),
        pytest.param(Said("Range of input length should be [1, 30720]"), id="Qwen"),
        pytest.param(Said("no", "model_context_window_exceeded"), id="Z.ai"),
    ],
)
@pytest.mark.parametrize("status", [400, 413, 422])
def test_engines_words_for_a_prompt_that_is_too_long_are_known(said: Said, status: int) -> None:
    assert is_too_long(status, said)
    failure = refusal(status, said, None)
    assert isinstance(failure, TooLong)
    assert (failure.error.status, failure.error.code) == (status, "context_length_exceeded")


@pytest.mark.parametrize(
    "message",
    [
        "invalid options",
        "max_tokens must be at least 1",
        "max_tokens must be <= 4096",
        "max_tokens=100000 cannot be greater than max_model_len=1024. Please request fewer output tokens.",
        "Input validation error: `max_new_tokens` must be <= 512. Given: 1000",
        "Input validation error: `inputs` cannot be empty",
        "Rate limit reached for gpt-4o on tokens per min (TPM): Limit 30000, Used 29000, Requested 2000.",
        "Request too large for model `m` on tokens per minute (TPM): Limit 6000, please reduce your message size.",
        "string too long. Expected a string with maximum length 1048576",
        "the image is too large to process",
        "Request exceeds the maximum allowed number of bytes.",
        "The encoder prompt (length 900) is longer than the encoder cache",
        "unknown field `context`",
        "the context is empty",
        "",
    ],
)
@pytest.mark.parametrize("status", [400, 413, 422])
def test_other_refusals_are_not_taken_for_one(message: str, status: int) -> None:
    assert not is_too_long(status, Said(message or None))
    error = refusal(status, Said(message or None), None)
    assert isinstance(error, ApiError)
    assert error.code != "context_length_exceeded"


def test_a_text_too_long_for_a_vector_is_no_failure_of_its_engine() -> None:
    """llama.cpp says so with a 500."""
    said = Said("input (600 tokens) is too large to process. increase the physical batch size", "server_error")
    failure = refusal(500, said, None)
    assert isinstance(failure, TooLong)
    assert failure.counts is None
    assert (failure.error.status, failure.error.type) == (400, "invalid_request_error")


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b'{"error":"Context size has been exceeded."}'),
        (500, b'{"error":{"message":"down","code":"context_length_exceeded"}}'),
        (500, b"boom"),
    ],
)
def test_other_500s_are(status: int, body: bytes) -> None:
    failure = met(status, body)
    assert isinstance(failure, AttemptFailed)
    assert failure.counts is Failure.SERVER_ERROR


@pytest.mark.parametrize("status", [401, 403, 404, 429, 503])
def test_only_refusals_of_requests_are_about_their_length(status: int) -> None:
    assert not is_too_long(status, Said("maximum context length"))


def test_the_code_that_clients_look_for_stands_beside_the_engines_own() -> None:
    error = shown(too_long_error(400, upstream_error(LLAMACPP)))
    assert (error["code"], error["type"]) == ("context_length_exceeded", "exceed_context_size_error")
    assert (error["n_prompt_tokens"], error["n_ctx"], "upstream_code" in error) == (631, 256, False)
    own = shown(too_long_error(400, Said("prompt is too long: 7", code="too_big")))
    assert (own["code"], own["upstream_code"]) == ("context_length_exceeded", "too_big")
    assert "upstream_code" not in shown(too_long_error(400, Said("m", code="context_length_exceeded")))


# Limits.


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (413, b'{"error":{"message":"Request too large","type":"tokens","code":"rate_limit_exceeded"}}'),
        (400, b'{"error":{"message":"slow down","type":"rate_limit_error"}}'),
        (429, b'{"error":{"message":"maximum context length of your plan"}}'),
    ],
)
def test_a_limit_is_one_by_whatever_status(status: int, body: bytes) -> None:
    failure = met(status, body, 7.5)
    assert isinstance(failure, AttemptFailed)
    assert (failure.kind, failure.retry_after, failure.counts, failure.passing) == (Kind.LIMITED, 7.5, None, True)
    assert f"it answered {status}" in failure.detail


def test_a_413_for_its_size_is_the_clients() -> None:
    error = met(413, b'{"error":{"message":"body too large","code":"request_too_large"}}')
    assert isinstance(error, ApiError)
    assert (error.status, error.code) == (413, "request_too_large")


# Refusals with status 200.


@pytest.mark.parametrize(
    ("said", "missing", "kind", "counts", "detail"),
    [
        (Said("boom"), None, Kind.FAILED, Failure.SERVER_ERROR, "its answer is an error: boom"),
        (Said("boom"), "choices", Kind.FAILED, Failure.SERVER_ERROR, "its answer is an error: boom"),
        (Said(None), "choices", Kind.FAILED, Failure.BAD_ANSWER, "its answer has no choices"),
        (Said(None), None, Kind.FAILED, Failure.SERVER_ERROR, "its answer is an error: it has no text"),
        (Said("m", "rate_limit_error"), None, Kind.LIMITED, None, "its answer is an error: m"),
    ],
)
def test_a_refusal_inside_a_200_is_one(
    said: Said, missing: str | None, kind: Kind, counts: Failure | None, detail: str
) -> None:
    failure = refused_inside(said, "its answer", missing)
    assert (failure.kind, failure.counts, failure.detail) == (kind, counts, detail)


def test_a_prompt_that_is_too_long_is_so_inside_a_200_as_well() -> None:
    failure = refused_inside(Said("prompt is too long: 7 tokens"), "its answer", "choices")
    assert isinstance(failure, TooLong)
    assert failure.error.status == 400
