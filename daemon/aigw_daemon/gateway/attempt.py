"""One attempt: a candidate is asked, and its answer read as far as it must be before anything reaches the client.

It ends in an answer, in `AttemptFailed` (the next candidate may try) or in `ApiError` (the client's fault: nobody else
is asked). Whoever starts one has taken a slot of the hop's lane; the attempt gives it back, or the stream does at its
end. Cancelling closes the upstream connection at once (rule B12).
"""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic, time
from typing import NoReturn, TypeVar

import msgspec

from aigw_daemon.gateway.account import Account
from aigw_daemon.gateway.answers import decode_answer, lack
from aigw_daemon.gateway.breaker import Failure, Permit
from aigw_daemon.gateway.cache.convert import JSON_TYPE, MadeStream, made_stream, made_whole
from aigw_daemon.gateway.cache.deltas import NoOtherForm
from aigw_daemon.gateway.call import STREAM_TYPE
from aigw_daemon.gateway.failures import AttemptFailed, Kind, failed_exchange
from aigw_daemon.gateway.kept_headers import kept_lines
from aigw_daemon.gateway.plans import Hop
from aigw_daemon.gateway.refusals import Said, refusal, refused_inside, upstream_error
from aigw_daemon.gateway.requests import ABSENT, THREAD_BYTES, rewritten
from aigw_daemon.gateway.retry_after import wait_of
from aigw_daemon.gateway.streaming import BOM, StreamScan, opens_events
from aigw_daemon.gateway.upstream.base import Response, Upstream, UpstreamError
from aigw_daemon.gateway.wire import BAD_JSON, ApiError
from aigw_daemon.link.messages import CHAT, STREAMED

MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""A whole answer is held until it is complete, so that a truncated one can still fall back."""
MAX_ERROR_BYTES = 256 * 1024
MAX_PREAMBLE_BYTES = 1024 * 1024
"""What an engine may send before its stream's first event, such as comments: it is held until then."""

Form = TypeVar("Form")
_OK = 200
# A number, and booleans in the hop: looking up a member of an enum costs more than the comparison (Python 3.11).


class Whole(msgspec.Struct):
    """A complete answer."""

    hop: Hop
    body: bytes
    content_type: bytes
    made: MadeStream | None = None
    """Its form as a stream, where one was asked for and the engine answered in one piece."""


class Streamed(msgspec.Struct):
    """A stream that has begun: its first events, and where the rest comes from."""

    hop: Hop
    permit: Permit
    response: Response
    scan: StreamScan
    first: bytes
    counted: bool
    """Whether the engine was asked for usage."""

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
    add_usage = call.stream and facts.usage_open and not hop.usage.refused
    response: Response | None = None
    call.ask(hop)
    try:
        if add_usage or hop.as_it_is != facts.model or facts.cache is not ABSENT:
            body = await rewritten(body, facts, hop.model, add_usage=add_usage, params=hop.params)
        response = await upstream.request(hop.address, hop.request_head, body)
        call.first_byte()
        call.upstream_lines = kept_lines(response.headers)
        lane.relayed += 1
        if response.status != _OK:
            response = await _refused(upstream, call, hop, response, added=add_usage)
            add_usage = False
        if call.stream:
            return await _begin_stream(call, hop, permit, response, added=add_usage)
        content = response.body_if_complete()
        if content is None:
            content = await response.read(MAX_ANSWER_BYTES)
            call.end_wait()
        if not content.startswith(b"{") and call.endpoint in STREAMED and opens_events(content, labelled=False):
            content = await _whole_of_events(call, hop, content)
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
    return Whole(hop, content, _json_type(response))


async def _refused(upstream: Upstream, call: Account, hop: Hop, response: Response, *, added: bool) -> Response:
    """Raise what an answer of another status says; but ask once more if the usage field that we ``added`` may be why.

    What ``response`` holds is read by then.
    """
    try:
        await _refuse(hop, response)
    except ApiError as error:
        if not added or not hop.usage.may_be_cause(hop.model, error):
            raise
    body = await rewritten(call.body, call.facts, hop.model, add_usage=False, params=hop.params)
    call.attempts += 1
    again = await upstream.request(hop.address, hop.request_head, body)
    if again.status != _OK:
        try:
            await _refuse(hop, again)
        finally:
            again.close()
    hop.usage.refused = True
    return again


async def _refuse(hop: Hop, response: Response) -> NoReturn:
    said = _said(hop, await response.read(MAX_ERROR_BYTES))
    raise refusal(response.status, said, wait_of(response.headers, time()))


def _said(hop: Hop, body: bytes) -> Said:
    return upstream_error(body).redacted(hop.redacted)


async def _begin_stream(
    call: Account, hop: Hop, permit: Permit, response: Response, *, added: bool
) -> Whole | Streamed:
    """Read up to the first event with a choice, so that an error in its place can still fall back (rule B2).

    A stream is recognised by its bytes, since some engines label it wrongly or answer in one piece. ``added``: the
    gateway has asked for usage.
    """
    opening = await response.chunk() or b""
    is_stream = opens_events(opening, labelled=response.content_type == STREAM_TYPE)
    if is_stream is None:
        opening, is_stream = await _more_of(response, opening)
    opening = opening.removeprefix(BOM)
    if not is_stream:
        return await _in_one_piece(call, hop, permit, response, opening)
    facts = call.facts
    scan = StreamScan(drop_usage=added and not call.shared, shared=call.shared, choices=facts.n or 1)
    first = scan.feed(opening) if opening else b""
    while not scan.begun and scan.error is None:
        if len(first) > MAX_PREAMBLE_BYTES:
            what = f"its stream sent {MAX_PREAMBLE_BYTES} bytes without an answer"
            raise AttemptFailed(Kind.FAILED, what, counts=Failure.BAD_ANSWER)
        chunk = await response.chunk()
        if chunk is None:
            first += scan.end()
            break
        hop.lane.relayed += 1
        first += scan.feed(chunk)
    call.end_wait()
    if scan.begun:
        if added:
            hop.usage.accept(hop.model)
        if not hop.breaker.closed:
            # It lives: others need not wait for the end of the stream that tried it.
            hop.breaker.succeeded(permit, monotonic())
        return Streamed(hop, permit, response, scan, first, counted=added or facts.usage_asked)
    if scan.error is not None:
        raise refused_inside(Said(hop.redacted(scan.error)), "the first event of its stream")
    what = "its stream ended without an answer"
    raise AttemptFailed(Kind.FAILED, what, counts=Failure.TRUNCATED, passing=True, lost=True)


async def _more_of(response: Response, opening: bytes) -> tuple[bytes, bool]:
    """More of a body, until it can be told whether it is a stream of events."""
    labelled = response.content_type == STREAM_TYPE
    while len(opening) <= MAX_PREAMBLE_BYTES and (chunk := await response.chunk()) is not None:
        opening += chunk
        if (is_stream := opens_events(opening, labelled=labelled)) is not None:
            return opening, is_stream
    return opening, labelled


async def _in_one_piece(call: Account, hop: Hop, permit: Permit, response: Response, opening: bytes) -> Whole:
    """The answer of an engine that doesn't stream, with the stream that was asked for made of it."""
    content = opening + await response.read(MAX_ANSWER_BYTES)
    call.end_wait()
    _check_whole(call, hop, content)
    made = await _in_other_form(made_stream, call, content)
    hop.lane.leave()
    if hop.breaker.failures:
        hop.breaker.succeeded(permit, monotonic())
    return Whole(hop, content, _json_type(response), made)


async def _whole_of_events(call: Account, hop: Hop, content: bytes) -> bytes:
    """The whole answer that was asked for, of a stream that came in its place."""
    scan = StreamScan(drop_usage=False, choices=call.facts.n or 1)
    body = scan.feed(content.removeprefix(BOM)) + scan.end()
    if scan.error is not None:
        raise refused_inside(Said(hop.redacted(scan.error)), "its answer")
    if not (scan.begun and scan.finished):
        what = "its answer is a stream that was cut"
        raise AttemptFailed(Kind.FAILED, what, counts=Failure.TRUNCATED, passing=True, lost=True)
    return await _in_other_form(made_whole, call, body)


async def _in_other_form(make: Callable[..., Form], call: Account, content: bytes) -> Form:
    chat = call.endpoint == CHAT
    try:
        if len(content) <= THREAD_BYTES:
            return make(content, chat=chat)
        return await asyncio.to_thread(make, content, chat=chat)
    except NoOtherForm as error:
        what = f"its answer has not the form that was asked for, and can't be brought into it: {error}"
        raise AttemptFailed(Kind.FAILED, what, counts=Failure.BAD_ANSWER) from error


def _json_type(response: Response) -> bytes:
    """The content type of a body that has been read as JSON, whatever it was labelled."""
    label = response.header(b"content-type")
    return label if label is not None and b"json" in label else JSON_TYPE.encode()


def _check_whole(call: Account, hop: Hop, content: bytes) -> None:
    """An empty answer or an error inside a 200 is a failure (rule B2); what else it says is noted."""
    try:
        answer = decode_answer(content)
    except BAD_JSON as error:
        what = "is empty" if not content.strip() else f"is not an answer ({error})"
        raise AttemptFailed(Kind.FAILED, f"its answer {what}", counts=Failure.BAD_ANSWER) from error
    if answer.error is not None or not answer.choices:
        missing = lack(call.endpoint, answer, call.body)
        if missing is not None or answer.is_error:
            said = _said(hop, content) if len(content) <= MAX_ERROR_BYTES else Said(None)
            raise refused_inside(said, "its answer", missing)
    call.usage = answer.usage
    for choice in answer.choices or ():
        call.finish_reason = call.finish_reason or choice.finish_reason
