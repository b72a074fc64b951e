"""A kept answer, and which answers may be kept (rule B18). Pure.

Kept are complete answers only: each choice says something and ended in ``stop`` or ``tool_calls``, a stream was read to
its end, nothing in it says error, and it is no longer than the limit. Anything that isn't understood is not kept.
"""

from typing import Any, Final

import msgspec

from aigw_daemon.gateway.answers import Usage
from aigw_daemon.gateway.cache.events import DONE, Event, events
from aigw_daemon.gateway.cache.policy import says_something
from aigw_daemon.gateway.usage_frame import usage_of_timings, without_frame
from aigw_daemon.gateway.wire import BAD_JSON
from aigw_daemon.link.messages import CHAT, COMPLETIONS, EMBEDDINGS, RERANK

MAX_ENTRY_BYTES: Final = 1024 * 1024
"""The default limit of an answer's body."""
COMPLETE: Final = frozenset({"stop", "tool_calls"})
STREAM_TYPE: Final = "text/event-stream"


class Origin(msgspec.Struct, frozen=True):
    """Where an answer comes from."""

    key: bytes
    """Under which it is kept; compared on every read from a store that others can write to."""
    endpoint: str
    backend: str
    """What actually answered, which needn't be what was asked first."""
    model: str
    """As that backend knows it."""
    name: str
    """As the client asked for it."""
    created: float
    """When the answer was complete, seconds since the epoch."""
    seconds: float
    """What it took."""
    ttl: float
    """Seconds that it is kept."""
    choices: int = 1
    """How many were asked for."""


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """An answer as it came, and what is shown and counted of it."""

    origin: Origin
    stream: bool
    content_type: str
    body: bytes
    """The bytes of the answer; of a stream all its events, the usage frame among them."""
    usage: Usage | None = None
    finish: str | None = None
    usage_frame: tuple[int, int] | None = None
    """Place in a stream's body of what only clients that asked for usage get: the usage frame, with the event before it
    if `unasked` isn't empty."""
    unasked: bytes = b""
    """What other clients get in its place."""
    counted: bool = True
    """Whether the engine was asked for a stream's usage."""

    def replay(self, *, usage: bool) -> bytes:
        """The body for a client that asked for a stream's usage frame, or didn't."""
        if usage or self.usage_frame is None:
            return self.body
        begin, end = self.usage_frame
        return self.body[:begin] + self.unasked + self.body[end:]

    def serves(self, *, stream: bool, usage: bool) -> bool:
        """Whether it has what a request of this kind is answered with: a whole answer always has its usage."""
        return self.counted or (stream and not usage)

    @property
    def tokens(self) -> int:
        """All tokens that the engine had to handle for it."""
        return 0 if self.usage is None else (self.usage.prompt_tokens or 0) + (self.usage.completion_tokens or 0)


class _Call(msgspec.Struct):
    index: int = 0


class _Message(msgspec.Struct):
    tool_calls: list[_Call] | None = None
    content: Any = None
    function_call: Any = None
    refusal: Any = None
    audio: Any = None
    images: Any = None

    @property
    def says_something(self) -> bool:
        return says_something(self.content, self.tool_calls, self.function_call, self.refusal, self.audio, self.images)


class _Choice(msgspec.Struct):
    """Read as far as `convert` relies on it, so that an answer of another shape is not kept."""

    index: int = 0
    finish_reason: str | None = None
    message: _Message | None = None
    delta: _Message | None = None
    text: str | None = None
    logprobs: dict[str, msgspec.Raw] | None = None

    @property
    def says_something(self) -> bool:
        message = self.message or self.delta
        return says_something(self.text) or (message is not None and message.says_something)


class _Answer(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: Usage | None = None
    error: Any = None
    data: list[msgspec.Raw] | None = None
    results: list[msgspec.Raw] | None = None


_decode = msgspec.json.Decoder(_Answer).decode


def whole_entry(origin: Origin, body: bytes, content_type: str, limit: int = MAX_ENTRY_BYTES) -> Entry | None:
    """The entry for a whole answer of status 200, or None if it may not be kept."""
    if len(body) > limit:
        return None
    try:
        answer = _decode(body)
    except BAD_JSON:
        return None
    if answer.error is not None or not _is_complete(origin.endpoint, answer):
        return None
    finish = answer.choices[0].finish_reason if answer.choices else None
    return Entry(origin, False, content_type, body, answer.usage, finish)


def _is_complete(endpoint: str, answer: _Answer) -> bool:
    match endpoint:
        case _ if endpoint in {CHAT, COMPLETIONS}:
            choices = answer.choices or []
            return bool(choices) and all(
                choice.finish_reason in COMPLETE and choice.says_something for choice in choices
            )
        case _ if endpoint == EMBEDDINGS:
            return bool(answer.data)
        case _ if endpoint == RERANK:
            return bool(answer.results)
        case _:
            return False


def stream_entry(origin: Origin, body: bytes, limit: int = MAX_ENTRY_BYTES, *, counted: bool = True) -> Entry | None:
    """The entry for a stream of status 200 that was read to its end, or None if it may not be kept.

    ``body`` is what the engine sent, with the usage frame if it was asked for that (``counted``), whoever wanted it.
    """
    if len(body) > limit:
        return None
    reading = _Reading(body)
    try:
        for event in events(body):
            reading.take(event)
    except BAD_JSON:
        return None
    if not reading.is_complete(origin.choices):
        return None
    frame, unasked = reading.usage_frame, reading.unasked
    return Entry(origin, True, STREAM_TYPE, body, reading.usage, reading.finish, frame, unasked, counted)


class _Reading:
    """What the events of a stream say. Raises ValueError for a stream that may not be kept."""

    def __init__(self, body: bytes) -> None:
        self.usage: Usage | None = None
        self.usage_frame: tuple[int, int] | None = None
        self.unasked = b""
        self._body = body
        self._finishes: dict[int, str | None] = {}
        self._saying: set[int] = set()
        """Choices with any content so far."""
        self._before: Event | None = None
        """The event before the present one, if it finishes a choice."""
        self._done = False

    @property
    def finish(self) -> str | None:
        return next(iter(self._finishes.values()), None)

    def is_complete(self, choices: int) -> bool:
        """An engine that says ``[DONE]`` may have given fewer choices than were asked for: Ollama ignores ``n``."""
        if not self._finishes or not all(finish in COMPLETE for finish in self._finishes.values()):
            return False
        if self._finishes.keys() != self._saying:
            return False
        return self._done or len(self._finishes) >= choices

    def take(self, event: Event) -> None:
        if self._done:
            raise ValueError("there is something after [DONE]")
        if event.data == DONE:
            self._done = True
            return
        answer = _decode(event.data)
        if answer.error is not None:
            raise ValueError("it is an error")
        for choice in answer.choices or ():
            self._finishes[choice.index] = choice.finish_reason or self._finishes.get(choice.index)
            if choice.index not in self._saying and choice.says_something:
                self._saying.add(choice.index)
        if answer.usage is not None:
            self._take_usage(answer, event)
        elif self.usage is None:
            self.usage = usage_of_timings(event.data)
        self._before = event if any(choice.finish_reason for choice in answer.choices or ()) else None

    def _take_usage(self, answer: _Answer, event: Event) -> None:
        self.usage = answer.usage
        if answer.choices:
            return
        if self.usage_frame is not None:
            raise ValueError("there are two usage frames")
        self.usage_frame = (event.begin, event.end)
        if (before := self._before) is not None and before.end == event.begin:
            finish = self._body[before.begin : before.end]
            unasked = without_frame(finish, before.data, event.data)
            if unasked is not finish:
                self.usage_frame, self.unasked = (before.begin, event.end), unasked
