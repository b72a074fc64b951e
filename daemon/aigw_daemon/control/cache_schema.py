"""What the control API says of kept answers: what ``aigw cache`` prints with ``--json``. Times are in seconds."""

from aigw_daemon.control.schema import Message


class CacheCounters(Message, frozen=True):
    """What the cache did, for one model or for all, since the gateway worker began."""

    hits: int = 0
    misses: int = 0
    coalesced: int = 0
    """Requests that shared another one's call of an engine."""
    stored: int = 0
    stored_bytes: int = 0
    saved_tokens: int = 0
    """Prompt and completion tokens of answers that no engine was asked for."""
    saved_seconds: float = 0.0
    hit_rate: float | None = None
    """The part of the requests for which no engine was asked, from 0 to 1; None while there were none."""


class CacheModel(CacheCounters, frozen=True, kw_only=True):
    """One model, by the name that clients use."""

    model: str


class CacheMemory(Message, frozen=True):
    """The answers in the gateway's own process."""

    entries: int
    bytes: int
    limit_bytes: int


class CacheRedis(Message, frozen=True):
    """The Redis behind it, as the gateway meets it."""

    where: str
    managed: bool
    connected: bool
    why: str | None = None
    """Why it can't be asked."""
    entries: int | None = None
    bytes: int | None = None
    """Of memory, for all that it holds."""
    limit_bytes: int | None = None
    unanswered: int = 0
    """Looks that got no reply in time."""
    unstored: int = 0
    """Answers that could not be put into it."""


class CacheStatistics(Message, frozen=True, kw_only=True):
    """``aigw cache stats``."""

    mode: str
    ttl_s: float
    since: float
    """When the worker began to count, since the epoch."""
    total: CacheCounters
    models: tuple[CacheModel, ...] = ()
    """Those that were asked for most come first."""
    memory: CacheMemory
    redis: CacheRedis | None = None


class CacheClear(Message, frozen=True):
    """Forget answers: all, or those of a model and of an age."""

    model: str | None = None
    """As clients or backends name it."""
    older_than: float | None = None


class CacheCleared(Message, frozen=True):
    """How many answers were removed."""

    removed: int


class CacheAnswer(Message, frozen=True):
    """``aigw cache show``: one kept answer."""

    key: str
    model: str
    """As the client asked for it."""
    backend: str
    upstream_model: str
    """As the backend knows it."""
    endpoint: str
    at: float
    """When it was complete, since the epoch."""
    age_s: float
    ttl_left_s: float
    duration_s: float
    """What it took the engine."""
    stream: bool
    bytes: int
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    finish_reason: str | None = None
    text: str = ""
    """What it says, cut where it is long; empty where it has no text."""
