"""What a profile says of the cache, and of the Redis that aigw runs for it."""

from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field

from aigw_daemon.profile.backends import ProcessSection, Section
from aigw_daemon.profile.scalars import Duration, Secret, Size, check_redis, rule
from aigw_daemon.words import EngineKind

MANAGED: Final = Secret("managed")
"""In place of a URL: the daemon runs a Redis of its own."""
REDIS: Final = "redis"
"""The name of that process, in logs, events and the state file; no backend can have it."""
LEAST_REDIS_MEMORY: Final = 8 * 1024 * 1024
"""Redis itself takes one; below this it would have room for little else."""
LARGEST_PART: Final = 8
"""No answer takes more than this part of the gateway's memory for answers."""

CacheMode = Literal["on", "deterministic", "off"]


def _lasting(seconds: float) -> float:
    if seconds <= 0:
        raise rule("must be longer than 0", hint="to keep nothing, write off as the mode, or as cache of a route")
    return seconds


def _roomy(size: int) -> int:
    if size < LEAST_REDIS_MEMORY:
        raise rule(f"must be {LEAST_REDIS_MEMORY // 1024**2}MiB or more: Redis itself takes a part of it")
    return size


Lifetime = Annotated[Duration, AfterValidator(_lasting)]
"""Seconds that an answer is kept."""


class Cache(Section):
    """The response cache."""

    mode: CacheMode = Field(
        default="on",
        description="on: keep every complete answer; deterministic: only where asking again would give the same "
        "(temperature 0, a seed, embeddings, rerank); off: none. A route may say otherwise.",
    )
    ttl: Lifetime = Field(default=3600.0, description="How long an answer is kept.")
    redis: Annotated[Secret, AfterValidator(check_redis)] | None = Field(
        default=None,
        description="A redis://, rediss:// or unix:// URL, or managed: the daemon runs one; absent: in this process "
        "only.",
    )
    memory: Size = Field(default=64 * 1024 * 1024, description="What answers may take in the gateway's process.")
    redis_memory: Annotated[Size, AfterValidator(_roomy)] = Field(
        default=256 * 1024 * 1024, description="What they may take in a managed Redis."
    )
    max_answer: Size = Field(default=1024 * 1024, description="The largest answer that is kept.")
    split_by: tuple[Literal["user", "metadata", "litellm_metadata"], ...] = Field(
        default=(),
        description="Fields that don't change an answer, and by which answers are kept apart all the same.",
    )
    fallback_answers: bool = Field(
        default=False, description="Whether a fallback's answer may be kept as the first choice's."
    )

    @property
    def managed(self) -> bool:
        """Whether the daemon runs its Redis."""
        return self.redis == MANAGED


class RedisSection(ProcessSection):
    """The managed Redis, as the supervisor sees it. No profile writes it: it follows from the section ``cache``."""

    engine: Literal[EngineKind.REDIS] = EngineKind.REDIS
    memory: int
    """Bytes that answers may take."""

    @property
    def has_port(self) -> bool:
        """See ProcessSection: it answers on a Unix socket only."""
        return False

    @property
    def lists_models(self) -> bool:
        """See BackendSection: it has none."""
        return False


def redis_section(cache: Cache) -> RedisSection | None:
    """The Redis that has to run for this cache, if any."""
    return RedisSection(memory=cache.redis_memory, hang_timeout=None, drain=0.0) if cache.managed else None
