"""What daemon and gateway worker say to each other of kept answers: the operator's questions, and what came of them.

The daemon asks one worker with a `CacheCommand`; its `CacheReply` bears the same number. Times are in seconds.
"""

from typing import Literal

import msgspec


class CacheCommand(msgspec.Struct, frozen=True, tag="cache_command"):
    """What the operator wants of the cache."""

    id: int
    kind: Literal["stats", "clear", "show"]
    model: str | None = None
    """Clear only answers to requests for this model, as clients named it."""
    older_than: float | None = None
    """Clear only answers that are older."""
    key: str | None = None
    """Show what is kept under the key that begins so, in hexadecimal digits."""


class CacheCounts(msgspec.Struct):
    """What the cache did for one model, since the worker began: the worker's own counters, which go on counting."""

    hits: int = 0
    misses: int = 0
    coalesced: int = 0
    """Requests that shared another one's upstream call."""
    stored: int = 0
    stored_bytes: int = 0
    saved_tokens: int = 0
    """Prompt and completion tokens of the answers that no engine was asked for."""
    saved_seconds: float = 0.0


class MemoryView(msgspec.Struct, frozen=True):
    """The answers in the worker's own process."""

    entries: int
    bytes: int
    limit: int


class RedisView(msgspec.Struct, frozen=True):
    """The Redis behind it, as the worker meets it."""

    where: str
    """Without user and password."""
    connected: bool
    why: str | None = None
    """Why it can't be asked."""
    entries: int | None = None
    """Answers in it; None where it couldn't be asked, like the next two."""
    bytes: int | None = None
    """Of memory, for all that it holds."""
    limit: int | None = None
    """The most that it may take; None where it has no limit, too."""
    unanswered: int = 0
    """Looks that got no reply in time, since the worker began."""
    unstored: int = 0
    """Answers that could not be put into it."""


class CacheStats(msgspec.Struct, frozen=True):
    """All that there is to count."""

    since: float
    """When the worker began to count, since the epoch."""
    memory: MemoryView
    models: dict[str, CacheCounts] = {}
    """By the names that clients used."""
    redis: RedisView | None = None


class KeptAnswer(msgspec.Struct, frozen=True):
    """One kept answer."""

    key: str
    name: str
    """The model as the client asked for it."""
    backend: str
    model: str
    """As that backend knows it."""
    endpoint: str
    at: float
    """When it was complete, since the epoch."""
    seconds: float
    """What it took."""
    ttl_left: float
    stream: bool
    size: int
    """Of its body, in bytes."""
    text: str
    """What it says, as far as it says text; cut where it is long."""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    finish: str | None = None


class CacheReply(msgspec.Struct, frozen=True, tag="cache_reply"):
    """The answer to one command: what was asked for, or the problem in a sentence."""

    id: int
    stats: CacheStats | None = None
    removed: int | None = None
    """How many answers were removed."""
    answer: KeptAnswer | None = None
    problem: str | None = None
    keys: tuple[str, ...] = ()
    """Where a key's beginning stands for several: some of them."""
