"""One attempt: a candidate is asked, and its answer read as far as it must be before anything reaches the client.

It ends in an answer, in `AttemptFailed` (the next candidate may try) or in `ApiError` (the client's fault: nobody else
is asked). Whoever starts one has taken a slot of the hop's lane; the attempt gives it back, or the stream does at its
end. Cancelling closes the upstream connection at once (rule B12).
"""

import asyncio
from collections.abc import Awaitable
from time import monotonic
from typing import NoReturn

import msgspec

from aigw_daemon.gateway.account import Account
from aigw_daemon.gateway.answers import decode_answer
from aigw_daemon.gateway.breaker import Failure, Permit
from aigw_daemon.gateway.call import STREAM_TYPE
from aigw_daemon.gateway.failures import (
    AttemptFailed,
    Kind,
    TooLong,
    failed_exchange,
    failed_status,
    is_clients_fault,
    is_too_long,
)
from aigw_daemon.gateway.kept_headers import kept_lines
from aigw_daemon.gateway.plans import Hop
from aigw_daemon.gateway.requests import ABSENT, rewritten
from aigw_daemon.gateway.streaming import StreamScan
from aigw_daemon.gateway.upstream.base import Response, Upstream, UpstreamError
from aigw_daemon.gateway.wire import BAD_JSON, Said, relayed_error, upstream_error

MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""A whole answer is held until it is complete, so that a truncated one can still fall back."""
MAX_ERROR_BYTES = 256 * 1024
MAX_PREAMBLE_BYTES = 1024 * 1024
"""What an engine may send before its stream's first event, such as comments: it is held until then."""

_OK = 200
# A number, and booleans in the hop: looking up a member of an enum costs more than the comparison (Python 3.11).


class Whole(msgspec.Struct):
    """A complete answer."""

    hop: Hop
    body: bytes
    content_type: bytes


class Streamed(msgspec.Struct):
    """A stream that has begun: its first events, and where the rest comes from."""

    hop: Hop
    permit: Permit
    response: Response
    scan: StreamScan
    first: bytes

    def close(self, *, cut: bool) -> None:
        """It has been passed on, or can't be: the backend is free of it. ``cut``: by the backend's own fault."""
        self.response.close()
        self.hop.lane.leave()
        breaker = self.hop.breaker
        if cut:
            breaker.failed(self.permit, Failure.TRUNCATED, monotonic())
        elif breaker.failures and self.scan.finished:
            breaker.succeeded(self.permit, monotonic())


async def in_time(attempt: Awaitable[Whole | Streamed], seconds: float) -> Whole | Streamed:
    """An attempt with a limit on its stream's first token."""
    try:
        async with asyncio.timeout(seconds):
            return await attempt
    except TimeoutError as error:
        what = f"its stream did not begin within {seconds:g} s"
        raise AttemptFailed(Kind.TIMED_OUT, what, counts=Failure.TIMEOUT) from error


async def attempt(upstream: Upstream, call: Account, hop: Hop, permit: Permit) -> Whole | Streamed:
    """Ask a candidate. All in one coroutine: each further one would cost every request as much as a parsed header."""
    facts, body, lane = call.facts, call.body, hop.lane
    add_usage = call.stream and not facts.usage_asked
    response: Response | None = None
    call.ask(hop)
    try:
        if add_usage or hop.as_it_is != facts.model or facts.cache is not ABSENT:
            body = await rewritten(body, facts, hop.model, add_usage=add_usage, params=hop.params)
        response = await upstream.request(hop.address, hop.request_head, body)
        call.first_byte()
        if lines := kept_lines(response.headers):
            call.upstream_lines = lines
        lane.relayed += 1
        if response.status != _OK:
            await _refuse(hop, response)
        if call.stream and response.content_type == STREAM_TYPE:
            scan = StreamScan(drop_usage=add_usage and not call.shared, choices=facts.n or 1)
            return await _begin_stream(call, hop, permit, response, scan)
        content = response.body_if_complete()
        if content is None:
            content = await response.read(MAX_ANSWER_BYTES)
            call.end_wait()
        _check_whole(call, hop, content)
    except BaseException as error:
        call.end_wait()
        lane.leave()
        if response is not None:
            response.close()
        if isinstance(error, UpstreamError):
            raise failed_exchange(error) from error
        raise
    lane.leave()
    if hop.breaker.failures:
        hop.breaker.succeeded(permit, monotonic())
    return Whole(hop, content, response.header(b"content-type") or b"application/json")


async def _refuse(hop: Hop, response: Response) -> NoReturn:
    said = _said(hop, await response.read(MAX_ERROR_BYTES))
    if is_clients_fault(response.status):
        error = relayed_error(response.status, said)
        raise TooLong(error) if is_too_long(said) else error
    retry_after = (response.header(b"retry-after") or b"").decode("latin-1")
    raise failed_status(response.status, said.message, retry_after)


def _said(hop: Hop, body: bytes) -> Said:
    return Said(*(hop.redacted(part) for part in upstream_error(body)))


async def _begin_stream(call: Account, hop: Hop, permit: Permit, response: Response, scan: StreamScan) -> Streamed:
    """Read up to the first event with data, so that an error in its place can still fall back (rule B2)."""
    first = b""
    while not scan.begun:
        chunk = await response.chunk()
        if chunk is None:
            break
        hop.lane.relayed += 1
        first += scan.feed(chunk)
        if scan.error is not None:
            break
        if len(first) > MAX_PREAMBLE_BYTES and not scan.begun:
            what = f"its stream sent {MAX_PREAMBLE_BYTES} bytes without an event"
            raise AttemptFailed(Kind.FAILED, what, counts=Failure.BAD_ANSWER)
    call.end_wait()
    if scan.begun:
        if not hop.breaker.closed:
            # It lives: others need not wait for the end of the stream that tried it.
            hop.breaker.succeeded(permit, monotonic())
        return Streamed(hop, permit, response, scan, first)
    if scan.error is not None:
        what = f"its stream began with an error: {hop.redacted(scan.error)}"
        raise AttemptFailed(Kind.FAILED, what, counts=Failure.SERVER_ERROR)
    raise AttemptFailed(Kind.FAILED, "its stream ended without an answer", counts=Failure.TRUNCATED, passing=True)


def _check_whole(call: Account, hop: Hop, content: bytes) -> None:
    """An empty answer or an error inside a 200 is a failure (rule B2); what else it says is noted."""
    try:
        answer = decode_answer(content)
    except BAD_JSON as error:
        what = "is empty" if not content.strip() else f"is not an answer ({error})"
        raise AttemptFailed(Kind.FAILED, f"its answer {what}", counts=Failure.BAD_ANSWER) from error
    if answer.error is not None:
        what = f"its answer is an error: {_said(hop, content).message}"
        raise AttemptFailed(Kind.FAILED, what, counts=Failure.SERVER_ERROR)
    call.usage = answer.usage
    for choice in answer.choices or ():
        call.finish_reason = call.finish_reason or choice.finish_reason
