"""Passes a stream on as it arrives. After its first byte nothing falls back: it ends whole, or with an error."""

import asyncio
from time import monotonic
from typing import Protocol

from aigw_daemon.gateway.account import Account
from aigw_daemon.gateway.attempt import Streamed, Whole
from aigw_daemon.gateway.call import Call
from aigw_daemon.gateway.streaming import StreamScan
from aigw_daemon.gateway.upstream.base import Response, UpstreamError
from aigw_daemon.gateway.wire import ApiError

FINISH_SECONDS = 0.1
"""A finish is held back so long for the event after it; engines send both at once."""


class Sink(Protocol):
    """Where a stream goes: to a client, or to all who share it."""

    @property
    def write_paused(self) -> bool:
        """Whether it has enough for now: then `drain` comes before more is written."""
        ...

    def write(self, data: bytes) -> None:
        """Take a piece, not empty."""
        ...

    async def drain(self) -> None:
        """Wait until it can take more."""
        ...


def respond(call: Call, answer: Whole) -> None:
    """A complete answer, to the client: as a stream if that is what it asked for."""
    exchange, made = call.exchange, answer.made
    if made is None:
        exchange.respond(call.answer_head(answer.content_type, answer.hop), answer.body)
        return
    body = made.replay(usage=call.facts.usage_asked)
    if exchange.streaming:
        # A sign of life has begun the stream.
        exchange.write(body)
        exchange.finish()
    else:
        exchange.respond(call.stream_head(answer.hop), body)


async def relay(call: Call, answer: Streamed) -> None:
    """Everything of a stream that has begun, to its end, to the client."""
    exchange = call.exchange
    if not exchange.streaming:
        exchange.start(call.stream_head(answer.hop))
    await pump(call, answer, exchange)
    exchange.finish()


async def pump(account: Account, answer: Streamed, sink: Sink) -> None:
    """Everything of a stream that has begun, to its end. Raises ApiError where it doesn't end whole (rule B17).

    A stream is whole when every choice has finished, however the connection ended. What is written ends at an event's
    boundary at any time.
    """
    scan = answer.scan
    cut: str | None = None
    ended = False
    try:
        if answer.first:
            sink.write(answer.first)
            _note_end(account, scan)
        try:
            await _pass_all(account, sink, answer)
        except UpstreamError as error:
            cut = str(error)
        if rest := scan.end():
            sink.write(rest)
        _note_end(account, scan)
        ended = True
    finally:
        answer.close(cut=ended and not (scan.finished and scan.error is None))
        account.usage, account.finish_reason = scan.usage, scan.finish_reason
    hop, name = answer.hop, answer.hop.candidate.backend
    if scan.error is not None:
        raise ApiError(500, f"{name} failed in mid-stream: {hop.redacted(scan.error)}")
    if not scan.finished:
        detail = cut or "it ended without a finish_reason"
        raise ApiError(500, f"the stream of {name} was cut: {detail}", code="stream_cut")


async def _pass_all(account: Account, sink: Sink, answer: Streamed) -> None:
    gap = answer.hop.gap_timeout
    if gap is None:
        await _pass_on(account, sink, answer, None)
        return
    watch = _GapWatch(sink, answer.response, gap)
    try:
        await _pass_on(account, sink, answer, watch)
    except UpstreamError as error:
        if watch.late:
            raise UpstreamError(f"nothing came for {gap:g} s") from error
        raise
    finally:
        watch.stop()


async def _pass_on(account: Account, sink: Sink, answer: Streamed, watch: "_GapWatch | None") -> None:
    scan, response, lane = answer.scan, answer.response, answer.hop.lane
    timer = _release_later(account, sink, scan) if scan.waiting else None
    try:
        while scan.error is None and (chunk := await response.chunk()) is not None:
            lane.relayed += 1
            if watch is not None:
                watch.last = monotonic()
            if passed := scan.feed(chunk):
                sink.write(passed)
            if scan.finish_reason is not None:
                _note_end(account, scan)
            if passed is not chunk and scan.waiting and timer is None:
                timer = _release_later(account, sink, scan)
            if sink.write_paused:
                await _until_taken(sink, answer)
    finally:
        if timer is not None:
            timer.cancel()


def _release_later(account: Account, sink: Sink, scan: StreamScan) -> asyncio.TimerHandle:
    """Pass on a finish that is held back even if no event follows it."""

    def release() -> None:
        if held := scan.release():
            sink.write(held)
            _note_end(account, scan)

    return asyncio.get_running_loop().call_later(FINISH_SECONDS, release)


def _note_end(account: Account, scan: StreamScan) -> None:
    """Once every finish was passed on: whoever hangs up now has the answer, and a record of it says how it ended."""
    if scan.finished and not scan.waiting:
        account.usage, account.finish_reason = scan.usage, scan.finish_reason
        account.ending()


class _GapWatch:
    """Ends a stream in which nothing comes for too long. One timer that looks now and then: none for each piece."""

    def __init__(self, sink: Sink, response: Response, gap: float) -> None:
        self.last = monotonic()
        """When the last piece came."""
        self.late = False
        self._sink = sink
        self._response = response
        self._gap = gap
        self._timer = asyncio.get_running_loop().call_later(gap, self._look)

    def stop(self) -> None:
        """The stream is over."""
        self._timer.cancel()

    def _look(self) -> None:
        if self._sink.write_paused:
            # It is the client who holds it up.
            self.last = monotonic()
        left = self._gap - (monotonic() - self.last)
        if left > 0:
            self._timer = asyncio.get_running_loop().call_later(left, self._look)
        else:
            self.late = True
            self._response.close()


async def _until_taken(sink: Sink, answer: Streamed) -> None:
    """Wait for a slow client; the engine, which is held up by it, must not be taken for a hung one."""
    answer.hop.lane.held += 1
    try:
        await sink.drain()
    finally:
        answer.hop.lane.held -= 1
