"""One client's request on the hot path: its account, its answer's head, its errors, and the record that is kept."""

from collections.abc import Mapping
from time import perf_counter, time
from typing import Final, get_args

from aigw_daemon.gateway.account import Account
from aigw_daemon.gateway.cache.policy import Word
from aigw_daemon.gateway.heartbeat import Heartbeat
from aigw_daemon.gateway.plans import Caching, Hop
from aigw_daemon.gateway.server.exchange import Exchange
from aigw_daemon.gateway.wire import ID_LINES, NO_STORE, ApiError, status_line
from aigw_daemon.link.messages import RequestRecord

CLIENT_LEFT_STATUS = 499
"""nginx's word for a client that went before its answer came; for records only, no client sees it."""

STREAM_TYPE = b"text/event-stream"
_STREAM_LINES = b"x-accel-buffering: no\r\n"
"""Else a proxy in front holds events back."""
_OK = status_line(200)
_KEPT_HEAD = b"%bcontent-type: %b\r\n%b%bage: %d\r\n%bx-aigw-attempts: 0\r\n" + ID_LINES + b"x-aigw-overhead-ms: %b\r\n"
_ANSWER_HEAD = b"%b%b%b" + ID_LINES + b"x-aigw-overhead-ms: %b\r\n"
_CACHE_LINES: Final[Mapping[Word, bytes]] = {word: f"x-aigw-cache: {word}\r\n".encode() for word in get_args(Word)}
_MILLISECONDS = tuple(b"%.2f" % (hundredths / 100) for hundredths in range(1_000))
"""Formatted in advance: the usual overheads, in hundredths of a millisecond."""


class Call(Account):
    """One client's request. Its clock is its exchange: an attribute less to be set for every request."""

    clock: Exchange

    status = 0
    error: str | None = None
    cache: Word = "off"
    """What the cache had to do with the answer, and the header lines that say so."""
    caching: Caching | None = None
    _cache_lines = b"x-aigw-cache: off\r\n"
    _answered: tuple[str, str] | None = None
    _heartbeat: Heartbeat | None = None
    _overhead: float | None = None

    @property
    def exchange(self) -> Exchange:
        """The client's request and the way to answer it, which holds its deadline as well."""
        return self.clock

    @property
    def at(self) -> float:
        """When it arrived, seconds since the epoch."""
        return time() - self.elapsed

    @property
    def committed(self) -> bool:
        """See Account."""
        return self.exchange.streaming

    def promise(self, hop: Hop, what: str) -> None:
        """See Account: a stream gets a sign of life now and then."""
        if self.stream:
            beat = self._heartbeat = self._heartbeat or Heartbeat(self.exchange)
            beat.say(what, lambda: self._early_head(hop))

    def retract(self) -> None:
        """See Account: only a stream that has begun already goes on getting signs of life."""
        if not self.exchange.streaming:
            self.settle()

    def settle(self) -> None:
        """See Account."""
        if self._heartbeat is not None:
            self._heartbeat.stop()
            self._heartbeat = None

    def ending(self) -> None:
        """See Account."""
        self.exchange.ending()

    def answer_head(self, content_type: bytes, hop: Hop) -> bytes:
        """Status line and header lines of a 200; with this the overhead is settled."""
        self.status = 200
        self._overhead = overhead = perf_counter() - self._began - self._waited
        head = hop.answer_head(content_type, self.attempts)
        name = self.id
        return _ANSWER_HEAD % (head, self._cache_lines, self.upstream_lines, name, name, _shown(overhead))

    def kept_head(self, content_type: str, lines: bytes, age: int) -> bytes:
        """The same for an answer from the cache; ``lines`` say whose it was. ``age`` is in seconds."""
        self.status = 200
        self._overhead = overhead = perf_counter() - self._began
        more = _STREAM_LINES if self.stream else b""
        values = (_OK, content_type.encode(), NO_STORE, lines, age, more, self.id, self.id, _shown(overhead))
        return _KEPT_HEAD % values

    def mark(self, word: Word, key: bytes | None = None) -> None:
        """What the cache has to do with it, and under which key."""
        self.cache = word
        self._cache_lines = _CACHE_LINES[word]
        if key is not None:
            self._cache_lines += b"x-aigw-cache-key: %b\r\n" % key.hex().encode()

    def answered_by(self, backend: str, model: str) -> None:
        """The cache has the answer, which was theirs."""
        self._answered = (backend, model)

    def take_over(self, account: Account, *, leader: bool) -> None:
        """What a shared call has come to, as far as it concerns this request."""
        self.hop = account.hop
        self.decision = account.decision
        self.usage = account.usage
        self.finish_reason = account.finish_reason
        self.upstream_lines = account.upstream_lines
        if leader:
            self.attempts = account.attempts
            self.met = account.met

    def stream_head(self, hop: Hop) -> bytes:
        """The same for a stream."""
        return self.answer_head(STREAM_TYPE, hop) + _STREAM_LINES

    def _early_head(self, hop: Hop) -> bytes:
        """The same in the midst of a wait, for an answer that is promised before it is there."""
        self.end_wait()
        return self.stream_head(hop)

    def fail(self, error: ApiError) -> None:
        """An error answer, or where a stream has begun, one error event and no ``[DONE]``."""
        self.error = error.summary()
        exchange = self.exchange
        if exchange.streaming:
            exchange.write(error.event())
            exchange.finish()
        elif not exchange.complete:
            self.status = error.status
            exchange.respond(error.head() + self._own_lines(), error.body())

    def _own_lines(self) -> bytes:
        """Header lines of an answer that is an error."""
        lines = (self._cache_lines, self.upstream_lines, self.attempts, self.id, self.id)
        return (b"%b%bx-aigw-attempts: %d\r\n" + ID_LINES) % lines

    def record(self) -> RequestRecord:
        """What is kept of it."""
        duration = self.elapsed
        overhead = self._overhead if self._overhead is not None else duration - self._waited
        usage = self.usage
        backend, model = self._answered or (_named(self.hop) if self.hop is not None else (None, None))
        return RequestRecord(
            id=self.id.decode(),
            at=self.at,
            endpoint=self.endpoint,
            model=self.model,
            status=self.status,
            stream=self.stream,
            duration_ms=duration * 1e3,
            overhead_ms=max(0.0, overhead) * 1e3,
            backend=backend,
            upstream_model=model,
            attempts=self.attempts,
            ttft_ms=self.ttft * 1e3 if self.ttft is not None else None,
            prompt_tokens=usage.prompt_tokens if usage else None,
            completion_tokens=usage.completion_tokens if usage else None,
            finish_reason=self.finish_reason,
            error=self.error,
            client=self.exchange.client,
            cache=self.cache,
        )


def _shown(seconds: float) -> bytes:
    hundredths = int(seconds * 1e5)
    return _MILLISECONDS[hundredths] if 0 <= hundredths < len(_MILLISECONDS) else b"%.2f" % (seconds * 1e3)


def _named(hop: Hop) -> tuple[str, str]:
    return hop.candidate.backend, hop.model
