"""`aigw cache`: counters and tiers, one row per model, and one kept answer."""

from rich.text import Text

from aigw_cli.render.look import LABEL, Column, Look, Row, fitted, hanging, labelled
from aigw_cli.render.text import clean, counted, duration, lines_of, memory
from aigw_daemon.control.cache_schema import (
    CacheAnswer,
    CacheClear,
    CacheCleared,
    CacheCounters,
    CacheModel,
    CacheRedis,
    CacheStatistics,
)

COLUMNS = (
    Column("MODEL"),
    Column("HITS", right=True),
    Column("COALESCED", right=True),
    Column("MISSES", right=True),
    Column("HIT-RATE", right=True),
    Column("STORED", right=True),
    Column("SIZE", right=True),
    Column("TOKENS-SAVED", right=True),
    Column("TIME-SAVED", right=True),
)
_GIVE_WAY = ("SIZE", "STORED", "COALESCED", "TIME-SAVED", "TOKENS-SAVED")


def stats_lines(stats: CacheStatistics, look: Look, now: float) -> list[Text]:
    """The whole screen. ``now`` is seconds since the epoch."""
    total, tier, mode = stats.total, stats.memory, clean(stats.mode)
    held = [counted(tier.entries, "answer"), f"{memory(tier.bytes)} of {memory(tier.limit_bytes)}"]
    saved = [counted(total.saved_tokens, "token"), f"{duration(total.saved_seconds)} of engine time"]
    lines = [
        *labelled("cache", [mode] if mode == "off" else [mode, f"kept for {duration(stats.ttl_s)}"], look),
        *labelled("since", [f"{duration(now - stats.since)} ago", *_requests(total)], look),
        *labelled("saved", saved, look),
        *labelled("memory", held, look),
        *_redis(stats.redis, look),
    ]
    if not stats.models:
        return [*lines, Text(), Text("no requests yet", style="dim")]
    return [*lines, Text(), *_models(list(stats.models), look)]


def cleared_line(told: CacheCleared, asked: CacheClear) -> Text:
    """What came of it."""
    of = f" of {clean(asked.model)}" if asked.model is not None else ""
    older = f" older than {duration(asked.older_than)}" if asked.older_than is not None else ""
    if not told.removed:
        return Text(f"no answer{of}{older} was kept")
    return Text(f"removed {counted(told.removed, 'answer')}{of}{older}")


def answer_lines(answer: CacheAnswer, look: Look) -> list[Text]:
    """One kept answer, and what it says."""
    form = ["streamed"] if answer.stream else []
    lines = [
        *labelled("key", [clean(answer.key)], look),
        *labelled("model", [clean(answer.model)], look),
        *labelled("from", [f"{clean(answer.backend)}/{clean(answer.upstream_model)}"], look),
        *labelled("endpoint", [clean(answer.endpoint), *form], look),
        *labelled("kept", [f"{duration(answer.age_s)} ago", f"{duration(answer.ttl_left_s)} left"], look),
        *labelled("size", _size(answer), look),
    ]
    text = [line for part in lines_of(answer.text) for line in hanging(part, look.width, indent="  ") or [Text()]]
    return [*lines, Text(), *text] if text else lines


def _size(answer: CacheAnswer) -> list[str]:
    tokens = [
        f"{count} {kind} tokens"
        for kind, count in (("prompt", answer.prompt_tokens), ("completion", answer.completion_tokens))
        if count is not None
    ]
    finish = [clean(answer.finish_reason)] if answer.finish_reason else []
    return [memory(answer.bytes), *tokens, *finish, f"took {duration(answer.duration_s)}"]


def _redis(redis: CacheRedis | None, look: Look) -> list[Text]:
    if redis is None:
        return labelled("redis", ["none"], look)
    word, glyph, style = ("connected", "●", "green") if redis.connected else ("not connected", "✗", "yellow")
    line = Text(word if look.plain else f"{glyph} {word}", style=style)
    facts = [clean(redis.where)]
    if redis.entries is not None:
        facts.append(counted(redis.entries, "answer"))
    if redis.bytes is not None:
        facts.append(memory(redis.bytes) + (f" of {memory(redis.limit_bytes)}" if redis.limit_bytes else ""))
    if redis.unanswered:
        facts.append(f"{counted(redis.unanswered, 'lookup')} unanswered")
    if redis.unstored:
        facts.append(f"{counted(redis.unstored, 'answer')} not stored")
    lines = labelled("redis", [line, *facts], look)
    return lines + (hanging(redis.why, look.width, indent=" " * LABEL, style=style) if redis.why else [])


def _models(models: list[CacheModel], look: Look) -> list[Text]:
    rows = [_row(model) for model in models]
    heading, body = fitted(COLUMNS, _GIVE_WAY, rows, look, _fact)
    return [heading, *(line for row in body for line in row)]


def _fact(title: str, value: str) -> str:
    return f"{value} {title.lower().replace('-', ' ')}"


def _row(model: CacheModel) -> Row:
    cells = {
        "MODEL": clean(model.model),
        "HITS": str(model.hits),
        "COALESCED": str(model.coalesced),
        "MISSES": str(model.misses),
        "HIT-RATE": _percent(model.hit_rate),
        "STORED": str(model.stored),
        "SIZE": memory(model.stored_bytes),
        "TOKENS-SAVED": str(model.saved_tokens),
        "TIME-SAVED": duration(model.saved_seconds),
    }
    return {title: Text(value) for title, value in cells.items()}


def _requests(total: CacheCounters) -> list[str]:
    count = total.hits + total.coalesced + total.misses
    share = [f"{_percent(total.hit_rate)} served from cache"] if count else []
    return [counted(count, "request"), *share]


def _percent(rate: float | None) -> str:
    return "-" if rate is None else f"{100 * rate:.0f}%"
