"""The account of one request on the hot path: what it asked, who answered, how long, how it ended."""

from http import HTTPStatus
from time import perf_counter, time

from aigw_daemon.gateway.answers import Usage
from aigw_daemon.gateway.failures import Met
from aigw_daemon.gateway.live import Hop
from aigw_daemon.gateway.routing import Decision
from aigw_daemon.gateway.wire import status_line
from aigw_daemon.link.messages import RequestRecord

CLIENT_LEFT_STATUS = 499
"""nginx's word for a client that went before its answer came; for records only, no client sees it."""

_OK = status_line(HTTPStatus.OK)


class Call:
    """Filled in as a request goes along. Times inside are of the monotonic clock, in seconds."""

    __slots__ = (
        "_at",
        "_began",
        "_overhead",
        "_waited",
        "attempts",
        "client",
        "decision",
        "endpoint",
        "error",
        "finish_reason",
        "hop",
        "id",
        "met",
        "model",
        "status",
        "stream",
        "ttft",
        "usage",
    )

    def __init__(self, request_id: bytes, endpoint: str, client: str | None) -> None:
        self.id = request_id
        self.endpoint = endpoint
        self.client = client
        self._at = time()
        self._began = perf_counter()
        self._waited = 0.0
        self._overhead: float | None = None
        self.model = ""
        self.stream = False
        self.attempts = 0
        self.decision: Decision | None = None
        self.hop: Hop | None = None
        """The candidate that is being asked, or that answers."""
        self.met: list[Met] = []
        self.status = 0
        self.ttft: float | None = None
        self.usage: Usage | None = None
        self.finish_reason: str | None = None
        self.error: str | None = None

    @property
    def at(self) -> float:
        """When it arrived, seconds since the epoch."""
        return self._at

    def begin_attempt(self, hop: Hop) -> float:
        """Count an attempt; returns its beginning, for `end_wait`."""
        self.hop = hop
        self.attempts += 1
        return perf_counter()

    def end_wait(self, since: float) -> None:
        """The time since then went by waiting for somebody else, not in the gateway."""
        self._waited += perf_counter() - since

    def first_byte(self) -> None:
        """The upstream's answer begins."""
        self.ttft = perf_counter() - self._began

    def answer_head(self, content_type: bytes, hop: Hop) -> bytes:
        """Status line and header lines of a 200; with this the overhead is settled."""
        self.status = 200
        self._overhead = perf_counter() - self._began - self._waited
        return (
            b"%bcontent-type: %b\r\n%bx-aigw-attempts: %d\r\nx-aigw-request-id: %b\r\nx-aigw-overhead-ms: %.2f\r\n"
            % (_OK, content_type, hop.answer_lines, self.attempts, self.id, self._overhead * 1e3)
        )

    def own_lines(self) -> bytes:
        """Header lines of an answer that is an error."""
        return b"x-aigw-attempts: %d\r\nx-aigw-request-id: %b\r\n" % (self.attempts, self.id)

    def record(self) -> RequestRecord:
        """What is kept of it."""
        duration = perf_counter() - self._began
        overhead = self._overhead if self._overhead is not None else duration - self._waited
        hop, usage = self.hop, self.usage
        return RequestRecord(
            id=self.id.decode(),
            at=self._at,
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
            client=self.client,
        )
