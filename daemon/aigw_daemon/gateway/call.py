"""The account of one request on the hot path: what it asked, who answered, how long, how it ended."""

from time import perf_counter, time

from aigw_daemon.gateway.answers import Usage
from aigw_daemon.gateway.controls import NONE, Controls
from aigw_daemon.gateway.decision import Decision
from aigw_daemon.gateway.failures import Met
from aigw_daemon.gateway.heartbeat import Heartbeat
from aigw_daemon.gateway.plans import Hop
from aigw_daemon.gateway.requests import Facts
from aigw_daemon.gateway.server.exchange import Exchange
from aigw_daemon.gateway.wire import ApiError
from aigw_daemon.link.messages import RequestRecord

CLIENT_LEFT_STATUS = 499
"""nginx's word for a client that went before its answer came; for records only, no client sees it."""

_MILLISECONDS = tuple(b"%.2f" % (hundredths / 100) for hundredths in range(1_000))
"""Formatted in advance: the usual overheads, in hundredths of a millisecond."""


class Call:
    """Filled in as a request goes along. Times inside are of the monotonic clock, in seconds."""

    facts: Facts
    """Of its body, once that was read."""
    # What most requests never change stands here, once: setting it in each of them would take longer than parsing it.
    model = ""
    stream = False
    controls: Controls = NONE
    attempts = 0
    decision: Decision | None = None
    hop: Hop | None = None
    """The candidate that is being asked, or that answers."""
    met: tuple[Met, ...] = ()
    status = 0
    ttft: float | None = None
    usage: Usage | None = None
    finish_reason: str | None = None
    error: str | None = None
    allowed: float | None = None
    """Seconds that it may take in all, where that isn't what the gateway allows every request."""
    heartbeat: Heartbeat | None = None
    _asked = 0.0
    _waited = 0.0
    _overhead: float | None = None

    def __init__(self, request_id: bytes, endpoint: str, exchange: Exchange) -> None:
        self.id = request_id
        self.endpoint = endpoint
        self.exchange = exchange
        self._began = perf_counter()

    @property
    def at(self) -> float:
        """When it arrived, seconds since the epoch."""
        return time() - (perf_counter() - self._began)

    def allow(self, seconds: float | None) -> None:
        """Set a deadline of its own, counted from its arrival; None keeps the gateway's."""
        if seconds is not None:
            self.allowed = seconds
            self.exchange.allow(seconds - (perf_counter() - self._began))

    def ask(self, hop: Hop) -> None:
        """An attempt begins: the time until `first_byte` or `end_wait` is the upstream's."""
        self.hop = hop
        self.attempts += 1
        self._asked = perf_counter()

    def first_byte(self) -> None:
        """The upstream's answer begins."""
        now = perf_counter()
        self.ttft = now - self._began
        self._waited += now - self._asked
        self._asked = now

    def begin_wait(self) -> None:
        """What follows is a wait for somebody else, until `end_wait`."""
        self._asked = perf_counter()

    def end_wait(self) -> None:
        """The time since `ask`, `first_byte`, `begin_wait` or the last `end_wait` was not the gateway's."""
        now = perf_counter()
        self._waited += now - self._asked
        self._asked = now

    def answer_head(self, content_type: bytes, hop: Hop) -> bytes:
        """Status line and header lines of a 200; with this the overhead is settled."""
        self.status = 200
        self._overhead = overhead = perf_counter() - self._began - self._waited
        hundredths = int(overhead * 1e5)
        shown = _MILLISECONDS[hundredths] if 0 <= hundredths < len(_MILLISECONDS) else b"%.2f" % (overhead * 1e3)
        head = hop.answer_head(content_type, self.attempts)
        return b"%bx-aigw-request-id: %b\r\nx-aigw-overhead-ms: %b\r\n" % (head, self.id, shown)

    def early_head(self, content_type: bytes, hop: Hop) -> bytes:
        """The same in the midst of a wait, for an answer that is promised before it is there."""
        self.end_wait()
        return self.answer_head(content_type, hop)

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
        return b"x-aigw-attempts: %d\r\nx-aigw-request-id: %b\r\n" % (self.attempts, self.id)

    def record(self) -> RequestRecord:
        """What is kept of it."""
        duration = perf_counter() - self._began
        overhead = self._overhead if self._overhead is not None else duration - self._waited
        hop, usage = self.hop, self.usage
        return RequestRecord(
            id=self.id.decode(),
            at=self.at,
            endpoint=self.endpoint,
            model=self.model,
            status=self.status,
            stream=self.stream,
            duration_ms=duration * 1e3,
            overhead_ms=max(0.0, overhead) * 1e3,
            backend=hop.candidate.backend if hop else None,
            upstream_model=hop.candidate.model if hop else None,
            attempts=self.attempts,
            ttft_ms=self.ttft * 1e3 if self.ttft is not None else None,
            prompt_tokens=usage.prompt_tokens if usage else None,
            completion_tokens=usage.completion_tokens if usage else None,
            finish_reason=self.finish_reason,
            error=self.error,
            client=self.exchange.client,
        )
