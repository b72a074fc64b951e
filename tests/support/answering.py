"""An engine's whole and streamed answers to every endpoint, each in its own shape, for requests that nobody wrote."""

import asyncio

import msgspec

from tests.support.fake_engine import CHAT_ANSWER, DONE, FINISH, HELLO, EngineRequest, stream, whole

COMPLETION = (
    b'{"id":"cmpl-1","object":"text_completion","created":1700000000,"model":"m",'
    b'"choices":[{"index":0,"text":"Hi","finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}'
)
EMBEDDINGS = (
    b'{"object":"list","model":"m","data":[{"object":"embedding","index":0,"embedding":[0.25,-1]}],'
    b'"usage":{"prompt_tokens":3,"total_tokens":3}}'
)
RERANK = b'{"model":"m","results":[{"index":0,"relevance_score":0.5}],"usage":{"prompt_tokens":3,"total_tokens":3}}'

_WHOLE = {
    b"/chat/completions": CHAT_ANSWER,
    b"/completions": COMPLETION,
    b"/embeddings": EMBEDDINGS,
    b"/rerank": RERANK,
}


async def answers_anything(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
    """A behaviour: what the path asks for, as a stream where the body says so."""
    path = request.head.split(b" ", 2)[1].removeprefix(b"/v1")
    streamed = msgspec.json.decode(request.body).get("stream") is True and path.endswith(b"completions")
    writer.write(stream(HELLO, FINISH, DONE) if streamed else whole(_WHOLE[path]))
